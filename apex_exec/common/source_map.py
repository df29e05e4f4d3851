"""Source maps, version 3: a place in a bundle's JavaScript becomes the place in the source that its author wrote.

A bundler names the map in the last comment of its output, ``//# sourceMappingURL=…``: a file beside it (linked) or a
``data:`` address (inline). Only ``version``, ``sources``, ``sourceRoot`` and ``mappings`` are read; a map whose parts
lie in ``sections`` is not. A map comes from a stranger: whatever is wrong with it, the places stay those of the
JavaScript and a note says why. A plugin's worker never sees a map.

Format: https://tc39.es/ecma426/
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from bisect import bisect_left
from collections.abc import Mapping
from operator import itemgetter
from typing import Annotated, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

MAP_BYTES_MAX = 4 * 1024 * 1024
"""Of one map as JSON. No map of a bundle reaches it, since all of a bundle's files together are smaller."""
SOURCES_MAX = 20_000
"""Of one map: a bundle of a thousand npm modules has fewer, and each is one object here."""
PLACES_MAX = 256
"""Different places that are looked up in one text; the rest stay as they are. A stack has 64 frames at most."""
KNOWN_MAX = 4096
"""Places that are remembered for the next text. A plugin that fails, fails at the same few."""
GROWTH_BYTES_MAX = 8192
"""How many bytes one text may grow by; places beyond it stay as they are. A hostile map has long names for short ones,
and texts are kept and sent to hosts. Stacks have 8 kB at most, and an honest map hardly doubles them."""
SHOWN_CHARS_MAX = 200
"""Of a source's name. A longer one keeps its end, which is the file."""
CHECKED_LINE = 10**9
"""A line that no file has: to look it up is to read all of a map."""
SEGMENTS_KEPT_MAX = 50_000
"""Segments whose numbers are kept while a map is read, since most come again. A hostile map has no two alike."""
ORIGINS_MAX = 500_000
"""Places of one map that are kept at once (``origins``), about 100 bytes each: a bundle of 2 MB has some 300,000."""
NUMBER_DIGITS_MAX = 7
"""Digits of base 64 in one number of a map: 35 bits, more than the format's 32."""

_URL = re.compile(rb"//[#@] ?sourceMappingURL=(\S+)\s*\Z")
_COMMENT = b"sourceMappingURL="
_DIGITS = {character: value for value, character in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


class Place(NamedTuple):
    """A place in a file of the bundle: ``line`` and ``column`` count from one."""

    path: str
    line: int
    column: int


class BadMap(Exception):
    """A map that cannot be used, and why, in words that follow "its source map"."""


class Found(NamedTuple):
    """A map as it was found: ``base`` is the file that its sources are named relative to."""

    base: str
    data: bytes


class _Map(msgspec.Struct):
    """What is read of a map. Any other key is passed over without an object being made of it."""

    version: int
    mappings: str = ""
    sources: Annotated[list[str | None], Meta(max_length=SOURCES_MAX)] = []
    sourceRoot: str | None = None
    sections: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Map).decode


def map_comment(body: bytes) -> bytes:
    """The end of a JavaScript file from the comment on that names its map; b"" if there is none."""
    at = body.rfind(_COMMENT)
    return body[max(0, at - 4) :] if at >= 0 else b""


def find_map(path: str, files: Mapping[str, bytes]) -> Found | None:
    """The map that the JavaScript file ``path`` names; None if it names none. Raises BadMap."""
    body = files[path]
    at = body.rfind(_COMMENT)
    line_at = body.rfind(b"\n", 0, at) + 1
    named = _URL.search(body, max(line_at, at - 4)) if at >= 0 else None
    if named is None:
        return None
    address = named[1]
    if address[:5].lower() == b"data:":
        return Found(path, _inline(address[5:]))
    name = unquote_to_bytes(address).decode("utf-8", "replace")
    if _SCHEME.match(name) or name.startswith("/"):
        raise BadMap("is not named by a path inside the bundle")
    linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if linked not in files:
        raise BadMap("is not in the bundle")
    return Found(linked, files[linked])


