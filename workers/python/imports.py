"""How plugin code imports: its own modules and vendored packages from memory, allowed modules from the zygote; anything
else is an error with its reason.

This keeps order and is not a wall: hostile code finds whatever is loaded. The jail limits what it can do with it.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import TraversableResources
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from workers.python.bundle_files import BundleFiles
from workers.python.preload import Allowed

VENDOR = "vendor/"
"""The folder of packages that ``plugin add`` has put into the bundle. Own modules come first."""
FOR_LIBRARIES = frozenset(("select", "selectors", "signal", "ssl", "subprocess"))
"""Withheld modules that packages import beside what a plugin uses of them. What they do is refused by the jail."""
LOCK_NAME = "vendor.lock.json"
"""The file that says what is in ``vendor/``; the daemon has checked it."""
_import = builtins.__import__
_BUILTINS: dict[str, Any] = dict(vars(builtins))


def text_of(source: bytes) -> str:
    """A module's text. ``importlib``'s own way, which loads the tokenizer, is used only if a line names an encoding."""
    if b"coding" in source[:512] or b"\r" in source:
        return importlib.util.decode_source(source)
    return source.decode("utf-8-sig")


class Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader of one bundle's files. Modules are at the bundle's root, beside the entry point, in
    ``vendor/``, and in folders of the bundle that a library puts on ``sys.path`` or on a package's ``__path__``."""

    def __init__(self, plugin: str, files: Mapping[str, bytes], entrypoint: str,
                 compiled: Mapping[str, CodeType] | None = None) -> None:
        self._plugin = plugin
        self._files = files
        self._compiled = compiled or {}
        self.place = BundleFiles(plugin, files)
        self._below = f"{self.place.root}/"
        folder = posixpath.dirname(entrypoint)
        self._folders = {name[: i + 1] for name in files for i, char in enumerate(name) if char == "/"}
        self._roots = tuple(dict.fromkeys(
            ("", *((f"{folder}/",) if folder else ()), *((VENDOR,) if VENDOR in self._folders else ()))))
        self.paths = [f"{self._below}{root}".rstrip("/") for root in self._roots]
        self.own = {name[len(root):].split("/", 1)[0].removesuffix(".py")
                    for root in self._roots for name in files if name.startswith(root)}

    # ------------------------------------------------------------------ finding
    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """The bundle's module, package or namespace package of that name; None if it has none."""
        tail = fullname.rpartition(".")[2]
        portions = []
        for folder in self._roots_now() if path is None else self._inside(path):
            base = f"{folder}{tail}"
            for name, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
                if name in self._files:
                    spec = importlib.machinery.ModuleSpec(fullname, self, origin=self._below + name,
                                                          is_package=is_package)
                    spec.has_location, spec.loader_state = True, name
                    if is_package:
                        spec.submodule_search_locations = [self._below + base]
                    return spec
            if f"{base}/" in self._folders:
                portions.append(self._below + base)
        if not portions:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        spec.submodule_search_locations = portions
        return spec

    def _inside(self, paths: Iterable[str]) -> list[str]:
        """Which folders of the bundle ``paths`` name."""
        found = []
        for path in paths:
            if type(path) is str and path.startswith(self._below):
                found.append(f"{posixpath.normpath(path)[len(self._below):]}/")
            elif path == self.place.root:
                found.append("")
        return found

    def _roots_now(self) -> Iterable[str]:
        if sys.path == self.paths:
            return self._roots
        return dict.fromkeys((*self._roots, *self._inside(sys.path)))

    def spec_of(self, fullname: str) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module by its full name, loaded or not."""
        spec = getattr(sys.modules.get(fullname), "__spec__", None)
        if spec is not None and spec.loader is self:
            return spec  # type: ignore[no-any-return]  # it is ours
        parent = fullname.rpartition(".")[0]
        if not parent:
            return self.find_spec(fullname)
        above = self.spec_of(parent)
        return self.find_spec(fullname, above.submodule_search_locations) if above is not None else None

    def path_entry(self, path: str) -> PathEntry:
        """``sys.path_hooks``: what ``pkgutil.iter_modules`` asks. Raises ImportError for a folder elsewhere."""
        if folders := self._inside([path]):
            return PathEntry(self, path, folders[0])
        raise ImportError(f"{path} is not in the bundle", path=path)

    def names_in(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The modules directly in ``folder``, and whether each is a package."""
        for name in sorted(self.place.folders.get(folder.rstrip("/"), ())):
            if name.endswith(".py") and name != "__init__.py":
                yield name[:-3], False
            elif f"{folder}{name}/__init__.py" in self._files:
                yield name, True

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """``importlib.metadata`` of the packages in ``vendor/``."""
        from workers.python.distributions import distributions

        return distributions(self._files, self.place.root, getattr(context, "name", None))

    # ------------------------------------------------------------------ loading
    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's file, if it has one."""
        spec = module.__spec__
        assert spec is not None
        if spec.loader_state is not None:
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
        _BUILTINS["open"] = builtins.open
        return _BUILTINS

    def _gated(self, name: str, globals: Mapping[str, Any] | None = None, locals: Mapping[str, Any] | None = None,
               fromlist: Sequence[str] = (), level: int = 0) -> ModuleType:
        if level == 0 and name not in Allowed.names and name.partition(".")[0] not in self.own:
            if name in FOR_LIBRARIES and str((globals or {}).get("__file__")).startswith(f"{self._below}{VENDOR}"):
                return self._for_library(name, fromlist)
            if name in Allowed.loaded or not self._is_extended(name):
                raise ModuleNotFoundError(why_not(name), name=name)
        return _import(name, globals, locals, fromlist, level)

    @staticmethod
    def _for_library(name: str, fromlist: Sequence[str]) -> ModuleType:
        """A module that a vendored package may name and a plugin's own code may not."""
        if name != "ssl":
            return _import(name, None, None, fromlist)
        return importlib.import_module("workers.python.no_ssl")

    def _is_extended(self, name: str) -> bool:
        """Whether the plugin may have a module that is not a file of it at the usual places: one that it has made, or
        one that a finder or a folder of a library's has."""
        return name in sys.modules or len(sys.meta_path) > OUR_FINDERS or sys.path != self.paths

    # ------------------------------------------------------------------ what inspect, pkgutil and runpy ask of a loader
    def _path_of(self, fullname: str) -> str:
        """The file of a module, "" for a namespace package. Raises ImportError if there is no such module."""
        spec = self.spec_of(fullname)
        if spec is None:
            raise ImportError(why_not(fullname), name=fullname)
        return spec.loader_state or ""

    def get_source(self, fullname: str) -> str | None:
        """The text of a module, for ``inspect`` and ``pdb``-like tools."""
        spec = self.spec_of(fullname)
        if spec is None or spec.loader_state is None:
            return None
        return importlib.util.decode_source(self._files[spec.loader_state])

    def get_filename(self, fullname: str) -> str:
        """The path of a module's file. Raises ImportError."""
        return self._below + self._path_of(fullname)

    def is_package(self, fullname: str) -> bool:
        """Whether the name is a folder. Raises ImportError if the module does not exist."""
        path = self._path_of(fullname)
        return not path or path.endswith("/__init__.py")

    def get_data(self, path: str) -> bytes:
        """A data file by its path, for ``pkgutil.get_data``. Raises OSError."""
        path = posixpath.normpath(path)
        try:
            return self._files[path.removeprefix(self._below).removeprefix(f"{self._plugin}/")]
        except KeyError:
            raise FileNotFoundError(f"{path} is not in the bundle") from None

    def get_resource_reader(self, fullname: str) -> _Resources:
        """Serves ``importlib.resources.files(package)``."""
        spec = self.spec_of(fullname)
        assert spec is not None and spec.submodule_search_locations
        return _Resources(Path(spec.submodule_search_locations[0]))


