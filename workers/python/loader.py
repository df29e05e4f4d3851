"""Loads a plugin from memory: our importer finds its modules, which never come from the file system."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import CodeType, ModuleType
from typing import Any

from workers.python.imports import Importer, install
from workers.python.preload import forget
from workers.runtime.interface import LoadError, check_files
from workers.sdk import Plugin
from workers.wire import Load


class Loaded:
    """The plugin's hooks and what its code declares."""

    def __init__(self, plugin_id: str, version: str, permissions: list[str],
                 hooks: dict[str, Callable[..., Any]], uses_loop: bool) -> None:
        self.id = plugin_id
        self.version = version
        self.permissions = permissions
        self.hooks = hooks
        self.uses_loop = uses_loop


def _short(value: object) -> str:
    """What was found, for a message. The value is the plugin's, so no method of its class is called."""
    return repr(value)[:100] if type(value) in (str, int, float, bool, type(None)) else f"a {type(value).__name__}"


def load(message: Load, compiled: Mapping[str, CodeType] | None = None) -> Loaded:
    """The plugin in ``message``. Raises LoadError, or whatever the plugin's own code raises.

    ``compiled``: path → the code that its file was already compiled to (for tests and debuggers).
    """
    check_files(message)
    importer = Importer(message.plugin, message.files, message.entrypoint, compiled)
    install(importer)
    forget()
    stem = message.entrypoint.rpartition("/")[2].removesuffix(".py")
    module = ModuleType(stem)
    module.__file__ = f"{importer.place.root}/{message.entrypoint}"
    sys.modules["plugin"] = module
    sys.modules.setdefault(stem, module)  # a module of the bundle may import the entry point
    importer.run(message.entrypoint, module.__dict__)
    found = getattr(module, "plugin", None)
    sources = [body for path, body in message.files.items() if path.endswith(".py")]
    uses_loop = any(b"asyncio" in source for source in sources)
    if isinstance(found, Plugin):
        parts: tuple[Any, ...] = (found.id, found.version, found.permissions, found.hooks)
    elif isinstance(found, dict):
        parts = (found.get("id"), found.get("version"), found.get("permissions", []), found.get("hooks"))
    else:
        raise LoadError(f"{message.entrypoint} defines no `plugin` (a workers.Plugin or a dict)")
    plugin_id, version, permissions, hooks = parts
    if plugin_id != message.plugin:
        raise LoadError(f"the code says that the plugin's id is {_short(plugin_id)}, the manifest {message.plugin!r}")
    if not isinstance(hooks, dict):
        raise LoadError(f"`hooks` is {_short(hooks)}, not a dict of functions by hook")
    for hook, function in hooks.items():
        if not callable(function):
            raise LoadError(f"the hook {_short(hook)} is {_short(function)}, not a function")
    return Loaded(str(plugin_id), str(version), [str(p) for p in permissions], hooks, uses_loop)