def _inline(address: bytes) -> bytes:
    """The bytes that a ``data:`` address holds. Raises BadMap."""
    kind, comma, data = address.partition(b",")
    if not comma:
        raise BadMap("has an address without data")
    if not kind.lower().endswith(b";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise BadMap("is not base64") from None


def parse(data: bytes) -> _Map:
    """The map in ``data``, JSON. Raises BadMap. Takes memory in proportion to ``data``, whatever that holds."""
    if len(data) > MAP_BYTES_MAX:
        raise BadMap(f"is larger than {MAP_BYTES_MAX} bytes")
    if data.startswith(b")]}'"):  # a guard line that the format allows
        data = data.partition(b"\n")[2]
    try:
        found = _decode(data)
    except msgspec.ValidationError as error:
        raise BadMap(f"is not one: {error}"[:SHOWN_CHARS_MAX]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadMap("is not JSON") from None
    if found.sections is not None:
        raise BadMap("is an index of other maps, which is not read")
    if found.version != 3:
        raise BadMap(f"has version {found.version}, not 3"[:SHOWN_CHARS_MAX])
    return found


def _numbers(segment: str) -> tuple[int, ...]:
    """The numbers of one segment, in base 64 VLQ. Raises BadMap."""
    made: list[int] = []
    value = shift = 0
    for character in segment:
        digit = _DIGITS.get(character)
        if digit is None or shift >= 5 * NUMBER_DIGITS_MAX:
            raise BadMap("has mappings that are not in its notation")
        value |= (digit & 31) << shift
        if digit & 32:
            shift += 5
        else:
            made.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    if shift or len(made) not in (1, 4, 5):
        raise BadMap("has mappings that are not in its notation")
    return tuple(made)


def look_up(mappings: str, wanted: Mapping[int, list[int]]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Finds where ``wanted``, columns by line, comes from: ``{(line, column): (source, line, column)}``.

    Lines and columns count from one, and sources from zero. A place that the map leaves out is left out here. Reads the
    mappings up to the last line that is wanted: 0.3 s of CPU for 2 MB, 1.3 s if no two segments are alike. Raises
    BadMap.
    """
    known: dict[str, tuple[int, ...]] = {}
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    source = line = column = 0
    last = max(wanted, default=0)
    for number, text in enumerate(mappings.split(";", last)[:last], 1):
        if not text:
            continue
        starts: list[tuple[int, tuple[int, int, int] | None]] = []
        is_wanted = number in wanted
        at = 0
        for segment in text.split(","):
            numbers = known.get(segment)
            if numbers is None:
                numbers = _numbers(segment)
                if len(known) < SEGMENTS_KEPT_MAX:
                    known[segment] = numbers
            if len(numbers) > 1:
                source += numbers[1]
                line += numbers[2]
                column += numbers[3]
            if is_wanted:
                at += numbers[0]
                starts.append((at, (source, line + 1, column + 1) if len(numbers) > 1 else None))
        starts.sort(key=itemgetter(0))
        for wanted_column in wanted[number] if is_wanted else ():
            before = bisect_left(starts, wanted_column, key=itemgetter(0))
            if before and (origin := starts[before - 1][1]) is not None:
                found[number, wanted_column] = origin
    return found


class Origin(NamedTuple):
    """From this place of the JavaScript on, until the next: ``line`` and ``column`` count from zero, the column in
    UTF-16 units; ``source`` is a name as the map has it, "" where the map names none."""

    line: int
    column: int
    source: str


def origins(data: bytes) -> list[Origin]:
    """All places of the map ``data``, JSON, in the order of the JavaScript. Blocks as ``look_up`` does. Raises BadMap.
    """
    parsed = parse(data)
    root = f"{parsed.sourceRoot.rstrip('/')}/" if parsed.sourceRoot else ""
    names = [f"{root}{name or ''}" for name in parsed.sources]
    known: dict[str, tuple[int, ...]] = {}
    found: list[Origin] = []
    source = 0
    for line, text in enumerate(parsed.mappings.split(";")):
        at = 0
        of_line: list[Origin] = []
        for segment in filter(None, text.split(",")):
            numbers = known.get(segment)
            if numbers is None:
                numbers = _numbers(segment)
                if len(known) < SEGMENTS_KEPT_MAX:
                    known[segment] = numbers
            at += numbers[0]
            if len(numbers) > 1:
                source += numbers[1]
                if not 0 <= source < len(names):
                    raise BadMap("leads to a source that it does not have")
            of_line.append(Origin(line, at, names[source] if len(numbers) > 1 else ""))
            if len(found) + len(of_line) > ORIGINS_MAX:
                raise BadMap(f"has more than {ORIGINS_MAX} places")
        of_line.sort(key=itemgetter(1))
        found += of_line
    return found


class SourceMaps:
    """The maps of one bundle. ``notes`` is what was wrong with them so far, a sentence for each file.

    ``files`` are the bundle's, with maps; nothing of them is read before a text names a place in them.
    """

    def __init__(self, plugin: str, files: Mapping[str, bytes]) -> None:
        self.notes: list[str] = []
        self._plugin = plugin
        self._files = files
        self._broken: set[str] = set()
        self._known: dict[Place, Place | None] = {}
        self._place = re.compile(rf"(?<![\w./-]){re.escape(plugin)}/"
                                 r"([^\s():]{1,200}\.m?js):([0-9]{1,7}):([0-9]{1,7})(?![0-9])")

    def rewritten(self, text: str) -> str:
        """``text``, a stack or a message, with each place in the bundle's JavaScript as the place in its source.

        What has no map, or a map that cannot be used, stays as it is. Blocks for the time that reading a map takes.
        """
        named: dict[Place, None] = {}
        for match in self._place.finditer(text):
            if len(named) >= PLACES_MAX:
                break
            named[Place(match[1], int(match[2]), int(match[3]))] = None
        self._learn([place for place in named if place not in self._known])
        room = GROWTH_BYTES_MAX

        def shown(match: re.Match[str]) -> str:
            nonlocal room
            found = self._shown(match)
            grown = len(found.encode()) - len(match[0].encode())
            if grown > room:
                return match[0]
            room -= max(grown, 0)
            return found

        return self._place.sub(shown, text)

    def check(self) -> list[str]:
        """Reads every map. Returns what is wrong with them, a sentence for each file."""
        self._learn([Place(path, CHECKED_LINE, 1) for path in self._files if path.endswith((".js", ".mjs"))])
        return self.notes

    def _shown(self, match: re.Match[str]) -> str:
        origin = self._known.get(Place(match[1], int(match[2]), int(match[3])))
        if origin is None:
            return match[0]
        return f"{self._plugin}/{origin.path}:{origin.line}:{origin.column}"

    def _learn(self, places: list[Place]) -> None:
        if len(self._known) + len(places) > KNOWN_MAX:
            self._known.clear()
        self._known.update(dict.fromkeys(places))
        for path in dict.fromkeys(place.path for place in places):
            if path not in self._files or path in self._broken:
                continue
            try:
                self._learn_of(path, [place for place in places if place.path == path])
            except BadMap as error:
                self._broken.add(path)
                self.notes.append(f"{path}: its source map {error}; places are those of {path}")

    def _learn_of(self, path: str, places: list[Place]) -> None:
        """Adds the origins of ``places``, which are all in ``path``. Raises BadMap."""
        found = find_map(path, self._files)
        if found is None:
            return
        parsed = parse(found.data)
        wanted: dict[int, list[int]] = {}
        for place in places:
            wanted.setdefault(place.line, []).append(place.column)
        for (line, column), (source, source_line, source_column) in look_up(parsed.mappings, wanted).items():
            if not 0 <= source < len(parsed.sources) or source_line < 1 or source_column < 1:
                raise BadMap("leads to a source that it does not have")
            name = _source_name(found.base, parsed.sourceRoot or "", parsed.sources[source] or "")
            self._known[Place(path, line, column)] = Place(name, source_line, source_column)


def _source_name(base: str, root: str, name: str) -> str:
    """A source as a path inside the bundle, printable, of at most SHOWN_CHARS_MAX characters.

    What lies outside, as a package of npm may, is shown as if it lay at the top: it never looks like another plugin's
    file or the machine's.
    """
    named = _SCHEME.sub("", f"{root.rstrip('/')}/{name}" if root else name)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(base), named.lstrip("/")))
    while path.startswith("../"):
        path = path[3:]
    if path in (".", "..", ""):
        path = "?"
    return (path if path.isprintable() else ascii(path)[1:-1])[-SHOWN_CHARS_MAX:]
