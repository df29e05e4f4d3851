"""Runs a bundle's JavaScript tests in a worker: modules of the bundle, beside modules that play `node:test`.

What is not the bundle's comes with its files, under names that no file of a bundle can have: the sources have counters
already (the process that started the worker put them there), and a run that is to prove a statement has a trap in its
place. What is reported here is the word of the code that was tested; only the trap proves anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from workers import wire
from workers.runtime.failures import text_of, trace_of
from workers.runtime.interface import LoadError, Thrown

KIT, TRAP = "/kit/", "/trap"
FAILURE_CHARACTERS_MAX = 2000
NAME_CHARACTERS_MAX = 300
_TEST = re.compile(r"tests/(.*/)?([^/]*[.\-_]test|test|test-[^/]*)\.m?js")
"""As ``node --test`` finds them."""
_COUNTERS = re.compile(r"apex:counters/(\d{1,7})/(.*)", re.DOTALL)


class Tester(Protocol):
    """The runtime, as a run of tests sees it."""

    def tested(self, main: bytes, begins: Callable[[str], None]) -> dict[str, Any]:
        """Runs ``main`` and returns its report. Raises LoadError, Thrown."""


class Trap(msgspec.Struct, array_like=True):
    """A statement to be proven: its file calls ``word`` before it, which ends the process with ``status``."""

    path: str
    word: str
    status: int


class Kit:
    """The modules that no bundle has."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.sources = {path.removeprefix(KIT): files.pop(path) for path in list(files) if path.startswith(KIT)}
        self.trap = msgspec.msgpack.decode(files.pop(TRAP), type=Trap) if TRAP in files else None
        if self.trap is not None:
            word = self.trap.word
            self.sources[f"apex:{word}"] = (f"const t = globalThis.{word}; delete globalThis.{word}; "
                                            f"export {{ t as {word} }}").encode()

    def source(self, name: str) -> bytes | None:
        """The source of the module ``name``; None if it is none of these."""
        if match := _COUNTERS.fullmatch(name):
            path = msgspec.json.encode(match[2]).decode()
            return f'import {{ array }} from "apex:tests"; export const counters = array({path}, {match[1]})'.encode()
        return self.sources.get(name)


def run(runtime: Tester, message: wire.Load, host: Any) -> int:
    """Runs the tests and sends one Tested. Returns the process's exit status."""
    host.send(wire.Placed({}))
    if type(host.next()) is not wire.Ping:
        return 0
    try:
        found = runtime.tested(_main(message), lambda text: _begins(host, text))
        tested = wire.Tested(int(found["passed"]), int(found["failed"]), [str(text) for text in found["failures"]],
                             {str(path): [(int(number), 1) for number in hit] for path, hit in found["counts"].items()},
                             False)
    except (Thrown, LoadError) as error:
        said = (error.trace or f"{error.name}: {error.text}") if isinstance(error, Thrown) else str(error)
        tested = wire.Tested(0, 1, [said[:FAILURE_CHARACTERS_MAX]], {}, False)
    except Exception as error:  # noqa: BLE001 - a report that the tested code has bent
        tested = wire.Tested(0, 1, [f"{text_of(error)}\n{trace_of(error)}"[:FAILURE_CHARACTERS_MAX]], {}, False)
    host.send(tested)
    return 0


def _begins(host: Any, text: str) -> None:
    try:
        name, passed, failed = msgspec.json.decode(text, type=tuple[str, int, int])
        host.send(wire.Testing(name[-NAME_CHARACTERS_MAX:], passed, failed))
    except Exception:  # noqa: BLE001 - it only informs
        return


def _main(message: wire.Load) -> bytes:
    """A module that imports every test file in turn, and has a hook that returns the report."""
    names = [msgspec.json.encode(f"{message.plugin}/{path}").decode()
             for path in sorted(message.files) if _TEST.fullmatch(path)]
    lines = [f"await file({name}, () => import({name}));" for name in names]
    plugin, version = (msgspec.json.encode(text).decode() for text in (message.plugin, message.version))
    return "\n".join([
        'import { file, report } from "apex:tests";', *lines,
        f"export default {{ id: {plugin}, version: {version}, permissions: [], hooks: {{ report }} }};"]).encode()
