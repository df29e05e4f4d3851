"""The sentence on whether all is well, and the figures between two looks."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.console.figures import LOOKS_MAX, PLUGINS_MAX, History, Uses, plot, quantile_ms, verdict
from apex_exec.console.plugin_pages import cut
from apex_exec.console.rendering import environment, ms, number, percent, shown, unfolded, when, whole
from apex_exec.console.sessions import Person, Session
from apex_exec.observe.metrics import LATENCY_SECONDS

BOUNDS = list(LATENCY_SECONDS)


def overview(**changes: Any) -> dict[str, Any]:
    return {"ending": False, "draining": False, "health": {}, "waived": [], "plugins": 3, "states": {"enabled": 3},
            "paused": 0, "hurting": {"failures": []}, "calls": 10, "failed": 0, "throttledSeconds": 0.0,
            "uptimeSeconds": 100.0, "durations": {"seconds": BOUNDS, "counts": [0] * (len(BOUNDS) + 1)}, **changes}


SPINNER = {"id": "spinner", "failedRecently": 12, "lastFailure": "TIMEOUT"}


@pytest.mark.parametrize(("changes", "level", "says"), [
    ({}, "well", "All is well"),
    ({"calls": 0}, "well", "no host has called"),
    ({"ending": True, "health": {"audit": "x"}}, "bad", "ending"),
    ({"health": {"audit": "the disk is full", "loop": "y"}}, "bad", "audit: the disk is full (1 more)"),
    ({"draining": True}, "watch", "drained"),
    ({"waived": ["landlock"]}, "watch", "landlock"),
    ({"plugins": 0, "states": {}}, "watch", "no plugin yet"),
    ({"paused": 2}, "watch", "2 plugins are paused"),
    ({"hurting": {"failures": [SPINNER]}}, "watch", "spinner failed 12 times in the last five minutes (TIMEOUT)."),
    ({"hurting": {"failures": [SPINNER, SPINNER, SPINNER]}}, "watch", "2 others fail too"),
    ({"states": {"disabled": 3}}, "watch", "none of its plugins is enabled"),
])
def test_one_sentence_says_what_is_worst(changes: dict[str, Any], level: str, says: str) -> None:
    found = verdict(overview(**changes))
    assert found.level == level and says in found.why
    assert found.do or level == "well", "what is not well says what to do"


def test_percentiles_are_read_off_a_histogram() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    assert quantile_ms(BOUNDS, counts, 0.5) is None
    counts[3] = 100  # between 2.5 and 5 ms
    assert quantile_ms(BOUNDS, counts, 0.5) == pytest.approx(3.75)
    assert quantile_ms(BOUNDS, counts, 0.99) == pytest.approx(4.975)
    counts[-1] = 900
    assert quantile_ms(BOUNDS, counts, 0.99) == 5000


def test_rates_are_of_the_last_seconds_and_begin_anew_with_another_daemon() -> None:
    history = History()
    assert history.add(overview(calls=50), 0.0).calls == pytest.approx(0.5)  # since the start, 100 s ago
    for at in range(1, 31):
        rates = history.add(overview(calls=50 + 10 * at, failed=at), float(at))
    assert rates.calls == pytest.approx(10) and rates.failed == pytest.approx(1)
    assert history.line()[-1] == (0.0, 10.0) and len(history.line()) == 30
    assert history.add(overview(calls=350), 30.2).calls == pytest.approx(10)  # too soon for another look
    assert history.add(overview(calls=5, uptimeSeconds=10.0), 32.0).calls == pytest.approx(0.5)  # a new daemon
    assert history.line() == []
    for at in range(500):
        history.add(overview(calls=1000 + at), 100.0 + 2 * at)
    assert len(history.line()) == LOOKS_MAX - 1


def test_the_line_stays_in_its_box() -> None:
    assert plot([]) is plot([(0.0, 1.0)]) is None
    drawn = plot([(4.0, 0.0), (2.0, 8.0), (0.0, 4.0)])
    assert drawn is not None and (drawn.top, drawn.limit, drawn.seconds) == (8.0, None, 4.0)
    points = [tuple(map(float, point.split(","))) for point in drawn.points.split()]
    assert points == [(0.0, 46.0), (150.0, 2.0), (300.0, 24.0)]


def test_a_plot_has_room_for_the_limit_and_says_when_it_was_passed() -> None:
    below, above = plot([(2.0, 5.0), (0.0, 5.0)], 50.0), plot([(2.0, 100.0), (0.0, 5.0)], 50.0)
    assert below is not None and (below.top, below.limit, below.over) == (50.0, 2.0, False)
    assert above is not None and (above.top, above.limit, above.over) == (100.0, 24.0, True)


def test_what_a_plugin_uses_is_what_lies_between_two_looks_and_few_plugins_are_kept() -> None:
    uses = Uses()

    def look(cpu: float, calls: int, at: float, plugin: str = "a") -> Any:
        return uses.add(plugin, {"cpuSeconds": cpu, "calls": calls, "memoryMb": 4.0, "p99Ms": None, "limits": {
            "memory_mb": 50, "timeout_ms": 500, "cpu_percent": 10}}, at)

    first, second = look(1.0, 10, 0.0), look(1.5, 60, 5.0)
    assert first["share"] is first["rate"] is first["memory"] is None
    assert (second["share"], second["rate"]) == (pytest.approx(10), pytest.approx(10))
    assert second["memory"].top == 50 and second["cpu"] is None, "a share needs two looks, and its line three"
    assert look(9.0, 99, 5.5)["share"] == pytest.approx(10)  # too soon
    assert look(2.0, 70, 10.0)["cpu"].points.count(",") == 2
    assert look(0.0, 0, 15.0)["share"] is None  # the daemon began anew
    assert look(1.0, 5, 100.0)["share"] is None  # nobody looked for long
    for other in range(PLUGINS_MAX):
        look(1.0, 1, 101.0, f"other-{other}")
    assert look(1.5, 6, 105.0)["share"] is None


def test_numbers_are_written_as_people_read_them() -> None:
    assert [number(value) for value in (None, 0, 0.0, 12345, 3.14159, 0.042, 250.7)] == [
        "–", "0", "0", "12,345", "3.1", "0.04", "251"]
    assert [ms(value) for value in (None, 0.42, 12.0, 1300.0)] == ["–", "0.42 ms", "12 ms", "1.3 s"]
    assert [percent(value) for value in (None, 0.0, 3.21, 42.0)] == ["–", "0 %", "3.2 %", "42 %"]
    assert [whole(value, 50) for value in (-1, 25, 500)] == [0, 50, 100] and whole(1, 0) == 0
    assert [when(value) for value in (0, None, 10**18, 2**62, "x" * 41, 2**80)] == [
        "", "", "2001-09-09T01:46:40Z", when(2**62), "", ""]


def test_text_of_others_is_made_visible_and_cut() -> None:
    assert shown("a\x1b[31m\u202eb") == "a\\u001b[31m\\u202eb" and len(shown("x" * 2_000_000)) == 8193
    assert unfolded("Traceback\\n  File") == "Traceback\n  File"


def test_the_overview_of_a_fleet_names_its_nodes_and_what_is_wrong_with_them() -> None:
    now = overview(fleet=True, inFlight=0, queued=0, isolation="L4", minLevel="L2", workers=1, connections=1, pending=0)
    node = {"state": "serving", "version": "0.1.0", "role": "both", "plugins": 12, "here": True, "reason": ""}
    fleet = {"problem": "the engine is away", "nodes": [
        {**node, "node": "one"},
        {**node, "node": "<b>two</b>", "here": False, "state": "refused", "reason": "its key"}]}
    page = environment().get_template("overview.html").render(
        fragment=True, now=now, verdict=verdict(now), rates=History().add(now, 1.0), by="failures", line=None,
        measures={"failures": "Failures"}, hurting=[], fleet=fleet)
    assert "1 of 2 nodes serve" in page and "the engine is away" in page and "its key" in page
    assert "&lt;b&gt;two&lt;/b&gt;" in page and "this one" in page


@pytest.mark.parametrize("chars", [40_000, 100_000])
def test_a_long_result_is_shown_as_far_as_is_said_and_what_is_missing_is_said(chars: int) -> None:
    """What a preview cuts off has to be the preview's own decision, which it tells the reader."""
    page = environment().get_template("try.html").render(
        session=Session(Person("ann", ("operator",)), 0.0, 0.0), notes=[], fragment=False, version="1", id="sample",
        path="/plugins/sample/try", known={"version": "1.0.0", "hooks": ["onDataFetch"]}, may_try=True, problem="",
        hint="", written={"hook": "onDataFetch", "payload": "p" * 30_000}, done={
            "hook": "onDataFetch", "version": "1.0.0", "result": cut("r" * chars), "more": 0, "usage": {
                "executionTimeMs": 1.0, "cpuMs": 1.0, "memoryUsedMb": 1.0, "cold": False}, "effects": [
                    {"kind": "emit", "name": "e", "body": cut("e" * chars)}]})
    assert "p" * 30_000 + "<" in page, "what somebody wrote comes back whole, or the next call is not JSON"
    for letter in "re":
        assert letter * min(chars, 59_999) in page
        assert (f"… ({chars + 2:,} characters)" in page) == (chars > 60_000)
