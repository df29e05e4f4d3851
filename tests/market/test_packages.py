"""Packages of npm that were bundled into a plugin do not count in its coverage, and a map that lies lowers no bar."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from apex_exec.common.source_map import BadMap
from apex_exec.config import Settings, load_settings
from apex_exec.market.review import checks
from apex_exec.market.review.coverage import measure
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.scan.javascript.counters import points_of, with_counters
from apex_exec.registry.trials import packages
from apex_exec.registry.trials.packages import by_its_own_maps, by_maps_of_the_operator, package_ranges
from apex_exec.registry.trials.testing import Run, prove, run_tests, sources_of
from tests.common.test_source_map import encode
from tests.market.shops import README
from tests.support import need

PACKAGE = "".join(f"function unused{n}(x) {{\n  if (x > {n}) return x;\n  return {n};\n}}\n" for n in range(30))
OWN = """function total(rows) {
  let sum = 0;
  for (const row of rows) sum += row;
  return sum;
}
"""
HIDDEN = "".join(f"function mine{n}(x) {{\n  if (x > {n}) return x;\n  return {n};\n}}\n" for n in range(10))
END = """var plugin_default = { id: "sums", version: "1.0.0", permissions: [], hooks: {
  onDataFetch: (c) => ({ transformedData: total(c.filters.rows) })
} };
export {
  plugin_default as default
};
//# sourceMappingURL=index.js.map
"""
TESTS = """import assert from "node:assert/strict";
import test from "node:test";
import sums from "../index.js";
test("a sum", () => {
  assert.deepEqual(sums.hooks.onDataFetch({ filters: { rows: [1, 2] } }), { transformedData: 3 });
});
"""
IN_PACKAGE, IN_SOURCE = "node_modules/lodash-es/lodash.js", "src/plugin.ts"


def source_map(*parts: tuple[str, str], root: str | None = None) -> bytes:
    """The map of parts of code, each with the source that it is said to come from."""
    names = list(dict.fromkeys(name for name, _ in parts))
    lines: list[list[tuple[int, ...]]] = []
    for name, code in parts:
        lines += [[(0, names.index(name), number, 0)] for number in range(code.count("\n"))]
    made: dict[str, Any] = {"version": 3, "sources": names, "names": [], "mappings": encode(lines)}
    return json.dumps(made | ({"sourceRoot": root} if root else {})).encode()


HONEST = source_map((IN_PACKAGE, PACKAGE), (IN_SOURCE, OWN + HIDDEN + END))
LYING = source_map((IN_PACKAGE, PACKAGE), (IN_SOURCE, OWN), ("node_modules/mine/index.js", HIDDEN), (IN_SOURCE, END))
SECONDS_MAX = 4.0
"""Of CPU, on a busy machine. Read anew for each place, the line took 34 s."""
CODE = PACKAGE + OWN + HIDDEN + END


def bundle(folder: Path, code: str, own_map: bytes | None, more: dict[str, str] | None = None) -> Bundle:
    manifest = {"id": "sums", "name": "Sums", "version": "1.0.0", "author": "ACME Corp", "permissions": [],
                "manifest": {"entrypoint": "index.js", "hooks": ["onDataFetch"]}}
    files: dict[str, str] = {"manifest.json": json.dumps(manifest), "index.js": code, "tests/index.test.js": TESTS,
                             "README.md": README, "src/plugin.ts": "export default {}\n", **(more or {})}
    if own_map is not None:
        files["index.js.map"] = own_map.decode()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_folder(folder)


def maps_for(folder: Path, code: str, data: bytes) -> str:
    """A folder of the operator's with one map."""
    folder.mkdir(exist_ok=True)
    (folder / f"{hashlib.sha256(code.encode()).hexdigest()}.map").write_bytes(data)
    return str(folder)


# ------------------------------------------------------------------ what a map says
def test_the_parts_that_a_map_attributes_to_packages_are_found() -> None:
    ranges, names = package_ranges(CODE.encode(), LYING)
    assert [CODE.encode()[begin:end].decode() for begin, end in ranges] == [PACKAGE, HIDDEN]
    assert names == {"lodash-es", "mine"}
    assert package_ranges(CODE.encode(), source_map((IN_SOURCE, CODE))) == ([], set())


