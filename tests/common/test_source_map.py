"""Source maps: exact places, however a map is found; a map that is broken changes nothing but a note."""

from __future__ import annotations

import base64
import json
import random
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pytest

from apex_exec.common.source_map import GROWTH_BYTES_MAX, SourceMaps, look_up

pytestmark = pytest.mark.fast
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
Segment = tuple[int, ...]  # generated column, and then source, line, column, each from zero


def vlq(number: int) -> str:
    value = (-number << 1) | 1 if number < 0 else number << 1
    made = ""
    while True:
        value, digit = value >> 5, value & 31
        made += DIGITS[digit | 32 * (value > 0)]
        if not value:
            return made


def encode(lines: Iterable[Iterable[Segment]]) -> str:
    """Mappings of absolute ``lines``, as the format wants them: each number is the difference to the one before."""
    before = [0, 0, 0]
    made = []
    for line in lines:
        at, segments = 0, []
        for column, *origin in line:
            steps = [column - at, *(new - old for new, old in zip(origin, before, strict=False))]
            segments.append("".join(map(vlq, steps)))
            at = column
            before = origin or before
        made.append(",".join(segments))
    return ";".join(made)


LINES: list[list[Segment]] = [[], [(0, 0, 4, 2), (8, 0, 4, 10), (20,), (30, 1, 70, 1)], [(4, 0, 16, 67)]]


def a_map(**changes: Any) -> dict[str, Any]:
    return {"version": 3, "sources": ["src/plugin.ts", "node_modules/zod/index.js"], "names": [],
            "mappings": encode(LINES), **changes}


CODE = b"// built\nlet a = f(1); g() ; h();\n    throw x;\n"


def linked(made: Any, **more: bytes) -> dict[str, bytes]:
    body = made if isinstance(made, bytes) else json.dumps(made).encode()
    return {"index.js": CODE + b"//# sourceMappingURL=index.js.map\n", "index.js.map": body, **more}


STACK = ("    at act (my-plugin/index.js:3:5)\n    at my-plugin/index.js:2:9\n"
         "    at <anonymous> (my-plugin/index.js:2:1)\n")
IN_SOURCE = ("    at act (my-plugin/src/plugin.ts:17:68)\n    at my-plugin/src/plugin.ts:5:11\n"
             "    at <anonymous> (my-plugin/src/plugin.ts:5:3)\n")


def test_each_place_of_a_stack_becomes_the_place_in_the_authors_source() -> None:
    maps = SourceMaps("my-plugin", linked(a_map()))
    assert maps.rewritten(STACK) == IN_SOURCE and not maps.notes
    assert maps.rewritten("TypeError: no (at my-plugin/index.js:3:9 in act)") == (
        "TypeError: no (at my-plugin/src/plugin.ts:17:68 in act)"), "between two segments the one before counts"


@pytest.mark.parametrize("address", [
    lambda data: b"data:application/json;base64," + base64.b64encode(data),
    lambda data: b"data:application/json;charset=utf-8;base64," + base64.b64encode(data),
    lambda data: b"data:application/json," + quote(data).encode(),
    lambda data: b"../maps/index.js.map", lambda data: b"./in%64ex.js.map"], ids=[
    "inline", "with charset", "percent", "elsewhere", "escaped"])
@pytest.mark.parametrize("comment", [b"//# sourceMappingURL=", b"//@ sourceMappingURL="])
def test_a_map_is_found_inline_or_linked(address: Any, comment: bytes) -> None:
    data = json.dumps(a_map(sources=["../src/a.ts", "b"])).encode()
    files = {"dist/index.js": CODE + comment + address(data) + b"\n\n", "maps/index.js.map": data,
             "dist/index.js.map": data}
    told = SourceMaps("my-plugin", files).rewritten("at f (my-plugin/dist/index.js:3:5)")
    assert told == "at f (my-plugin/src/a.ts:17:68)"


