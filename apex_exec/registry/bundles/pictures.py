"""Pictures and texts that a marketplace shows of a plugin: icon, screenshots, changelog. Checked, never rendered here.

An SVG is shown by browsers, so it may only draw: elements and attributes are those of ``_ELEMENTS`` and
``_ATTRIBUTES``, without scripts, styles, references to elsewhere, entities or processing instructions. Of a PNG we read
the chunks.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from apex_exec.errors import Code, Refusal

if TYPE_CHECKING:
    from apex_exec.registry.bundles.manifest import Manifest

SVG_BYTES_MAX = 65_536
ICON_BYTES_MAX = 262_144
SCREENSHOT_BYTES_MAX = 1_048_576
CHANGELOG_BYTES_MAX = 262_144
ICON_PIXELS_MAX = 1024
SCREENSHOT_PIXELS_MAX = 4096
_PNG = b"\x89PNG\r\n\x1a\n"
_ELEMENTS = frozenset("""
    svg g defs symbol use title desc path rect circle ellipse line polyline polygon text tspan linearGradient
    radialGradient stop clipPath mask pattern marker
""".split())
_ATTRIBUTES = frozenset("""
    id class x y x1 y1 x2 y2 cx cy r rx ry fx fy width height d points transform viewBox preserveAspectRatio version
    fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-linecap stroke-linejoin stroke-miterlimit
    stroke-dasharray stroke-dashoffset opacity offset stop-color stop-opacity gradientUnits gradientTransform
    spreadMethod clip-path clip-rule mask maskUnits maskContentUnits clipPathUnits patternUnits patternContentUnits
    patternTransform marker-start marker-mid marker-end markerWidth markerHeight refX refY orient font-family font-size
    font-weight font-style text-anchor dominant-baseline letter-spacing dx dy color display visibility role aria-label
    aria-hidden focusable xml:space vector-effect paint-order shape-rendering href xlink:href xmlns xmlns:xlink
    xmlns:svg
""".split())
_INSIDE = re.compile(r"#[A-Za-z_][\w.-]*")
_URL = re.compile(r"url\(\s*['\"]?#[A-Za-z_][\w.-]*['\"]?\s*\)")


def picture_problems(manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """What is wrong with the files that the manifest's ``icon``, ``screenshots`` and ``changelog`` name."""
    named: list[tuple[str, str, Callable[[str, bytes], tuple[str, str] | None]]] = []
    if manifest.icon:
        named.append(("$.icon", manifest.icon, _icon))
    named += [(f"$.screenshots[{index}]", path, _screenshot) for index, path in enumerate(manifest.screenshots)]
    named += [("$.changelog", manifest.changelog, _changelog)] if manifest.changelog else []
    for place, path, problem in named:
        body = files.get(path)
        if body is None:
            yield {"code": "file_missing", "path": place, "message": f"{path!a} is not in the bundle",
                   "hint": "name a file of the bundle, or add it"}
        elif wrong := problem(path, body):
            yield {"code": "bad_picture" if problem is not _changelog else "not_utf8", "path": path, "message":
            wrong[0], "hint": wrong[1]}


def _icon(path: str, body: bytes) -> tuple[str, str] | None:
    if path.endswith(".svg"):
        if len(body) > SVG_BYTES_MAX:
            return f"an SVG icon has at most {SVG_BYTES_MAX:,} bytes; this has {len(body):,}", "simplify its paths"
        wrong = svg_problem(body)
        return (wrong, "draw with shapes, paths and gradients only; an SVG is shown by browsers") if wrong else None
    return _png(body, ICON_BYTES_MAX, ICON_PIXELS_MAX, "an icon")


def _screenshot(_path: str, body: bytes) -> tuple[str, str] | None:
    return _png(body, SCREENSHOT_BYTES_MAX, SCREENSHOT_PIXELS_MAX, "a screenshot")


def _changelog(_path: str, body: bytes) -> tuple[str, str] | None:
    if len(body) > CHANGELOG_BYTES_MAX:
        return f"a changelog has at most {CHANGELOG_BYTES_MAX:,} bytes; this has {len(body):,}", "shorten it"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "the changelog is not UTF-8", "save it as UTF-8"
    return None