@pytest.mark.parametrize(("source", "package"), [
    ("node_modules/zod/v4/index.js", "zod"), ("../node_modules/@scope/name/a.js", "@scope/name"),
    ("node_modules/a/node_modules/b/c.js", "b"), ("src/node_modules.ts", ""), ("src/my_node_modules/a/b.ts", ""),
    ("node_modules/zod", ""), ("", "")])
def test_a_source_in_node_modules_is_a_packages(source: str, package: str) -> None:
    assert packages.package_of(source) == package


def test_columns_are_those_of_utf_16_and_a_line_may_hold_both() -> None:
    body = 'const a = "é😀"; const b = 1;\nconst c = 2;\n'.encode()
    data = json.dumps({"version": 3, "sources": [IN_SOURCE, IN_PACKAGE], "names": [],
                       "mappings": encode([[(0, 0, 0, 0), (17, 1, 0, 0)], [(0, 0, 1, 0)]])}).encode()
    ((begin, end),) = package_ranges(body, data)[0]
    assert body[begin:end].decode() == "const b = 1;\n"
    assert [point.line for point in points_of(body, [(begin, end)])] == [1, 2]


@pytest.mark.parametrize("data", [b"{", b'{"version": 2}', b'{"version": 3, "sources": [], "mappings": "AAAA"}',
                                  b'{"version": 3, "sources": ["a"], "mappings": "A!"}'])
def test_a_broken_map_leaves_nothing_out(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadMap):
        package_ranges(CODE.encode(), data)
    assert by_its_own_maps(bundle(tmp_path, CODE, data), ["index.js"]) == packages.NOTHING


def test_what_is_left_out_gets_no_counter_and_no_line_moves() -> None:
    source = CODE.encode()
    ranges, _ = package_ranges(source, HONEST)
    made = with_counters(source, "index.js", "c0", left_out=ranges)
    assert made.source.endswith(b"//# sourceMappingURL=index.js.map\n") and made.source.count(b"\n") == CODE.count("\n")
    assert PACKAGE.encode() in made.source and OWN.encode() not in made.source
    assert made.points == points_of(source, ranges) and len(made.points) < len(points_of(source)) / 2


def alternating(places: int) -> bytes:
    """A map whose places, one column after the other, are of the author's and of a package in turn."""
    return json.dumps({"version": 3, "sources": [IN_SOURCE, IN_PACKAGE],
                       "mappings": ",".join(("CCAA", "CDAA")[number % 2] for number in range(places))}).encode()


def test_a_map_is_read_in_the_time_that_its_size_takes() -> None:
    """A line of 800 kB of which a map of 1.2 MB names every place: 7 minutes of the marketplace's process."""
    body = ("/*" + "\u00e9" * 400_000 + "*/").encode() + b"\nexport default 1;\n"
    begun = time.process_time()
    ranges, names = package_ranges(body, alternating(20_000))
    assert time.process_time() - begun < SECONDS_MAX and names == {"lodash-es"}
    assert len(ranges) == 10_000 and ranges[1] == (4, 6), ranges[:3]


def test_a_map_is_read_once_for_all_that_a_run_has_printed(tmp_path: Path) -> None:
    """A run of tests prints 200 lines, each with another place, and each time the whole map was read."""
    data = json.dumps({"version": 3, "sources": [IN_SOURCE], "mappings": ",".join(["CAAC"] * 150_000)}).encode()
    code = "x();" * 40_000 + "\nexport default {};\n//# sourceMappingURL=index.js.map\n"
    made = bundle(tmp_path / "sums", code, data)
    lines = [f"Error\n at f (sums/index.js:1:{number * 700 + 2})" for number in range(200)]
    begun = time.process_time()
    found = made.in_source_all([*lines, "a\0b", ""])
    assert time.process_time() - begun < SECONDS_MAX
    assert found[0] == "Error\n at f (sums/src/plugin.ts:1:2)" and found[3].endswith("plugin.ts:1:2102)")
    assert found[-2:] == ["a\ufffdb", ""] and len(found) == 202
    assert made.in_source_all([]) == []


@pytest.mark.parametrize(("text", "column", "expected"), [
    ("abc", 2, 2), ("abc", 9, 3), ("abc", -4, 0), ("\u00e9x", 1, 2), ("\u00e9x", 9, 3), ("x\U0001F600y", 3, 5),
    ("x\U0001F600y", 2, 1), ("\u00e9x", -1, 0)])