def test_what_has_no_map_or_no_mapping_or_is_another_plugins_stays() -> None:
    maps = SourceMaps("my-plugin", linked(a_map(), **{"lib.js": b"1"}))
    for text in ("my-plugin/lib.js:3:5", "my-plugin/none.js:3:5", "other-my-plugin/index.js:3:5", "index.js:3:5", "",
                 "my-plugin/index.js:3", "my-plugin/index.js:1:1", "my-plugin/index.js:2:21", "my-plugin/index.js:3:4",
                 "my-plugin/index.js:99999:1"):
        assert maps.rewritten(text) == text
    assert not maps.notes


def test_only_the_last_comment_names_a_map_and_only_at_the_end_of_the_file() -> None:
    said = b'const s = "//# sourceMappingURL=gone.map";\n'
    assert not SourceMaps("p-1", {"index.js": said + CODE}).rewritten("p-1/index.js:3:5").startswith("p-1/src")
    files = linked(a_map())
    files["index.js"] = said + files["index.js"]
    maps = SourceMaps("p-1", files)
    assert maps.rewritten("p-1/index.js:3:5") == "p-1/src/plugin.ts:17:68" and not maps.notes


@pytest.mark.parametrize(("sources", "shown"), [
    (["../src/a.ts"], "p-1/src/a.ts"), (["/home/me/a.ts"], "p-1/home/me/a.ts"),
    (["webpack://p/./src/a.ts"], "p-1/p/src/a.ts"),
    (["a\n\x1b[31m.ts"], r"p-1/a\n\x1b[31m.ts"), (["x" * 5000 + ".ts"], "p-1/" + "x" * 197 + ".ts"),
    (["../../other/index.js"], "p-1/other/index.js"), ([None], "p-1/?"), (["\u202ea.ts"], r"p-1/\u202ea.ts")])
def test_a_sources_name_is_printable_bounded_and_always_below_its_plugin(sources: list[str], shown: str) -> None:
    told = SourceMaps("p-1", linked(a_map(sources=sources))).rewritten("at p-1/index.js:3:5 !")
    assert told == f"at {shown}:17:68 !"


@pytest.mark.parametrize("broken", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
    b'{"version": 3, "mappings": "AAAA", "x": ' + b"[" * 100_000,
    a_map(version=2), a_map(version="3"), a_map(mappings=7), a_map(mappings=";;!"), a_map(mappings=";;AA"),
    a_map(mappings=";;AAA"), a_map(mappings=";;g"), a_map(mappings=";;" + "g" * 1000 + "A"), a_map(mappings=";;AAAAAA"),
    a_map(mappings=";;\u00e9"), a_map(sources=[]), a_map(sources=["a"], mappings=";;ACAA"), a_map(mappings=";;ADAA"),
    a_map(mappings=";;AADA"), a_map(sources=7), a_map(sections=[]), a_map(sources=["a"] * 30_000),
    a_map(mappings=";;,,"), 7])
def test_a_broken_map_leaves_the_places_and_is_one_note(broken: Any) -> None:
    maps = SourceMaps("my-plugin", linked(broken))
    assert maps.rewritten(STACK) == STACK == maps.rewritten(STACK)
    assert [note.startswith("index.js: its source map ") for note in maps.notes] == [True]
    assert maps.notes[0].isprintable() and len(maps.notes[0]) < 300


@pytest.mark.parametrize(("address", "why"), [
    (b"gone.map", "is not in the bundle"), (b"../../etc/passwd", "is not in the bundle"),
    (b"https://example.com/a.map", "is not named by a path"), (b"/etc/passwd", "is not named by a path"),
    (b"data:application/json;base64,!!!", "is not base64"), (b"data:x", "has an address without data"),
    (b"%ff", "is not in the bundle")])
def test_a_map_that_is_not_there_is_one_note(address: bytes, why: str) -> None:
    maps = SourceMaps("p-1", {"index.js": CODE + b"//# sourceMappingURL=" + address})
    assert maps.rewritten("p-1/index.js:3:5") == "p-1/index.js:3:5"
    (note,) = maps.notes
    assert note.startswith(f"index.js: its source map {why}") and note.endswith("; places are those of index.js")


