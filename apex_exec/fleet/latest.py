"""The latest answer of something that may block: a database, a DNS server, a folder of another machine.

The process ``fleet`` looks at several of these in turn, and one that hangs must not keep it from what the others say:
a key that is revoked while the DNS server of one node is down is refused within a second all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Asks ``ask`` in a thread of its own, which it starts again only once it has ended. ``value`` is what was answered
    last, and ``known`` before that. ``problem`` says why it is not the newest, "" if it is: one line."""

    def __init__(self, what: str, ask: Callable[[], T], known: T) -> None:
        self.value = known
        self.problem = ""
        self._what = what
        self._ask = ask
        self._ended = threading.Event()
        self._ended.set()

    def begin(self) -> None:
        """Asks, unless the last question is still open."""
        if self._ended.is_set():
            self._ended.clear()
            threading.Thread(target=self._run, name=f"fleet-{self._what[:40]}", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Blocks until the question that was begun is answered, for ``seconds`` at most."""
        if not self._ended.wait(max(0.0, seconds)):
            self.problem = f"{self._what} cannot be read: there is no answer yet"

    def _run(self) -> None:
        try:
            self.value = self._ask()
            self.problem = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, what was known holds on
            line = (str(error).splitlines() or [""])[0] or type(error).__name__
            self.problem = f"{self._what} cannot be read: {line[:200]}"
        finally:
            self._ended.set()
