"""One worker that a debugger may attach to. It is not confined: the plugin's code may do whatever its author may.

Everything else is as in any worker: the messages, the loading from memory, the imports that are refused, the checks of
results. The debugger's own threads and its late imports are let through.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

import msgspec

from workers import wire
from workers.jail import Jail
from workers.python import preload, runtime
from workers.python.imports import text_of
from workers.runtime import child
from workers.runtime.interface import Host, Language, Languages

HOST = "127.0.0.1"
RETRY_SECONDS = 0.2
"""The worker before this one may still have the port."""


class Debugged(runtime.Python):
    """The runtime of Python, whose code has the names of the author's own files: breakpoints are set there."""

    folder = ""

    def compiled(self, message: wire.Load) -> Mapping[str, CodeType]:
        """Every module of the bundle that is Python at all; what is not fails when it is imported, as always."""
        found = {}
        for path, body in message.files.items():
            if path.endswith(".py"):
                try:
                    found[path] = compile(text_of(body), os.path.join(self.folder, path), "exec", dont_inherit=True)
                except (SyntaxError, ValueError):
                    continue
        return found


class DebuggersImports(importlib.abc.MetaPathFinder):
    """Lets the debugger import what it needs after the plugin was loaded, when everything else is refused."""

    def __init__(self, folder: str, path: Sequence[str]) -> None:
        self._folder = folder
        loaders = ((importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
                   (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES))
        self._finders = {entry: importlib.machinery.FileFinder(entry, *loaders) for entry in path}
        self._loaders = loaders

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """None unless the debugger's own code asks."""
        if not self._is_asked_by_the_debugger():
            return None
        for entry in self._finders if path is None else path:
            if entry not in self._finders:
                self._finders[entry] = importlib.machinery.FileFinder(entry, *self._loaders)
            if (spec := self._finders[entry].find_spec(fullname)) is not None:
                return spec
        return None

    def _is_asked_by_the_debugger(self) -> bool:
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back  # type: ignore[assignment]  # the loop ends at None
        return frame is not None and frame.f_code.co_filename.startswith(self._folder)


def main() -> None:
    """Serves as one worker. ``start.DebugZygote`` gives the arguments: three descriptors (what the zygote was
    started with, the link, the marks pipe) and the zygote's pid."""
    number, link, marks, zygote = map(int, sys.argv[1:5])
    with os.fdopen(number, "rb") as file:
        file.seek(0)
        boot: dict[str, Any] = msgspec.msgpack.decode(file.read())
    for fd in (link, marks):
        os.set_inheritable(fd, False)
    import debugpy

    debugger = DebuggersImports(os.path.dirname(os.path.abspath(debugpy.__file__)), list(boot["path"]))
    start, resolve = threading.Thread.start, socket.getaddrinfo
    preload.preload(boot)
    threading.Thread.start, socket.getaddrinfo = start, resolve  # type: ignore[method-assign]  # the debugger's, too
    Debugged.folder = boot["folder"]
    Languages.known["python"] = Language((".py",), _made(debugger), "")
    if not _listens(boot["port"]):
        threading.Thread(target=_listen, args=(boot["port"],), daemon=True).start()
    child.run(Jail(boot["jail"], zygote), {}, (link, marks))


def _made(debugger: DebuggersImports) -> Any:
    def make(host: Host) -> Debugged:
        made = Debugged(host)
        load = made.load

        def load_and_let_in(message: wire.Load) -> Any:
            declared = load(message)
            sys.meta_path.insert(0, debugger)
            return declared

        made.load = load_and_let_in  # type: ignore[method-assign]  # of this one object
        return made

    return make


def _listens(port: int) -> bool:
    """Has the debugger listen. False if the port is taken."""
    import debugpy

    try:
        debugpy.listen((HOST, port))
    except RuntimeError:
        return False
    return True


def _listen(port: int) -> None:
    """Waits until the port is free, and listens there."""
    while not _listens(port):
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main()
