"""The executor's port: what the core asks for, and what it hears. One end a worker, whatever the worker is for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.executor.links.jobs import Probe
from apex_exec.executor.links.link_reader import PIECES_MAX, PIECES_WAIT_NS
from tests.support.executor import SPEC, PlayedExecutor, encoded
from workers import wire as inner

FAR_NS = 3600 * 10**9


@pytest.fixture
def played() -> Iterator[PlayedExecutor]:
    made = PlayedExecutor()
    yield made
    made.close()


@pytest.fixture
def warm() -> Iterator[PlayedExecutor]:
    """One spare is wanted."""
    made = PlayedExecutor(spares=1)
    made.executor.refill(time.monotonic_ns())
    made.turn()
    yield made
    made.close()


def of(played: PlayedExecutor, kind: type) -> list[Any]:
    """The events of that type."""
    return [event for event in played.events if isinstance(event, kind)]


def probe(played: PlayedExecutor, due_ns: int = FAR_NS) -> list[tuple[Any, str, str]]:
    """Starts a probe; what it tells, when it does."""
    told: list[tuple[Any, str, str]] = []
    played.executor.start_job(Probe(SPEC, {"plugin.py": b""}, time.monotonic_ns() + due_ns,
                                    lambda *end: told.append(end)))
    played.turn()
    return told


def newest(played: PlayedExecutor) -> int:
    """The number of the process that the zygote was asked for last."""
    return list(played.zygote.links)[-1]


# ---------------------------------------------------------------------- calls
def test_a_call_carries_the_time_it_has_left_beside_the_clock_that_it_is_judged_by(played: PlayedExecutor) -> None:
    played.start(1)
    played.heard(1)
    before_ns = time.monotonic_ns()
    played.call(1, 0, deadline_ns=before_ns + FAR_NS)
    after_ns = time.monotonic_ns()
    (call,) = played.heard(1)
    assert isinstance(call, inner.Call) and call.deadline_ns == before_ns + FAR_NS
    assert before_ns <= call.deadline_ns - call.left_ns <= after_ns


def test_an_executor_with_another_clock_can_judge_a_call_by_the_time_it_has_left(played: PlayedExecutor) -> None:
    """Another machine's clock began at another moment; what is left is the same there."""
    played.start(1)
    played.heard(1)
    played.call(1, 0, deadline_ns=time.monotonic_ns() + FAR_NS)
    (call,) = played.heard(1)
    elsewhere_ns = 17 * 10**9
    there = inner.Call(call.seq, call.hook, call.user_id, elsewhere_ns + call.left_ns, call.left_ns, call.params)
    assert FAR_NS - 5 * 10**9 < there.deadline_ns - elsewhere_ns <= FAR_NS


def test_what_the_worker_has_begun_is_counted_by_its_marks(played: PlayedExecutor) -> None:
    played.start(1)
    played.call(1, 0)
    played.call(1, 1)
    os.write(played.zygote.marks[1], b"m")
    played.executor.count_started(1, time.monotonic_ns())
    assert [(event.worker, event.count) for event in of(played, ev.CallsStarted)] == [(1, 1)]
    played.die(1)
    assert [(end.worker, end.started) for end in of(played, ev.WorkerGone)] == [(1, 1)]


def test_an_answer_in_single_bytes_wakes_the_loop_a_few_times_and_is_read_whole(played: PlayedExecutor) -> None:
    """A worker that writes bytes would otherwise have the loop read once for each of them."""
    played.start(1)
    played.call(1, 0)
    answer = encoded(inner.Reply(0, msgspec.Raw(b"\x82\xa6result\xa1x\xa8metadata\x80"), 0))
    reads = 0
    for at in range(len(answer)):
        played.zygote.links[1].send(answer[at:at + 1])
        reads += not played.executor.reading.size  # links that are not polled, and wait for their turn
        played.turn()
    assert reads == PIECES_MAX + 1 < len(answer)
    time.sleep(PIECES_WAIT_NS / 1e9)
    played.turn()
    assert [event.seq for event in of(played, ev.WorkerAnswered)] == [0]


def test_a_worker_that_marks_more_than_it_was_sent_is_a_violation(played: PlayedExecutor) -> None:
    played.start(1)
    played.call(1, 0)
    os.write(played.zygote.marks[1], b"mm")
    played.executor.count_started(1, time.monotonic_ns())
    played.turn()
    assert [event.worker for event in of(played, ev.WorkerViolated)] == [1]


# ---------------------------------------------------------------------- ends
@pytest.mark.parametrize(("status", "code", "details"), [
    (0, "WORKER_CRASHED", {"exitCode": 0}), (3 << 8, "WORKER_CRASHED", {"exitCode": 3}),
    (70 << 8, "BOOT_FAILED", {"exitCode": 70}), (71 << 8, "BOOT_FAILED", {"exitCode": 71}),
    (signal.SIGSEGV, "WORKER_CRASHED", {"signal": signal.SIGSEGV}),
    (signal.SIGXCPU, "CPU_LIMIT", {"signal": signal.SIGXCPU}),
])
def test_a_worker_ends_once_with_what_its_status_shows(played: PlayedExecutor, status: int, code: str,
                                                       details: dict[str, int]) -> None:
    played.start(1)
    played.die(1, status)
    played.zygote.tell(inner.Exited(1, 1, status, 0, 0, 0))  # reported twice, it ends once
    played.turn()
    (end,) = of(played, ev.WorkerGone)
    assert (end.worker, end.code, end.details) == (1, code, details)


