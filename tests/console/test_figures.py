"""The sentence on whether all is well, and the figures between two looks."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.console.figures import LOOKS_MAX, History, Shares, quantile_ms, sparkline, verdict
from apex_exec.console.rendering import ms, number, percent, shown, unfolded, when, whole
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
    assert sparkline([]) == sparkline([(0.0, 1.0)]) == ""
    points = [tuple(map(float, point.split(","))) for point in sparkline([(4.0, 0.0), (2.0, 8.0), (0.0, 4.0)]).split()]
    assert points == [(0.0, 46.0), (150.0, 2.0), (300.0, 24.0)]


def test_cpu_is_a_share_between_two_looks() -> None:
    shares = Shares()
    assert shares.percent("a", 1.0, 0.0) is None and shares.percent("a", 1.5, 5.0) == pytest.approx(10)
    assert shares.percent("a", 9.0, 5.5) == pytest.approx(10)  # too soon
    assert shares.percent("a", 0.0, 10.0) is None  # the daemon began anew
    assert shares.percent("a", 1.0, 100.0) is None  # nobody looked for long


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
