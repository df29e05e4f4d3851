"""The sliding window is exact: never more than the limit in any window, and a wait that is enough."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.core.rate_window import USERS_SEEN, Pace, SharedWindow

gaps = st.lists(st.integers(0, 60), min_size=1, max_size=120)


def taken(window: SharedWindow, now: int) -> int:
    """One try of a user who is alone: how long it has to wait."""
    wait, is_users = window.take("a", now)
    assert not is_users
    return wait


@given(limit=st.integers(1, 8), gaps=gaps)
def test_a_try_passes_where_fewer_than_the_limit_were_made_in_the_window_before_it(limit: int, gaps: list[int]) -> None:
    window, now, tries = SharedWindow(limit, window_ns=100), 0, []
    for gap in gaps:
        now += gap
        recent = [at for at in tries if now - at < 100]
        assert (taken(window, now) == 0) == (len(recent) < limit)
        tries.append(now)  # refused tries count too


@given(limit=st.integers(1, 8), gaps=gaps)
def test_who_waits_as_long_as_told_passes_and_one_nanosecond_less_does_not(limit: int, gaps: list[int]) -> None:
    for early in (0, 1):
        window, now = SharedWindow(limit, window_ns=100), 0
        for gap in gaps:
            now += gap
            wait = taken(window, now)
        if wait:
            assert (taken(window, now + wait - early) == 0) == (early == 0)


def test_a_limit_of_zero_refuses_and_a_changed_limit_keeps_the_past() -> None:
    assert taken(SharedWindow(0), 5) > 0
    window = SharedWindow(3, window_ns=100)
    assert [taken(window, at) for at in (0, 1, 2)] == [0, 0, 0]
    window.resize(2)
    assert taken(window, 50) == 52  # the second of the two latest tries, at 2, leaves at 102
    window.resize(5)
    assert taken(window, 60) == 0


@given(st.floats(0.5, 5000), st.integers(1, 2000), st.lists(st.integers(0, 10**9), max_size=200))
def test_a_pace_that_is_kept_lets_no_more_through_than_rate_and_burst(rate: float, burst: int, gaps: list[int]) -> None:
    pace, now_ns, taken = Pace(rate, burst, 0), 0, 0
    for gap_ns in gaps:
        now_ns += gap_ns
        taken += 1
        now_ns += pace.take(now_ns)
        assert taken - 1 <= burst + now_ns * rate / 1e9 + 1e-3


def test_a_pace_holds_back_nobody_who_keeps_it() -> None:
    pace = Pace(500, 1000, 0)
    assert not any(pace.take(n * 2_000_000) for n in range(5000))
    assert [pace.take(10**11) > 0 for _ in range(1002)] == [False] * 1000 + [True] * 2


def test_a_user_alone_has_every_try_and_a_quarter_while_another_is_present() -> None:
    window = SharedWindow(8, window_ns=100)
    window.present("a", 0)
    assert [window.take("a", at) for at in range(3)] == [(0, False)] * 3
    window.present("b", 3)
    assert window.take("a", 4) == (1 + 100 - 4, True), "its second latest try, at 1, has to leave the window"
    assert window.take("b", 5) == window.take("b", 6) == (0, False)
    assert window.take("b", 7)[1] is True
    assert [window.take("c", at) for at in (8, 9)] == [(0, False)] * 2
    assert window.take("d", 10) == (0, False)
    assert window.take("d", 11) == (0 + 100 - 11, False), "the plugin's eight are used up"
    assert window.take("d", 12) == (0 + 100 - 12, False), "and a refused try among several makes nobody wait longer"


def test_a_try_over_a_users_share_does_not_use_up_the_others() -> None:
    window = SharedWindow(8, window_ns=100)
    window.present("b", 0)
    for at in range(50):
        window.take("a", at)
    assert window.take("b", 51) == window.take("b", 52) == (0, False)


@pytest.mark.parametrize("heavy", [1, 3, 4, 6])
def test_users_who_try_without_end_leave_modest_ones_what_they_need_and_the_plugin_all_it_may(heavy: int) -> None:
    """With three of them, and three modest users with a try each 5 s, every try of everybody was refused, for ever."""
    window = SharedWindow(100, window_ns=600)
    passed: Counter[str] = Counter()
    for now in range(6000):
        users = [f"heavy {number}" for number in range(heavy)] if now % 2 == 0 else []
        users += [f"modest {number}" for number in range(3)] if now % 50 == 0 else []
        for user in users:
            window.present(user, now)
            passed[user] += window.take(user, now) == (0, False) and now >= 600
    assert all(passed[f"modest {number}"] >= 95 for number in range(3)), passed  # of 108
    assert passed.total() >= 9 * min(100, 36 + 25 * heavy) * 0.8, passed


def test_a_try_costs_the_same_however_many_are_kept() -> None:
    window = SharedWindow(1_000_000)
    for number in range(50_000):
        window.take("a", number)
    window.present("b", 50_000)
    begun_ns = time.process_time_ns()
    for number in range(1000):
        window.take("b", 50_000 + number)
    assert time.process_time_ns() - begun_ns < 1000 * 200_000


def test_who_has_left_leaves_the_whole_to_the_others_and_what_is_kept_is_bounded() -> None:
    window = SharedWindow(4, window_ns=100)
    for number in range(1000):
        window.present(f"u{number}", 0)
    assert len(window._present) == USERS_SEEN
    window.present("a", 150)
    assert [window.take("a", at) for at in range(150, 154)] == [(0, False)] * 4
    assert window.take("a", 154) == (151 + 100 - 154, False)
    window.resize(2)
    assert window.take("a", 260) == (0, False)


@given(limit=st.integers(1, 12), tries=st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=120))
def test_a_shared_window_never_lets_more_through_than_its_limit(limit: int, tries: list[tuple[int, str]]) -> None:
    window, now, passed = SharedWindow(limit, window_ns=100), 0, []
    for gap, user in tries:
        now += gap
        window.present(user, now)
        if window.take(user, now) == (0, False):
            passed.append((now, user))
        recent = [name for at, name in passed if now - at < 100]
        assert len(recent) <= limit