def test_what_a_worker_wrote_before_its_death_counts(played: PlayedExecutor) -> None:
    played.start(1)
    played.call(1, 0)
    played.zygote.links[1].send(encoded(inner.Reply(0, inner.NIL, 0)))
    played.die(1)
    kinds = [type(event) for event in played.events if isinstance(event, ev.WorkerAnswered | ev.WorkerGone)]
    assert kinds == [ev.WorkerAnswered, ev.WorkerGone]


def test_a_refused_fork_is_an_end_of_its_own(played: PlayedExecutor) -> None:
    played.executor.start(act.StartWorker(1, SPEC), time.monotonic_ns())
    played.turn()
    played.zygote.tell(inner.ForkFailed(1, 11))
    played.turn()
    assert [event.worker for event in of(played, ev.ForkRefused)] == [1] and not of(played, ev.WorkerGone)


# ---------------------------------------------------------------------- kinds of worker
def test_a_spare_is_jailed_for_nobody_and_becomes_the_worker_that_is_asked_for(warm: PlayedExecutor) -> None:
    spare = newest(warm)
    assert warm.zygote.jails[spare] == {"of": ""}
    warm.boot(spare)
    assert len(warm.executor.forks.warm["python"]) == 1 and warm.heard(spare) == []
    warm.executor.start(act.StartWorker(7, SPEC), time.monotonic_ns())
    (load,) = warm.heard(spare)
    assert isinstance(load, inner.Load) and load.plugin == SPEC.id
    warm.say(spare, inner.Ready(SPEC.id, SPEC.version, [], []))
    assert [event.worker for event in of(warm, ev.WorkerReady)] == [7]
    warm.die(spare)
    assert [event.worker for event in of(warm, ev.WorkerGone)] == [7]


@pytest.mark.parametrize("message", [
    inner.Reply(0, inner.NIL, 0), inner.Skipped(0), inner.Pong(1), inner.ApiCall(0, 1, "log", inner.NIL),
    inner.ApiCancel(0, 1),
    inner.Ready("aaa", "1.0.0", [], []), inner.Booted([])])
def test_a_spare_that_says_what_it_cannot_know_is_killed_and_the_core_hears_nothing(warm: PlayedExecutor,
                                                                                    message: Any) -> None:
    spare = newest(warm)
    warm.boot(spare)
    warm.say(spare, message)
    assert warm.processes[spare].wait(10) == -signal.SIGKILL
    warm.die(spare, signal.SIGKILL)
    assert not [event for event in warm.events if not isinstance(event, ev.ZygoteUp)]


def test_a_probe_tells_what_the_code_declares_and_the_core_hears_nothing(played: PlayedExecutor) -> None:
    told = probe(played)
    number = newest(played)
    assert played.zygote.jails[number] == {"of": SPEC.id}, "the plugin's limits hold from the start"
    played.boot(number)
    (load,) = played.heard(number)
    assert load.mode == "probe" and load.files == {"plugin.py": b""}
    played.say(number, inner.Ready("aaa", "1.0.0", ["onDataFetch"], ["data:read"]))
    played.die(number)
    assert [value for value, _, _ in told] == [
        {"hooks": ["onDataFetch"], "permissions": ["data:read"], "usesLoop": False, "version": "1.0.0"}]
    assert not [event for event in played.events if not isinstance(event, ev.ZygoteUp)]


@pytest.mark.parametrize(("says", "why"), [
    ([inner.Failed("load", "", "ImportError", "no socket", "")], "load failed: ImportError: no socket"),
    ([inner.Ready("a", "1", [], []), inner.Ready("a", "1", [], [])], ""),
    ([inner.Ready("a", "1", ["x"] * 101, [])], "it declares more than any plugin has"),
    ([inner.Reply(0, inner.NIL, 0)], "sends a message about calls")])
def test_a_probe_says_why_it_has_nothing_to_say(played: PlayedExecutor, says: list[Any], why: str) -> None:
    told = probe(played)
    number = newest(played)
    played.boot(number)
    played.say(number, *says)
    played.die(number, 71 << 8)
    ((value, code, message),) = told
    assert (value is None) == bool(why) and code == "BOOT_FAILED" and why in message


def test_a_probe_that_takes_too_long_is_killed(played: PlayedExecutor) -> None:
    told = probe(played, due_ns=0)
    number = newest(played)
    played.boot(number)
    played.executor.upkeep(time.monotonic_ns())
    assert played.processes[number].wait(10) == -signal.SIGKILL
    played.die(number, signal.SIGKILL)
    assert "not loaded in time" in told[0][2]


def test_a_probe_without_a_process_is_told_so(played: PlayedExecutor) -> None:
    told = probe(played)
    played.zygote.tell(inner.ForkFailed(newest(played), 11))
    played.turn()
    assert [(value, code) for value, code, _ in told] == [(None, "OVERLOADED")]
