"""What a marketplace shows of a plugin cannot run, refer elsewhere or be larger than it says."""

from __future__ import annotations

import struct
import zlib

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import make_bundle
from apex_exec.registry.bundles.pictures import png_problem, svg_problem
from tests.support.bundles import files

GOOD = (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><defs><linearGradient id="a"><stop offset="0" '
        b'stop-color="rgb(1, 2, 3)"/></linearGradient></defs><path d="M0 0L8 8" fill="url(#a)" transform="rotate(3)"/>'
        b'<use href="#b"/></svg>')


def png(width: int = 8, height: int = 8, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(3 * width) for _ in range(min(height, 64)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows) + data) + chunk(b"IEND", b""))


@pytest.mark.parametrize("bad", [
    b"<svg><script>alert(1)</script></svg>", b'<svg onload="x()"/>', b'<svg><a href="javascript:x()"><g/></a></svg>',
    b'<svg><use href="http://evil/x.svg#a"/></svg>', b'<svg><image href="x.png"/></svg>',
    b"<svg><style>a{}</style></svg>",
    b'<svg><rect style="fill:url(http://x)"/></svg>', b'<svg><rect fill="url(http://x)"/></svg>',
    b"<svg><foreignObject><p/></foreignObject></svg>", b'<svg><animate attributeName="href"/></svg>',
    b'<svg><set attributeName="onload" to="x"/></svg>', b'<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>',
    b'<?xml-stylesheet href="x"?><svg/>', b"<html/>", b"<svg>", b"\xff\xfe<", b'<svg xml:base="http://x"/>'])
def test_an_svg_that_does_more_than_draw_is_refused(bad: bytes) -> None:
    assert svg_problem(bad)


def test_an_svg_that_draws_and_a_whole_png_are_accepted() -> None:
    assert svg_problem(GOOD) == "" and png_problem(png(), 1024) == ""
    shown = {"icon": "shown/icon.svg", "screenshots": ["shown/1.png"], "changelog": "CHANGELOG.md", "licence": "MIT",
             "description": "Greets.", "homepage": "https://example.com", "keywords": ["greeting"]}
    pictures = {"shown/icon.svg": GOOD, "shown/1.png": png(), "CHANGELOG.md": b"# 1.0.0\n"}
    made = make_bundle({**files(**shown), **pictures}, "x")
    assert made.manifest.keywords == ["greeting"]


@pytest.mark.parametrize(("body", "says"), [
    (b"GIF89a", "does not begin"), (png()[:-5], "no end"), (png()[:-20], "cut short"),
    (png() + b"<script>", "follows its end"),
    (png(30_000, 30_000), "30000 x 30000"), (png().replace(b"IDAT", b"IDAx"), "damaged")])
def test_a_png_that_is_damaged_or_too_large_is_refused(body: bytes, says: str) -> None:
    assert says in png_problem(body, 1024)


def test_a_picture_that_is_missing_too_large_or_active_is_named_by_its_path() -> None:
    def problems(**more: bytes) -> list[str]:
        with pytest.raises(Refusal) as caught:
            given = {path.replace("_", "."): body for path, body in more.items()}
            make_bundle({**files(icon="icon.png"), **given}, "x")
        return [problem["message"] for problem in caught.value.problems]

    assert problems() == ["'icon.png' is not in the bundle"]
    assert "an icon has at most 262,144 bytes" in problems(icon_png=png(data=bytes(300_000)))[0]
    assert any("8,388,608 bytes (registry.bundle_bytes)" in one for one in problems(icon_png=bytes(50_000_000)))