class _Resources(TraversableResources):
    """A package's folder. It is a path as on any machine, since the bundle's files are found by path."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> Path:
        return self._root


class PathEntry:
    """One folder of the bundle that modules are looked for in: an entry of ``sys.path`` or of a ``__path__``."""

    def __init__(self, importer: Importer, path: str, folder: str) -> None:
        self._importer = importer
        self._path = path
        self._folder = folder

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """The module of that name in this folder."""
        return self._importer.find_spec(fullname, [self._path])

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """What ``pkgutil.iter_modules`` yields."""
        return ((prefix + name, is_package) for name, is_package in self._importer.names_in(self._folder))


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


OUR_FINDERS = 2
"""The importer and the gate; a library may add finders of its own."""


def why_not(name: str) -> str:
    """Why ``name`` cannot be imported, and what to do."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        reason = Allowed.withheld.get(name) or Allowed.withheld.get(top)
        return (f"{name} is not among the modules that plugins may import" + (f": {reason}" if reason else "")
                + "; the operator can add it with sandbox.extra_modules")
    return (f"{name} is not in the bundle: add the package that has it with `apex-exec plugin add`, or put the module "
            "beside plugin.py (nothing is installed)")


def install(importer: Importer) -> None:
    """From now on, only ``importer`` and the modules that are already loaded answer imports, and the bundle's files are
    found by path."""
    importer.place.mount()
    sys.meta_path[:] = [importer, Gate()]
    sys.path_hooks[:] = [importer.path_entry]
    sys.path[:] = importer.paths