def test_random_maps_are_read_as_they_were_written() -> None:
    chance = random.Random(7)
    for _ in range(50):
        lines: list[list[Segment]] = []
        for _ in range(chance.randrange(1, 20)):
            columns = sorted(chance.sample(range(200), chance.randrange(0, 20)))
            lines.append([(column, chance.randrange(5), chance.randrange(10**6), chance.randrange(10**4))
                          if chance.random() < 0.9 else (column,) for column in columns])
        wanted = {number: list(range(1, 202)) for number in range(1, len(lines) + 1)}
        found = look_up(encode(lines), wanted)
        for number, line in enumerate(lines, 1):
            for column in wanted[number]:
                before = [segment for segment in line if segment[0] < column]
                origin = before[-1][1:] if before else ()
                assert found.get((number, column)) == (
                    (origin[0], origin[1] + 1, origin[2] + 1) if origin else None)


def large(one_line: bool) -> bytes:
    """A map of 2 MB as a bundler writes one."""
    chance = random.Random(3)
    lines: list[list[Segment]] = []
    at = source = origin = 0
    for number in range(60_000):
        segments: list[Segment] = []
        for _ in range(6):
            at += chance.randrange(1, 12)
            segments.append((at, source, origin, chance.randrange(60)))
        lines.append(segments)
        at = at if one_line else 0
        origin += 1
        if number % 300 == 299:
            source, origin = source + 1, 0
    if one_line:
        lines = [[segment for line in lines for segment in line]]
    made = a_map(sources=[f"src/{number}.ts" for number in range(300)], mappings=encode(lines))
    return json.dumps({**made, "sourcesContent": ["x"]}).encode()


@pytest.mark.parametrize("one_line", [False, True])
@pytest.mark.slow
def test_a_map_of_two_megabytes_is_read_in_bounded_memory_and_its_end_is_exact(one_line: bool) -> None:
    data = large(one_line)
    assert 1_700_000 < len(data) < 2_400_000
    files = {"index.js": b"//# sourceMappingURL=index.js.map", "index.js.map": data}
    begun = time.process_time()
    where = "p-1/index.js:1:9999999" if one_line else "p-1/index.js:60000:9999"
    told = SourceMaps("p-1", files).rewritten(where)
    took = time.process_time() - begun
    assert told.startswith("p-1/src/199.ts:300:")
    assert took < 5, "thirty times what it takes on a slow machine: a bound, not a benchmark"
    tracemalloc.start()
    try:
        SourceMaps("p-1", files).rewritten(where)
        assert tracemalloc.get_traced_memory()[1] < 120 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_text_grows_by_no_more_than_is_kept_of_it() -> None:
    """A stack of short names, each of which the map makes long: the texts are kept, logged and sent to hosts."""
    made = linked(a_map(sources=["\U0001f600" * 199 + ".ts"], mappings=encode([[], [(0, 0, 4, 2)]])))
    text = " ".join(f"shop/index.js:2:{column}" for column in range(1, 250))
    shown = SourceMaps("shop", made).rewritten(text)
    assert ".ts:5:3" in shown and shown.endswith("shop/index.js:2:249")
    assert len(text.encode()) < len(shown.encode()) <= len(text.encode()) + GROWTH_BYTES_MAX


def test_a_hostile_text_or_map_costs_no_more_than_its_size() -> None:
    data = json.dumps(a_map(mappings=",".join(["A"] * 1_000_000))).encode()
    files = {"index.js": b"//# sourceMappingURL=index.js.map", "index.js.map": data}
    text = "".join(f"p-1/index.js:1:{column} " for column in range(10_000)) + "p-1/" * 20_000
    begun = time.process_time()
    assert SourceMaps("p-1", files).rewritten(text) == text
    assert time.process_time() - begun < 20
