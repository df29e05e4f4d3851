"""How plugin code imports: its own modules from memory, allowed modules from the zygote; anything else is an error with
its reason.

This keeps order and is not a wall: hostile code finds whatever is loaded. The jail limits what it can do with it.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import io
import linecache
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable, TraversableResources
from types import CodeType, ModuleType
from typing import Any

from workers.python.preload import Allowed

_import = builtins.__import__
_BUILTINS: dict[str, Any] = dict(vars(builtins))


def text_of(source: bytes) -> str:
    """A module's text. ``importlib``'s own way, which loads the tokenizer, is used only if a line names an encoding."""
    if b"coding" in source[:512] or b"\r" in source:
        return importlib.util.decode_source(source)
    return source.decode("utf-8-sig")


class Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader of one bundle's files. Modules are at the bundle's root, or beside the entry point."""

    def __init__(self, plugin: str, files: Mapping[str, bytes], entrypoint: str,
                 compiled: Mapping[str, CodeType] | None = None) -> None:
        self._plugin = plugin
        self._files = files
        self._compiled = compiled or {}
        folder = posixpath.dirname(entrypoint)
        self._roots = ("", f"{folder}/") if folder else ("",)
        self._folders = {name[: i + 1] for name in files for i, char in enumerate(name) if char == "/"}
        self.own = {name[len(root):].split("/", 1)[0].removesuffix(".py")
                    for root in self._roots for name in files if name.startswith(root)}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """The bundle's module, package or namespace package of that name; None if it has none."""
        base = fullname.replace(".", "/")
        for root in self._roots:
            for name, package in ((f"{root}{base}/__init__.py", True), (f"{root}{base}.py", False)):
                if name in self._files:
                    spec = importlib.util.spec_from_loader(fullname, self, origin=f"{self._plugin}/{name}",
                                                           is_package=package)
                    assert spec is not None
                    spec.loader_state = name
                    if package:
                        spec.submodule_search_locations = [f"{self._plugin}/{root}{base}"]
                    return spec
            if f"{root}{base}/" in self._folders:
                spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
                spec.submodule_search_locations = [f"{self._plugin}/{root}{base}"]
                return spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's file, if it has one."""
        spec = module.__spec__
        assert spec is not None
        if spec.loader_state is not None:
            module.__file__ = spec.origin
            self.run(spec.loader_state, module.__dict__)

    def run(self, path: str, namespace: dict[str, Any]) -> None:
        """Executes one file of the bundle; tracebacks show its lines under ``<plugin>/<path>``."""
        name = f"{self._plugin}/{path}"
        text = text_of(self._files[path])
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        namespace["__builtins__"] = self._builtins()
        exec(self._compiled.get(path) or compile(text, name, "exec", dont_inherit=True), namespace)

    def _builtins(self) -> dict[str, Any]:
        """The interpreter's own builtins with our ``__import__``: one map for all modules, made before the fork.

        A copy in the worker would touch, and so unshare, the page of every object in it.
        """
        _BUILTINS["__import__"] = self._gated
        return _BUILTINS

    def _gated(self, name: str, globals: Mapping[str, Any] | None = None, locals: Mapping[str, Any] | None = None,
               fromlist: Sequence[str] = (), level: int = 0) -> ModuleType:
        if level == 0 and name not in Allowed.names and name.partition(".")[0] not in self.own:
            raise ModuleNotFoundError(why_not(name), name=name)
        return _import(name, globals, locals, fromlist, level)

    def get_source(self, fullname: str) -> str | None:
        """The text of a module, for ``inspect`` and ``pdb``-like tools."""
        spec = self.find_spec(fullname)
        if spec is None or spec.loader_state is None:
            return None
        return importlib.util.decode_source(self._files[spec.loader_state])

    def is_package(self, fullname: str) -> bool:
        """Whether the name is a folder. Raises ImportError if the module does not exist."""
        spec = self.find_spec(fullname)
        if spec is None:
            raise ImportError(why_not(fullname), name=fullname)
        return spec.submodule_search_locations is not None

    def get_data(self, path: str) -> bytes:
        """A data file by ``<plugin>/<path>``, for ``pkgutil.get_data``. Raises OSError."""
        try:
            return self._files[posixpath.normpath(path).removeprefix(f"{self._plugin}/")]
        except KeyError:
            raise FileNotFoundError(f"{path} is not in the bundle") from None

    def get_resource_reader(self, fullname: str) -> _Resources:
        """Serves ``importlib.resources.files(package)``."""
        spec = self.find_spec(fullname)
        assert spec is not None and spec.submodule_search_locations
        folder = spec.submodule_search_locations[0].removeprefix(f"{self._plugin}/")
        return _Resources(Entry(self._files, folder))


class _Resources(TraversableResources):
    def __init__(self, root: Entry) -> None:
        self._root = root

    def files(self) -> Entry:
        return self._root


class Entry(Traversable):
    """A file or folder of the bundle, in memory."""

    def __init__(self, files: Mapping[str, bytes], path: str) -> None:
        self._files = files
        self._path = path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self._path)

    def is_file(self) -> bool:
        """True for a file."""
        return self._path in self._files

    def is_dir(self) -> bool:
        """True for a folder that is not empty."""
        return any(name.startswith(f"{self._path}/") for name in self._files)

    def iterdir(self) -> Iterator[Entry]:
        """The folder's entries."""
        depth = len(self._path) + 1
        inside = {name[depth:].split("/", 1)[0] for name in self._files if name.startswith(f"{self._path}/")}
        return (Entry(self._files, f"{self._path}/{name}") for name in sorted(inside))

    def joinpath(self, *descendants: Any) -> Entry:
        """A path below this one."""
        return Entry(self._files, posixpath.normpath(posixpath.join(self._path, *map(str, descendants))))

    def __truediv__(self, child: Any) -> Entry:
        return self.joinpath(child)

    def read_bytes(self) -> bytes:
        """The file's bytes. Raises FileNotFoundError."""
        try:
            return self._files[self._path]
        except KeyError:
            raise FileNotFoundError(f"{self._path} is not in the bundle") from None

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The file's text. Raises FileNotFoundError, UnicodeDecodeError."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        """A stream over the file's bytes or text."""
        stream = io.BytesIO(self.read_bytes())
        return stream if "b" in mode else io.TextIOWrapper(stream, *arguments, **named)


class Gate(importlib.abc.MetaPathFinder):
    """Turns a module that nobody has found into a ModuleNotFoundError that names the reason. Finders that a library has
    appended (``six.moves`` has one) are asked first."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Raises ModuleNotFoundError; returns None for ``importlib.util.find_spec``, which only asks."""
        behind = sys.meta_path[sys.meta_path.index(self) + 1:] if self in sys.meta_path else ()
        for finder in behind:
            if hasattr(finder, "find_spec") and (spec := finder.find_spec(fullname, path, target)) is not None:
                return spec
        # the name of an import's frame inside the interpreter
        if sys._getframe(2).f_code.co_name != "_find_and_load_unlocked":
            return None
        raise ModuleNotFoundError(why_not(fullname), name=fullname)


def why_not(name: str) -> str:
    """Why ``name`` cannot be imported, and what to do."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return (f"{name} is not among the modules that plugins may import; "
                "the operator can add it with sandbox.extra_modules")
    return f"{name} is not in the bundle: put the (pure Python) package beside plugin.py (nothing is installed)"


def install(importer: Importer) -> None:
    """From now on, only ``importer`` and the modules that are already loaded answer imports."""
    sys.meta_path[:] = [importer, Gate()]
    sys.path_hooks.clear()
