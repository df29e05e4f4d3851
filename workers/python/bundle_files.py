"""A bundle's own files by path, from memory: ``open(Path(__file__).parent / "data.json")`` in a process without files.

The bundle lies below ``/plugins/<id>``, which is also the working folder. What asks the kernel for a path in Python
(``open``, ``os.stat``, ``os.listdir`` …) is asked here first; every other path goes on to the kernel, which refuses it.
This is a convenience for libraries and no wall: the jail is the same with and without it.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import posixpath
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROOT = "/plugins"
"""The folder that all bundles seem to lie in."""
NO_FILES = ("a plugin has no files but its bundle's, which importlib.resources.files(__package__) finds, or "
            "Path(__file__).parent")
READ_ONLY = "a bundle's files cannot be changed; keep data with context.api.storage"
_KEPT = (("glob", "_StringGlobber", "lstat", "lstat"), ("glob", "_StringGlobber", "scandir", "scandir"),
         ("tokenize", "", "_builtin_open", "open"), ("bz2", "", "_builtin_open", "open"),
         ("tarfile", "", "bltn_open", "open"))
"""Where the standard library keeps a function that ``mount`` replaces since it was imported before: (module, class,
name, function). ``glob`` does from CPython 3.13 on."""
_UNKNOWN = (errno.EPERM, errno.EACCES, errno.ENOSYS)
"""How the jail refuses a path."""
_DIR_MODE, _FILE_MODE = stat.S_IFDIR | 0o555, stat.S_IFREG | 0o444


class _Bytes(io.BytesIO):
    """A file of the bundle that is open."""

    name: Any = ""
    mode = "rb"


class _Entry:
    """What ``os.scandir`` yields."""

    def __init__(self, folder: str, name: str, is_folder: bool, size: int) -> None:
        self.name = name
        self.path = posixpath.join(folder, name)
        self._is_folder = is_folder
        self._size = size

    def __fspath__(self) -> str:
        return self.path

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True for a folder."""
        return self._is_folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """True for a file."""
        return not self._is_folder

    def is_symlink(self) -> bool:
        """A bundle has no links."""
        return False

    def is_junction(self) -> bool:
        """Nor junctions."""
        return False

    def inode(self) -> int:
        """There are none."""
        return 0

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Kind and size."""
        return _stat_result(self._is_folder, self._size)


class _Scan:
    """``os.scandir``'s iterator, which is a context manager too."""

    def __init__(self, entries: Iterator[_Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries

    def __next__(self) -> _Entry:
        return next(self._entries)

    def __enter__(self) -> _Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""


def _stat_result(is_folder: bool, size: int) -> os.stat_result:
    return os.stat_result((_DIR_MODE if is_folder else _FILE_MODE, 0, 0, 1, 0, 0, size, 0, 0, 0))


class BundleFiles:
    """The files of one bundle as a folder. ``root`` is its path."""

    def __init__(self, plugin: str, files: Mapping[str, bytes]) -> None:
        self.root = f"{ROOT}/{plugin}"
        self._files = files
        self._folders: dict[str, set[str]] | None = None
        self._is_elsewhere = False
        """Whether the process has left the bundle for a folder of the machine, as a test may that has a folder."""

    @property
    def folders(self) -> dict[str, set[str]]:
        """Folder → the names in it. Made when it is first asked for: most plugins ask for no folder."""
        if self._folders is None:
            made: dict[str, set[str]] = {"": set()}
            for path in self._files:
                folder, _, name = path.rpartition("/")
                while name not in made.setdefault(folder, set()):
                    made[folder].add(name)
                    folder, _, name = folder.rpartition("/")
                    if not name:
                        break
            self._folders = made
        return self._folders

    def within(self, path: Any) -> str | None:
        """The path inside the bundle; None for a path elsewhere, a descriptor, or what is not a path."""
        if type(path) is not str:
            if isinstance(path, int):
                return None
            try:
                path = os.fsdecode(path)
            except (TypeError, ValueError):
                return None
        if not path or "\0" in path:
            return None
        if path[0] != "/":
            if self._is_elsewhere:
                return None
            inside = posixpath.normpath(path)
            return "" if inside == "." else inside if inside in self._files or inside in self.folders else None
        path = posixpath.normpath(path)
        if path == self.root:
            return ""
        return path[len(self.root) + 1:] if path.startswith(f"{self.root}/") else None

    def mount(self) -> None:
        """From now on, this process finds the bundle's files by path."""
        self._replace(builtins, "open", self._opener(builtins.open))
        self._replace(io, "open", builtins.open)
        self._replace(os, "stat", self._asks(os.stat, self._stat))
        self._replace(os, "lstat", self._asks(os.lstat, self._stat))
        self._replace(os, "listdir", self._asks(os.listdir, lambda path: sorted(self._folder(path))))
        self._replace(os, "scandir", self._asks(os.scandir, self._scan))
        self._replace(os, "access", self._access(os.access))
        self._replace(os, "getcwd", self._where(os.getcwd))
        self._replace(os, "chdir", self._goes(os.chdir))
        self._replace(posixpath, "expanduser", self._expanded)
        for module, holder, name, function in _KEPT:
            keeper = getattr(sys.modules.get(module), holder, None) if holder else sys.modules.get(module)
            if keeper is not None:
                ours = builtins.open if function == "open" else getattr(os, function)
                self._replace(keeper, name, staticmethod(ours) if holder else ours)

    @staticmethod
    def _replace(holder: Any, name: str, function: Any) -> None:
        setattr(holder, name, function)

    def _expanded(self, path: Any) -> Any:
        """``os.path.expanduser``: the bundle is the home, so that ``Path.home()`` names a folder as on any machine."""
        path = os.fspath(path)
        if isinstance(path, bytes):
            return os.fsencode(self._expanded(os.fsdecode(path)))
        return self.root + path[1:] if path[:1] == "~" and path[1:2] in ("", "/") else path

    # ------------------------------------------------------------------ what the bundle answers
    def _lost(self, number: int, inside: str) -> OSError:
        return OSError(number, os.strerror(number), posixpath.join(self.root, inside))

    def _stat(self, inside: str) -> os.stat_result:
        body = self._files.get(inside)
        if body is not None:
            return _stat_result(False, len(body))
        if inside in self.folders:
            return _stat_result(True, 0)
        raise self._lost(errno.ENOENT, inside)

    def _folder(self, inside: str) -> set[str]:
        try:
            return self.folders[inside]
        except KeyError:
            raise self._lost(errno.ENOTDIR if inside in self._files else errno.ENOENT, inside) from None

    def _scan(self, inside: str) -> _Scan:
        place = posixpath.join(self.root, inside) if inside else self.root
        names = ((name, posixpath.join(inside, name)) for name in sorted(self._folder(inside)))
        return _Scan(_Entry(place, name, path not in self._files, len(self._files.get(path, b"")))
                     for name, path in names)

    # ------------------------------------------------------------------ in the place of the interpreter's functions
    def _asks(self, kernel: Callable[..., Any], answer: Callable[[str], Any]) -> Callable[..., Any]:
        def ask(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            inside = self.within(path)
            if inside is not None:
                return answer(inside)
            try:
                return kernel(path, *arguments, **named)
            except OSError as error:
                if error.errno in _UNKNOWN and not isinstance(path, int):  # it is not there, for code that asks
                    raise FileNotFoundError(errno.ENOENT, NO_FILES, path) from None
                raise

        return ask

    def _access(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def access(path: Any, mode: int, **named: Any) -> Any:
            inside = self.within(path)
            if inside is None:
                return kernel(path, mode, **named)
            return not mode & os.W_OK and (inside in self._files or inside in self.folders)

        return access

    def _where(self, kernel: Callable[[], str]) -> Callable[[], str]:
        def getcwd() -> str:
            return kernel() if self._is_elsewhere else self.root

        return getcwd

    def _goes(self, kernel: Callable[[Any], None]) -> Callable[[Any], None]:
        def chdir(path: Any) -> None:
            if self.within(path) == "":
                self._is_elsewhere = False
            else:
                kernel(path)
                self._is_elsewhere = True

        return chdir

    def _opener(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def open_(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
                  errors: str | None = None, newline: str | None = None, closefd: bool = True,
                  opener: Callable[[str, int], int] | None = None) -> Any:
            inside = self.within(file) if opener is None else None
            if inside is None:
                try:
                    return kernel(file, mode, buffering, encoding, errors, newline, closefd, opener)
                except OSError as error:
                    if error.errno in _UNKNOWN and not isinstance(file, int):
                        raise PermissionError(error.errno, NO_FILES, file) from None
                    raise
            return self._open(inside, file, mode, encoding, errors, newline)

        return open_

    def _open(self, inside: str, file: Any, mode: str, encoding: str | None, errors: str | None,
              newline: str | None) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, READ_ONLY, file)
        body = self._files.get(inside)
        if body is None:
            raise self._lost(errno.EISDIR if inside in self.folders else errno.ENOENT, inside)
        stream = _Bytes(body)
        stream.name = file
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding or "utf-8", errors, newline)