def test_a_column_is_where_its_character_begins_in_bytes(text: str, column: int, expected: int) -> None:
    assert packages.Line(text.encode()).bytes_before(column) == expected
    inside = packages.Line(text.encode())
    assert [inside.bytes_before(one) for one in range(column + 1)][-1:] in ([expected], [])


def test_a_map_of_more_places_than_a_bundle_has_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_exec.common.source_map.ORIGINS_MAX", 100)
    assert len(package_ranges(b"x" * 200, alternating(100))[0]) == 50
    with pytest.raises(BadMap, match="more than 100 places"):
        package_ranges(b"x" * 200, alternating(101))


# ------------------------------------------------------------------ who is believed
def test_the_operators_map_counts_for_the_very_same_bytes_only(tmp_path: Path) -> None:
    one = bundle(tmp_path / "b", CODE, HONEST)
    folder = maps_for(tmp_path / "maps", CODE, HONEST)
    assert by_maps_of_the_operator(one, ["index.js"], folder).packages == ["lodash-es"]
    assert by_maps_of_the_operator(one, ["index.js"], "") == packages.NOTHING
    other = bundle(tmp_path / "o", CODE + "\n", HONEST)
    assert by_maps_of_the_operator(other, ["index.js"], folder) == packages.NOTHING


@pytest.mark.parametrize(("name", "text"), [
    ("src/hidden.js", "export {}\n//# sourceMappingURL=data:application/json;base64,e30=\n"),
    ("old.js", "export {}\n//# sourceMappingURL=old.js.map\n")])
def test_a_bundle_that_could_lie_to_the_operators_build_counts_whole(tmp_path: Path, name: str, text: str) -> None:
    one = bundle(tmp_path / "b", CODE, HONEST, {name: text})
    assert by_maps_of_the_operator(one, ["index.js"], maps_for(tmp_path / "m", CODE, LYING)) == packages.NOTHING


# ------------------------------------------------------------------ in the jail, and at the gate
@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(None)


def checked(one: Bundle, settings: Settings, maps: str) -> tuple[dict[str, checks.Check], Run]:
    """The checks of a submission, as the marketplace runs them, and the run."""
    left_out = by_maps_of_the_operator(one, sources_of(one), maps)
    runs: list[Run] = []

    def run(bundle: Bundle) -> Run:
        runs.append(run_tests(bundle, settings, left_out=left_out))
        need("min_level" not in runs[-1].ended, runs[-1].ended)
        return runs[-1]

    found = checks.check(one, now_ns=0, scan=lambda _: ([], []), run_tests=run,
                         prove=lambda bundle, lines: prove(bundle, settings, lines, left_out=left_out),
                         contact="", response_hours=0, scaffold="")
    return {check.name: check for check in found.checks}, runs[0]


def test_an_honest_bundle_passes_by_the_operators_map_and_is_told_of_it_without(tmp_path: Path,
                                                                               settings: Settings) -> None:
    code = PACKAGE + OWN + END
    good = source_map((IN_PACKAGE, PACKAGE), (IN_SOURCE, OWN + END))
    one = bundle(tmp_path / "b", code, good)
    found, run = checked(one, settings, "")
    assert found["tests"].passed and not found["coverage"].passed
    assert any("lodash-es" in problem and "market.maps" in problem for problem in found["coverage"].problems)
    found, run = checked(one, settings, maps_for(tmp_path / "maps", code, good))
    assert found["tests"].passed and found["coverage"].passed, found
    assert found["coverage"].detail["percent"] == "100.00" and found["coverage"].detail["packages"] == ["lodash-es"]
    assert found["coverage"].detail["proven"] == found["coverage"].detail["lines"] > 3
    assert run.arcs["index.js"] and max(number for number, _ in run.arcs["index.js"]) < len(points_of(OWN.encode() * 2))


@pytest.mark.slow
def test_a_map_that_hides_the_authors_code_lowers_no_bar(tmp_path: Path, settings: Settings) -> None:
    one = bundle(tmp_path / "b", CODE, LYING)
    lied = by_its_own_maps(one, ["index.js"])
    run = run_tests(one, settings, left_out=lied)
    assert measure(one.files, run.arcs, ["index.js"], lied).enough, "the lie would do"
    for maps in ("", maps_for(tmp_path / "maps", CODE, HONEST)):
        found, _ = checked(one, settings, maps)
        assert found["tests"].passed and not found["coverage"].passed, found["coverage"]
        assert any("not run" in problem for problem in found["coverage"].problems)
