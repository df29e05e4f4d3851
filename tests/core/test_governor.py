"""The CPU bucket with a played clock: the share holds over any samples, across workers, and nobody is held for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.core.governor import QUANTUM_NS, SLACK_BYTES, WAIT_NS_MAX, CpuBucket, Governor, memory_bytes_max
from apex_exec.core.limits import MS_NS, SECOND_NS

MB = 1024 * 1024


def spin(governor: Governor, seconds: int, sample_ns: int, now_ns: int) -> tuple[float, int]:
    """A plugin that takes all the CPU it can get, read every ``sample_ns``: (CPU seconds, the time then)."""
    used_ns, end_ns = 0, now_ns + seconds * SECOND_NS
    while now_ns < end_ns:
        if governor.is_throttled("p"):
            due_ns = governor.next_due_ns()
            assert due_ns is not None
            now_ns = max(now_ns, due_ns)
            assert list(governor.due(now_ns)) == ["p"] and not governor.is_throttled("p")
            continue
        now_ns += sample_ns
        used_ns += sample_ns
        governor.charge("p", sample_ns, now_ns)
    return used_ns / SECOND_NS, now_ns


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 400), st.sampled_from((1, 5, 10, 25, 50)), st.sampled_from((0.05, 0.5, 2.0)))
def test_a_plugin_that_spins_gets_its_share_however_coarse_the_samples_are(
        sample_ms: int, percent: int, burst: float) -> None:
    governor = Governor()
    governor.tune("p", percent, burst, 10**12)
    _, now_ns = spin(governor, 40, sample_ms * MS_NS, 10**12)
    used, end_ns = spin(governor, 400, sample_ms * MS_NS, now_ns)
    share = 100 * used / ((end_ns - now_ns) / SECOND_NS)
    assert abs(share - percent) < 0.5


def test_the_burst_comes_first_and_comes_back_while_the_plugin_is_quiet() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    held = [governor.charge("p", 10 * MS_NS, 10 * MS_NS * n) for n in range(1, 100)]
    assert held.index(True) == 55  # 0.5 s and what came in meanwhile
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    assert not governor.charge("p", 490 * MS_NS, SECOND_NS)
    assert not governor.charge("p", 490 * MS_NS, 7 * SECOND_NS)


def test_short_hooks_are_never_held() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    assert not any(governor.charge("p", MS_NS, n * 50 * MS_NS) for n in range(1, 10_000))


def test_many_short_calls_are_one_long_one_to_the_bucket() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    assert any(governor.charge("p", MS_NS, n * 2 * MS_NS) for n in range(1, 1000))


def test_what_is_charged_while_held_is_waited_off_too() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    assert governor.charge("p", 600 * MS_NS, 0)
    first = governor.next_due_ns()
    assert not governor.charge("p", 100 * MS_NS, MS_NS)
    second = governor.next_due_ns()
    assert first is not None and second is not None and second - first == SECOND_NS


def test_a_worker_after_a_kill_owes_what_the_killed_one_owed() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    governor.charge("p", 900 * MS_NS, 0)
    governor.tune("p", 10, 0.5, MS_NS)  # the next worker of the same plugin
    assert governor.is_throttled("p")
    assert governor.next_due_ns() == (400 * MS_NS + QUANTUM_NS) * 10 + 1
    governor.forget("p")
    assert not governor.charge("p", 10**9, 2 * MS_NS), "the last worker of a removed plugin ends after it"
    assert not governor.is_throttled("p") and governor.next_due_ns() is None


def test_a_larger_share_lets_a_held_plugin_go_on_sooner() -> None:
    governor = Governor()
    governor.tune("p", 10, 0.5, 0)
    governor.charge("p", 900 * MS_NS, 0)
    governor.tune("p", 100, 0.5, 0)
    assert governor.next_due_ns() == 410 * MS_NS + 1


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(-(10**9), 10**10)), max_size=50))
def test_a_clock_that_stands_or_goes_back_gives_nothing(moves: list[tuple[int, int]]) -> None:
    bucket, now_ns, spent_ns, latest_ns = CpuBucket(0.1, 5 * 10**8, 0), 0, 0, 0
    for cpu_ns, passed_ns in moves:
        now_ns += passed_ns
        latest_ns = max(latest_ns, now_ns)
        bucket.spend(cpu_ns, now_ns)
        spent_ns += cpu_ns
        assert bucket.level_ns <= 5 * 10**8
        assert spent_ns + bucket.level_ns <= 5 * 10**8 + latest_ns * 0.1 + 1


def test_memory_counts_above_the_idle_worker_and_an_idle_worker_cannot_claim_much() -> None:
    assert memory_bytes_max(50, 3 * MB) == 53 * MB + SLACK_BYTES
    assert memory_bytes_max(50, 40 * MB) == 56 * MB + SLACK_BYTES


EXTREMES = st.one_of(st.floats(), st.sampled_from((0.0, -0.0, 5e-324, 1e-320, 1e-300, 1e308, -1.0, 0.1)))


@given(EXTREMES, EXTREMES, st.lists(st.tuples(st.integers(0, 2**64), st.integers(0, 2**62)), max_size=20))
def test_whatever_share_it_is_told_the_governor_answers_with_a_time(
        percent: float, burst: float, moves: list[tuple[int, int]]) -> None:
    governor, now_ns = Governor(), 0
    governor.tune("p", percent, burst, now_ns)
    for cpu_ns, passed_ns in moves:
        now_ns += passed_ns
        governor.charge("p", cpu_ns, now_ns)
        governor.tune("p", percent, 1.0, now_ns)
        due_ns = governor.next_due_ns()
        assert due_ns is None or due_ns <= now_ns + WAIT_NS_MAX
        list(governor.due(now_ns))
