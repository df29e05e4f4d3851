"""What the zygote loads before it forks, because a confined worker cannot read files: modules and time zones."""

from __future__ import annotations

import importlib
import io
import socket
import sys
import threading
import zoneinfo
from collections.abc import Mapping
from typing import Any, NoReturn
from zoneinfo import _common, _tzpath  # where the standard library itself looks up zones

NO_THREADS = "a plugin has no threads (so no asyncio.to_thread and no executors): use async code, or plain calls"
NO_NETWORK = "a plugin has no network, and resolves no names: use context.api.fetch"


class Allowed:
    """The modules that a plugin may import besides its own. Set once, in the zygote."""

    names: frozenset[str] = frozenset()
    forgotten: tuple[str, ...] = ()
    """Loaded modules that a plugin may not find. The zygote lists them, because a walk over all modules costs a worker
    pages."""
    kept: tuple[object, ...] = ()
    """References to the same modules: a module that died in each worker wrote to the pages that it shares, 0.14 MB of
    them."""
    loaded: frozenset[str] = frozenset()
    """All modules that the zygote has loaded: what a plugin adds to ``sys.modules`` is its own."""
    withheld: Mapping[str, str] = {}
    """Why a module of the standard library is kept from plugins."""


def preload(boot: dict[str, Any]) -> None:
    """Loads ``boot["preload"]`` (each module must exist), ``boot["hidden"]`` (if this Python has it) and every zone,
    and keeps ``boot["withheld"]``, the reasons.

    Raises ImportError with the name of a missing module.
    """
    for name in boot["preload"]:
        importlib.import_module(name)
    for name in boot["hidden"]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    Allowed.names = frozenset(boot["preload"]) | frozenset(
        name.rpartition(".")[0] for name in boot["preload"] if "." in name) | frozenset(boot["hidden"])
    refused = tuple(boot["refused"])
    Allowed.forgotten = tuple(name for name in sys.modules if name.startswith(refused) and any(
        name == top or name.startswith(f"{top}.") for top in refused))
    Allowed.kept = tuple(sys.modules[name] for name in Allowed.forgotten)
    Allowed.withheld = boot["withheld"]
    for name in ("distributions", "no_ssl"):
        importlib.import_module(f"workers.python.{name}")
    Allowed.loaded = frozenset(sys.modules)
    _zones_from_memory(_read_zones())
    _no_threads()


def _no_threads() -> None:
    """Explains what the jail's refusal of clone means; otherwise there would only be ``RuntimeError: can't start new
    thread``."""

    def start(_thread: threading.Thread) -> NoReturn:
        raise RuntimeError(NO_THREADS)

    def getaddrinfo(*_arguments: Any, **_named: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_FAIL, NO_NETWORK)

    threading.Thread.start = start  # type: ignore[assignment,method-assign]  # no thread is ever started here
    socket.getaddrinfo = getaddrinfo


def _read_zones() -> dict[str, bytes]:
    """Every zone of this machine, or of the ``tzdata`` package if it has none: about a megabyte, shared by all."""
    same: dict[bytes, bytes] = {}
    zones: dict[str, bytes] = {}
    for key in sorted(zoneinfo.available_timezones()):
        path = _tzpath.find_tzfile(key)
        try:
            if path is not None:
                with open(path, "rb") as file:
                    data = file.read()
            else:
                with _common.load_tzdata(key) as file:
                    data = file.read()
        except (OSError, zoneinfo.ZoneInfoNotFoundError):
            continue
        zones[key] = same.setdefault(data, data)
    return zones


def _zones_from_memory(zones: dict[str, bytes]) -> None:
    def load_tzdata(key: str) -> io.BytesIO:
        try:
            return io.BytesIO(zones[key])
        except KeyError:
            raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}") from None

    zoneinfo.reset_tzpath(to=())  # no file is searched for any more; the next line is the last resort of both lookups
    _common.load_tzdata = load_tzdata  # type: ignore[assignment]  # a BytesIO serves as the file
    names = frozenset(zones)
    zoneinfo.available_timezones = lambda: set(names)


def forget() -> None:
    """Drops modules that the worker's own code needed and a plugin may not find. This is not a wall; the jail is."""
    for name in Allowed.forgotten:
        sys.modules.pop(name, None)

