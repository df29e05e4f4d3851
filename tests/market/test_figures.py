"""What authors see of how their plugins do: their own versions, counted, and nothing that a user or a plugin wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import CODES, Refusal
from apex_exec.market.releases.signatures import KNOWN, OTHER, ROWS_MAX, Facts, Seen, held_to
from tests.market.shops import write_bundle
from tests.market.staging import Operator

SECRET = "alice@example.com"
FACTS = Facts({"plugin.py": 9, "lib/sums.py": 40}, frozenset({"class", "BadRow", "total"}))


@pytest.fixture
def operator(tmp_path: Path, url: str) -> Iterator[Operator]:
    made = Operator(tmp_path, url if url.startswith("postgresql") else "")
    yield made
    made.close()


def versions(operator: Operator, name: str = "ann", **args: Any) -> dict[str, dict[str, Any]]:
    found = operator.market("market.figures", submitter=name, **args)
    return {row["version"]: row for one in found["plugins"] for row in one["versions"]}


def test_an_author_sees_installs_calls_failures_and_times_by_version(operator: Operator) -> None:
    first, second = operator.approved("1.0.0"), operator.approved("1.1.0")
    operator.publish(first["id"])
    operator.install("1.0.0")
    operator.call(90, 10, run_ms=10.0)
    operator.publish(second["id"], 25)
    operator.install("1.1.0")
    operator.call(9, 1, "TIMEOUT", run_ms=400.0)
    operator.call(5, 3, "CANCELLED", run_ms=400.0)
    operator.failed = [("sums", first["digest"], "PLUGIN_ERROR", "KeyError", "plugin.py:6", 8),
                       ("sums", first["digest"], "PLUGIN_ERROR", "KeyError", "plugin.py:7", 2)]
    operator.look()
    operator.failed = [("sums", first["digest"], "PLUGIN_ERROR", "KeyError", "plugin.py:7", 9)]
    operator.look()
    found = versions(operator)
    old, new = found["1.0.0"], found["1.1.0"]
    assert (old["installs"], old["calls"], old["failures"], old["codes"]) == (0, 100, 10, {"PLUGIN_ERROR": 10})
    assert (new["installs"], new["calls"], new["failures"], new["codes"]) == (1, 18, 1, {"TIMEOUT": 1})
    assert (new["state"], new["percent"], old["state"], old["failureRate"]) == ("staged", 25, "published", 0.1)
    assert 10 <= old["p50Ms"] <= old["p95Ms"] < 12.5 and 400 <= new["p50Ms"] < 500
    assert [(one["place"], one["failures"]) for one in old["signatures"]] == [("plugin.py:7", 11), ("plugin.py:6", 8)]
    assert list(found) == ["1.1.0", "1.0.0"], "the newest first"


def test_what_daemons_with_one_store_have_counted_adds_up(operator: Operator, tmp_path: Path) -> None:
    one = operator.approved("1.0.0")
    operator.publish(one["id"])
    other = Operator(tmp_path / "other", market_url=operator.market.settings.market.url)
    write_bundle(other.folder / "sums-1.0.0", version="1.0.0")
    for daemon, good, bad in ((operator, 10, 1), (other, 5, 2)):
        daemon.install("1.0.0")
        daemon.call(good, bad)
        daemon.failed = [("sums", one["digest"], "PLUGIN_ERROR", "KeyError", "plugin.py:6", bad)]
        daemon.look()
    (row,) = versions(operator).values()
    assert (row["installs"], row["calls"], row["failures"]) == (2, 18, 3)
    assert [kind["failures"] for kind in row["signatures"]] == [3]
    other.stage.run("plugin.remove", id="sums")
    other.look()
    assert [row["installs"] for row in versions(operator).values()] == [1]
    other.close()


def test_an_author_sees_nobody_elses_and_only_the_bytes_that_were_submitted(operator: Operator) -> None:
    operator.publish(operator.approved("1.0.0")["id"])
    operator.install("1.0.0")
    write_bundle(operator.folder / "sums-2.0.0", version="2.0.0")  # the operator's own change, never submitted
    operator.install("2.0.0")
    operator.call(5)
    operator.look()
    assert {row["installs"] for row in versions(operator).values()} == {0} and list(versions(operator)) == ["1.0.0"]
    assert list(versions(operator, "ACME corp")) == ["1.0.0"], "the manifest's author is one, too"
    assert versions(operator, "bob") == {} == versions(operator, plugin="other") == versions(operator, "%")
    with pytest.raises(Refusal) as caught:
        operator.market("market.figures", submitter=" ")
    assert caught.value.reason == "submitter_missing"


def test_nothing_that_a_plugin_wrote_comes_through_unless_its_source_has_it(operator: Operator) -> None:
    one = operator.approved("1.0.0")
    operator.publish(one["id"])
    operator.install("1.0.0")
    operator.failed = [("sums", one["digest"], SECRET, SECRET, SECRET, 1),
                       ("sums", one["digest"], "PLUGIN_ERROR", "alice", f"{SECRET}:1", 1),
                       ("sums", one["digest"], "PLUGIN_ERROR", "ValueError", "plugin.py:41700000", 1),
                       ("sums", one["digest"], "PLUGIN_ERROR", "KeyError", "README.md:1", 1),
                       ("gone", "f" * 64, "PLUGIN_ERROR", "total", "plugin.py:1", 1)]
    operator.look()
    (row,) = versions(operator).values()
    assert {(one["code"], one["exception"], one["place"]) for one in row["signatures"]} == {
        ("INTERNAL", OTHER, OTHER), ("PLUGIN_ERROR", OTHER, OTHER), ("PLUGIN_ERROR", "ValueError", OTHER),
        ("PLUGIN_ERROR", "KeyError", OTHER)}
    path = operator.folder / "market.db"
    assert not path.exists() or b"alice" not in path.read_bytes()


def test_the_kinds_of_failures_of_a_version_have_a_bound(operator: Operator) -> None:
    one = operator.approved("1.0.0")
    operator.publish(one["id"])
    operator.install("1.0.0")
    operator.failed = [("sums", one["digest"], code, exception, "", 1)
                       for code in ("PLUGIN_ERROR", "TIMEOUT") for exception in sorted(KNOWN)[: ROWS_MAX * 2 // 3]]
    count = len(operator.failed)
    assert count > ROWS_MAX
    operator.look()
    (row,) = versions(operator).values()
    assert len(row["signatures"]) == 20 and row["signatures"][0]["exception"] == OTHER
    assert row["signatures"][0]["failures"] == count - ROWS_MAX, "what has no room is counted together"


@given(st.text(), st.text(), st.text(), st.booleans())
def test_whatever_the_text_what_is_kept_is_known_to_the_bundle(code: str, exception: str, place: str,
                                                               has_bundle: bool) -> None:
    kept = held_to(FACTS if has_bundle else None, Seen("sums", "d", code, exception, place, 1))
    assert kept[0] in CODES
    assert kept[1] in KNOWN | {OTHER, ""} | (FACTS.words if has_bundle else set())
    path, _, line = kept[2].rpartition(":")
    assert kept[2] in (OTHER, "") or (has_bundle and 1 <= int(line) <= FACTS.lines[path])


@pytest.mark.parametrize(("exception", "place", "kept"), [
    ("BadRow", "lib/sums.py:40", ("BadRow", "lib/sums.py:40")), ("json.JSONDecodeError", "plugin.py:1", (
        "JSONDecodeError", "plugin.py:1")), ("BadRow", "lib/sums.py:41", ("BadRow", OTHER)),
    ("", "", ("", "")), ("BadRo", "plugin.py:0", (OTHER, OTHER)), ("TypeError", "plugin.py:007", (
        "TypeError", "plugin.py:7"))])
def test_a_class_and_a_line_that_the_source_has_are_kept(exception: str, place: str, kept: tuple[str, str]) -> None:
    assert held_to(FACTS, Seen("sums", "d", "PLUGIN_ERROR", exception, place, 1))[1:] == kept
