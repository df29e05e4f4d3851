"""Which parts of a bundle are packages, of npm or vendored from PyPI, whose coverage is not asked of the plugin's
author.

A Python bundle says it by its lock (``registry.vendored.lock``): a file in ``vendor/`` that is the wheel's own does not
count. The rest of this page is about JavaScript.

A bundler writes an author's code and the packages that it imports into one file, and a source map says which is which.
The maker of the map decides what counts, so the question is whose map is believed:

- An author's own run (``plugin test``) believes the bundle's map: a lie there deceives only its author.
- The marketplace believes no map of a bundle. It believes those that its operator has made by building the bundle's
  ``src/`` with packages that the operator has installed (``market.maps``): a map is found by the SHA-256 of the
  JavaScript that it belongs to, so it fits only if the operator's build gives the author's file, byte for byte. For
  every other file all code counts. A bundler follows the maps of what it reads, so a bundle with other code that names
  a map, or with a ``node_modules/`` of its own, could lie to the operator's build: of such a bundle all code counts.

Either way this is decided outside the jail, and parts that do not count get no counters.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from apex_exec.common.source_map import MAP_BYTES_MAX, BadMap, find_map, origins
from apex_exec.registry.bundles.bundle import Bundle

Ranges = list[tuple[int, int]]
"""Where parts of a file begin and end, in bytes, in their order."""
_PACKAGE = re.compile(r"(?:^|/)node_modules/((?:@[^/]+/)?[^/]+)(?=/)")
CODE_SUFFIXES = (".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".css")
"""Files that a bundler reads as code, and in which it follows the comment that names a map."""
_HIGH_HALVES = frozenset({b"\xd8", b"\xd9", b"\xda", b"\xdb"})
NAMES_MAX = 100
"""Packages that are named in a report; the others are only counted."""


class LeftOut(msgspec.Struct, frozen=True):
    """What does not count: ``ranges`` by path, whole ``files``, and the names of the packages there."""

    ranges: dict[str, Ranges] = {}
    packages: list[str] = []
    files: list[str] = []


NOTHING = LeftOut()


def package_of(source: str) -> str:
    """The package that a source of a map lies in; "" if in none."""
    found = _PACKAGE.findall(source)
    return str(found[-1]) if found else ""


def by_its_lock(bundle: Bundle) -> LeftOut:
    """The files in a Python bundle's ``vendor/``, each unchanged by its lock. The lock is the author's word for where
    they come from: a reviewer is shown the packages, and ``plugin add --check`` compares them with the index."""
    packages = dict.fromkeys(f"{one.name} {one.version}" for one in bundle.vendored.values())
    return LeftOut({}, list(packages)[:NAMES_MAX], sorted(bundle.vendored))


def by_its_own_maps(bundle: Bundle, paths: Iterable[str]) -> LeftOut:
    """What the bundle's own source maps say, and its lock. A map that is broken, or missing, says nothing."""
    if bundle.vendored:
        return by_its_lock(bundle)

    def map_of(path: str, _body: bytes) -> bytes | None:
        found = find_map(path, bundle.files)
        return found.data if found is not None else None

    return _left_out(bundle, paths, map_of)


def by_maps_of_the_operator(bundle: Bundle, paths: Iterable[str], folder: str) -> LeftOut:
    """What the maps in ``folder`` say, each named ``<SHA-256 of the JavaScript>.map``. Nothing without a folder. Blocks
    for reads of files. Of a Python bundle, what its lock says."""
    if bundle.vendored:
        return by_its_lock(bundle)
    if not folder:
        return NOTHING
    maps: dict[str, bytes] = {}
    for path in paths:
        name = f"{hashlib.sha256(bundle.files[path]).hexdigest()}.map"
        with contextlib.suppress(OSError):  # there is none, or it is not ours to read: then all code counts
            with (Path(folder) / name).open("rb") as file:
                maps[path] = file.read(MAP_BYTES_MAX + 1)
    if any(path not in maps and _may_lie_to_a_build(path, body) for path, body in bundle.files.items()):
        return NOTHING
    return _left_out(bundle, maps, lambda path, _body: maps[path])


def _may_lie_to_a_build(path: str, body: bytes) -> bool:
    return "node_modules" in path.split("/") or (path.endswith(CODE_SUFFIXES) and b"sourceMappingURL=" in body)


def _left_out(bundle: Bundle, paths: Iterable[str], map_of: Callable[[str, bytes], bytes | None]) -> LeftOut:
    ranges: dict[str, Ranges] = {}
    packages: set[str] = set()
    for path in paths:
        body = bundle.files[path]
        try:
            data = map_of(path, body)
            found, names = package_ranges(body, data) if data is not None else ([], set())
        except BadMap:  # `plugin validate` says what is wrong with it
            continue
        if found:
            ranges[path] = found
            packages |= names
    return LeftOut(ranges, sorted(packages)[:NAMES_MAX])


def package_ranges(body: bytes, data: bytes) -> tuple[Ranges, set[str]]:
    """Where packages are in the JavaScript ``body`` by the map ``data``, and their names. Raises BadMap."""
    lines = body.split(b"\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    ranges: Ranges = []
    packages: set[str] = set()
    names: dict[str, str] = {}  # source → package: a map names the same sources again and again
    begun = number = -1
    here = Line(b"")
    for origin in origins(data):
        if origin.line >= len(lines):
            break
        name = names.get(origin.source)
        if name is None:
            name = names[origin.source] = package_of(origin.source)
        if bool(name) == (begun >= 0):
            packages |= {name} if name else set()
            continue
        if origin.line != number:
            number, here = origin.line, Line(lines[origin.line])
        at = starts[number] + here.bytes_before(origin.column)
        if name:
            packages.add(name)
            begun = at
        else:
            ranges.append((begun, at))
            begun = -1
    if begun >= 0:
        ranges.append((begun, len(body)))
    return ranges, packages


class Line:
    """One line, in which places are asked for from the left to the right: a bundle is often one line of a megabyte."""

    def __init__(self, line: bytes) -> None:
        self._size = len(line)
        self._units = b"" if line.isascii() else line.decode("utf-8", "replace").encode("utf-16-le")
        self._column = self._at = 0

    def bytes_before(self, column: int) -> int:
        """The byte at which the UTF-16 unit ``column`` begins. A column before the one that was asked for last, and
        one beyond the end, are taken for these."""
        column = max(column, self._column)
        if not self._units:
            self._column = column
            return min(column, self._size)
        if self._units[2 * column - 1 : 2 * column] in _HIGH_HALVES:  # the middle of a pair: its beginning
            column -= 1
        if column > self._column:
            self._at += len(self._units[2 * self._column : 2 * column].decode("utf-16-le", "replace").encode())
            self._column = column
        return min(self._at, self._size)
