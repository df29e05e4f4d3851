"""Loads a plugin from memory: its own modules by an importer of ours, never from the file system."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from workers.sdk import Plugin
from workers.wire import Load


class LoadError(Exception):
    """The bundle is not a plugin that can be served; the message says what is missing."""


class Loaded:
    """The plugin's hooks and what its code declares."""

    def __init__(self, plugin_id: str, version: str, permissions: list[str],
                 hooks: dict[str, Callable[..., Any]], uses_loop: bool) -> None:
        self.id = plugin_id
        self.version = version
        self.permissions = permissions
        self.hooks = hooks
        self.uses_loop = uses_loop


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, plugin: str, files: dict[str, bytes]) -> None:
        self._plugin = plugin
        self._files = files

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        base = fullname.replace(".", "/")
        for name, package in ((f"{base}.py", False), (f"{base}/__init__.py", True)):
            if name in self._files:
                return importlib.util.spec_from_loader(fullname, self, origin=name, is_package=package)
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None and module.__spec__.origin is not None
        run_source(self._plugin, module.__spec__.origin, self._files[module.__spec__.origin], module.__dict__)


def run_source(plugin: str, path: str, source: bytes, namespace: dict[str, Any]) -> None:
    """Executes one file of the bundle; its tracebacks show its lines under ``<plugin>/<path>``."""
    name = f"{plugin}/{path}"
    text = source.decode("utf-8")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec", dont_inherit=True), namespace)


def load(message: Load) -> Loaded:
    """The plugin in ``message``. Raises LoadError, or whatever the plugin's own code raises."""
    for path, digest in message.sha256.items():
        if hashlib.sha256(message.files[path]).hexdigest() != digest:
            raise LoadError(f"{path} is not what was hashed at installation")
    if message.entrypoint not in message.files:
        raise LoadError(f"the entry point {message.entrypoint!r} is not in the bundle")
    sys.meta_path.insert(0, _Importer(message.plugin, message.files))
    module = ModuleType("plugin")
    sys.modules["plugin"] = module
    run_source(message.plugin, message.entrypoint, message.files[message.entrypoint], module.__dict__)
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
    if plugin_id != message.plugin or not isinstance(hooks, dict) or not all(map(callable, hooks.values())):
        raise LoadError("the plugin's id is not the manifest's, or its hooks are not functions")
    return Loaded(str(plugin_id), str(version), [str(p) for p in permissions], hooks, uses_loop)
