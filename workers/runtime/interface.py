"""What a language must provide so that a worker can run its plugins, and what the worker provides for the language.

Everything else is the same for every language: the link, the marks, deadlines, the ids of API calls, output, the size
of results (``serve``). A language is a package beside this one that has a module ``runtime`` with the functions
``prepare`` and ``make``, and a row in ``apex_exec.executor.processes.runtimes``.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from workers import wire
from workers.runtime.effects import Effects
from workers.runtime.link import Link


class Unavailable(Exception):
    """This machine cannot run the language; the message says why, for the operator."""


class LoadError(Exception):
    """The bundle is not a plugin that can be served; the message says what is missing."""


def check_files(message: wire.Load) -> None:
    """Raises LoadError if a file is not the one that was hashed at installation, or if there is no entry point."""
    for path, digest in message.sha256.items():
        if hashlib.sha256(message.files[path]).hexdigest() != digest:
            raise LoadError(f"{path} differs from what was hashed at installation")
    if message.entrypoint not in message.files:
        raise LoadError(f"the entry point {message.entrypoint!r} is not in the bundle")


class BadPayload(Exception):
    """The payload cannot be decoded, so no code of the plugin has run."""


class Thrown(Exception):
    """Plugin code in another language than Python threw something that its hook, or its module, did not catch.

    ``name`` is the error's class, ``trace`` the plugin's own frames. ``api`` is (code, method, retry_after_ms) if it is
    an error of the platform's API. ``memory`` says that there was no memory left.
    """

    def __init__(self, name: str, text: str, trace: str = "", *, api: tuple[str, str, int] = ("", "", 0),
                 memory: bool = False) -> None:
        super().__init__(text)
        self.name = name
        self.text = text
        self.trace = trace
        self.api = api
        self.memory = memory


class Declared(NamedTuple):
    """What a plugin's code declares."""

    id: str
    version: str
    permissions: list[str]
    hooks: list[str]
    uses_loop: bool


class Host(Protocol):
    """The worker, as a runtime sees it."""

    seq: int
    """The call whose code runs; -1 between calls, or between the steps of calls that run at once."""
    current: Callable[[], int]
    """Returns the call whose code runs: ``seq``, unless the runtime of a concurrent worker has replaced this function.
    It names the call of a line of output, and the call whose code PROBE_SIGNAL has interrupted."""
    api_id: int
    """The number of the latest API call on this link."""
    effects: Effects
    """What the calls have asked the platform to do and no message has carried to the supervisor yet."""
    send: Callable[[Any], None]
    """Writes one message in full; before an API call, the effects that its hook has made so far."""
    next: Callable[[], Any]
    """Returns the next message; None at the link's end. Blocks."""
    within: Callable[[float], Any]
    """Returns the next message if it arrives within that many milliseconds, else None. Ends the process at the link's
    end."""
    put_back: Callable[[deque[Any]], None]
    """Puts messages in front of those that have arrived since, so that a call that waits keeps its turn."""
    line: Callable[[str, str], None]
    """Sends one line of the plugin's log, or drops it if the call has sent too many: ``(level, text)``."""
    has_folder: bool
    """Whether a run of tests has a temporary folder."""
    link: Link
    """The link itself, for a run of tests and for concurrent calls."""

    def begin(self, call: wire.Call) -> bool:
        """Counts a call as started. Returns whether it is to be run; if not, it has been answered. ``Runtime.serve``
        calls this and the three methods below."""

    def answer(self, seq: int, value: Any, cpu_ns: int) -> None:
        """Answers a call with what its hook returned, whatever that is."""

    def failed(self, seq: int, error: BaseException, cpu_ns: int) -> None:
        """Answers a call with what its hook raised, or with what is wrong with its payload."""

    def ended(self, seq: int, cpu_ns: int) -> None:
        """Answers a call that was cancelled and has ended."""


class Runtime(Protocol):
    """One language in one worker."""

    run: Callable[[wire.Call], Any]
    """Runs one hook and returns its value: plain data, bytes, aware datetimes. Raises NotAValue, BadPayload, Thrown,
    MemoryError, or (Python alone) whatever the hook raises."""
    after: Callable[[], None] | None
    """Clears what the call left behind, once its answer has been written; None if there is never anything to clear."""
    serve: Callable[[], int] | None
    """Serves the calls of a concurrent worker until the link ends, and returns the process's exit status; None if the
    language always runs one call after another."""

    def load(self, message: wire.Load) -> Declared:
        """Loads the plugin. Raises LoadError, Thrown, or (Python alone) whatever the plugin's own code raises."""

    def test(self, message: wire.Load) -> int:
        """Runs the bundle's tests and sends their result. Returns the process's exit status."""


class Language(NamedTuple):
    """One language as the zygote knows it. ``unavailable`` is why it cannot be run here, or ""."""

    suffixes: tuple[str, ...]
    make: Callable[[Host], Runtime]
    unavailable: str


class Languages:
    """The languages of this zygote. Filled once, before any worker is forked."""

    known: dict[str, Language] = {}

    @classmethod
    def of(cls, entrypoint: str) -> Language:
        """Returns the language of the file, by its suffix. Raises LoadError if there is none here."""
        for name, language in cls.known.items():
            if entrypoint.endswith(language.suffixes):
                if language.unavailable:
                    raise LoadError(f"{name} is not available here: {language.unavailable}")
                return language
        raise LoadError("no language of this daemon has the suffix of the entry point")
