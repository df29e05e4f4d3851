"""A host that a driver drives, and the daemon that the cases play to it."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from apex_exec.common.short_folder import short_base
from apex_exec.conformance.cases import NotKept
from apex_exec.conformance.peers import RawDaemon
from apex_exec.conformance.plain_values import from_json, to_json

OUTCOME_SECONDS = 15.0
END_SECONDS = 5.0


class HostUnderTest:
    """One process of ``command`` for all cases; it is started again where it has ended. A context manager."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._folder = Path(tempfile.mkdtemp(prefix="apx", dir=short_base()))
        self.daemon = RawDaemon(self._folder / "s")
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self.daemon.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def case(self) -> contextlib.AbstractContextManager[HostUnderTest]:
        """For one case: a host that runs, beside a daemon that is there; what a case before has left is forgotten."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        with contextlib.suppress(NotKept):  # it has ended already, which the case will hear
            self.daemon.forget()
        return contextlib.nullcontext(self)

    def tell(self, *operations: dict[str, Any]) -> None:
        """Has the host begin ``operations`` together. Raises NotKept if it has ended."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ops": to_json(list(operations))}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise NotKept("the host has ended") from None

    def outcomes(self) -> list[dict[str, Any]]:
        """What came of the operations that ``tell`` began last. Raises NotKept if the host does not say."""
        if not self.daemon.work(lambda: not self._lines.empty(), OUTCOME_SECONDS):
            self._end()  # what it says later belongs to no case
            raise NotKept(f"the host said nothing within {OUTCOME_SECONDS:g} s")
        found: list[dict[str, Any]] = from_json(json.loads(self._lines.get()))["done"]
        return found

    def outcome(self) -> dict[str, Any]:
        """What came of the one operation that ``tell`` began last."""
        said, = self.outcomes()
        return said

    def _start(self) -> None:
        self._lines = queue.SimpleQueue()
        self._process = subprocess.Popen([*self._command, f"ipc://{self.daemon.path}"], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self.daemon.has_ended = lambda: self._process is None or self._process.poll() is not None
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