def _png(body: bytes, bytes_max: int, pixels_max: int, what: str) -> tuple[str, str] | None:
    if len(body) > bytes_max:
        return f"{what} has at most {bytes_max:,} bytes; this has {len(body):,}", "make it smaller"
    wrong = png_problem(body, pixels_max)
    return (f"{what} must be a PNG: {wrong}", f"save one of at most {pixels_max} pixels a side") if wrong else None


def png_problem(body: bytes, pixels_max: int) -> str:
    """What is wrong with a PNG, by its chunks; "" if nothing is. No pixel is unpacked."""
    if not body.startswith(_PNG):
        return "it does not begin as one"
    at = len(_PNG)
    kinds: list[bytes] = []
    while at + 12 <= len(body):
        (size,) = struct.unpack_from(">I", body, at)
        kind, data = body[at + 4 : at + 8], body[at + 8 : at + 8 + size]
        if at + 12 + size > len(body) or zlib.crc32(kind + data) != struct.unpack_from(">I", body, at + 8 + size)[0]:
            return "a chunk is cut short or damaged"
        if not kinds:
            if kind != b"IHDR" or size != 13:
                return "it has no header"
            width, height = struct.unpack_from(">II", data)
            if not 1 <= width <= pixels_max or not 1 <= height <= pixels_max:
                return f"it is {width} x {height} pixels; at most {pixels_max} a side are accepted"
        kinds.append(kind)
        at += 12 + size
        if kind == b"IEND":
            break
    if not kinds or kinds[-1] != b"IEND" or b"IDAT" not in kinds:
        return "it has no picture, or no end"
    return "something follows its end" if at != len(body) else ""


def shown_picture(manifest: Manifest, files: Mapping[str, bytes], number: int) -> dict[str, Any]:
    """The icon (0) or a screenshot (from 1) of a bundle: its media type and its bytes. Checked once more, since what
    browsers are given must be what was found to be harmless. Raises Refusal("no_picture")."""
    named = [manifest.icon, *manifest.screenshots]
    path = named[number] if number < len(named) else None
    body = files.get(path) if path else None
    if path is None or body is None or (_screenshot if number else _icon)(path, body):
        raise Refusal("no_picture", f"{manifest.id} {manifest.version} has no such picture", code=Code.NOT_FOUND)
    return {"type": "image/svg+xml" if path.endswith(".svg") else "image/png", "bytes": body, "name": path}


class _Unsafe(Exception):
    """What an SVG may not have."""


def svg_problem(body: bytes) -> str:
    """What an SVG has beside drawing; "" if nothing. Takes time in proportion to its size: no entity is expanded."""
    parser = expat.ParserCreate("utf-8")
    seen: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        name = name.removeprefix("svg:")
        if not seen and name != "svg":
            raise _Unsafe(f"its first element is {name[:40]!a}, not svg")
        seen.append(name)
        if name not in _ELEMENTS:
            raise _Unsafe(f"the element {name[:40]!a} is not accepted")
        for key, value in attributes.items():
            if key not in _ATTRIBUTES:
                raise _Unsafe(f"the attribute {key[:40]!a} of {name} is not accepted")
            if key in ("href", "xlink:href") and not _INSIDE.fullmatch(value):
                raise _Unsafe(f"{name} refers to {value[:60]!a}, which is not inside the picture")
            if "(" in _URL.sub("", value) and key != "transform" and not re.fullmatch(
                    r"(?:rgba?|hsla?)\([\d\s.,%/-]*\)", value) and key not in ("gradientTransform", "patternTransform"):
                raise _Unsafe(f"the attribute {key} of {name} calls something")

    def refuse(*_arguments: Any) -> None:
        raise _Unsafe("it has a document type, an entity or a processing instruction")

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.ProcessingInstructionHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except _Unsafe as error:
        return str(error)
    except expat.ExpatError as error:
        return f"it is not XML in UTF-8: {error}"
    return ""
