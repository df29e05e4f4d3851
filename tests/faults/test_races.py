"""A reply and the end of its request at the same moment: one outcome, and never somebody else's."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.support.caller import Caller, outcome
from tests.support.daemon import Daemon
from tests.support.faulty import write_steady

PLUGINS = ("steady-a", "steady-b", "steady-c", "steady-d")
DEADLINE_MS = 25
JITTER_MS = 4
LATE_ROUNDS = 100
CANCELS = 10_000
IN_FLIGHT = 64


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="apx") as name:
        plugins = Path(name) / "plugins"
        for plugin in PLUGINS:
            write_steady(plugins, plugin)
        config = {"breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001,
                  "breaker.backoff_max_seconds": 0.002, "limits.cpu_percent": 100}
        with Daemon(Path(name), plugins=plugins, config=config) as running:
            yield running


@pytest.mark.slow
def test_replies_that_arrive_at_the_deadline_never_reach_another_caller(daemon: Daemon) -> None:
    rng = random.Random(20261124)
    seen: Counter[str] = Counter()
    with zmq.Context() as context:
        callers = [Caller(daemon.endpoint, context) for _ in PLUGINS]
        for caller, plugin in zip(callers, PLUGINS, strict=True):
            assert outcome(caller.call(plugin)) == "ok"
        for round_ in range(LATE_ROUNDS):
            sent = []
            for number, caller in enumerate(callers):
                plugin = PLUGINS[(number + round_) % len(PLUGINS)]  # the next caller of this worker is another one
                seconds = (DEADLINE_MS + rng.uniform(-JITTER_MS, JITTER_MS)) / 1000
                token = f"{number}/{round_}"
                late = caller.invoke(plugin, "sleep", DEADLINE_MS, seconds=seconds, echo=token)
                then = caller.invoke(plugin, "ok", echo=token + "/then")
                sent.append((caller, late, then, token))
            for caller, late, then, token in sent:
                replies = caller.collect([late, then])
                seen[outcome(replies[0])] += 1
                assert outcome(replies[0]) in ("ok", "TIMEOUT", "DEADLINE_EXCEEDED"), replies[0]
                if outcome(replies[1]) != "ok":  # its worker answered the first, began it, and was killed for the first
                    assert outcome(replies[0]) == "TIMEOUT" and outcome(replies[1]) == "WORKER_CRASHED", replies
                    assert replies[1]["started"] and not replies[1]["retryable"]
                    seen["bystander"] += 1
                for reply, expected in zip(replies, (token, token + "/then"), strict=True):
                    assert outcome(reply) != "ok" or reply["result"]["result"] == expected, reply
        for caller in callers:
            caller.settle()
            caller.__exit__()
    assert seen["bystander"] <= LATE_ROUNDS * len(PLUGINS) // 20, seen
    assert seen["ok"] > 10 and seen["TIMEOUT"] > 10, f"the deadline was not met from both sides: {seen}"


@pytest.mark.slow
def test_a_cancel_and_a_completion_at_once_are_one_outcome(daemon: Daemon) -> None:
    rng = random.Random(20261125)
    seen: Counter[str] = Counter()
    with Caller(daemon.endpoint) as caller:
        done = 0
        while done < CANCELS:
            pairs = []
            for number in range(IN_FLIGHT):
                call = caller.invoke(PLUGINS[number % 4], "ok", echo=done + number)
                if rng.random() < 0.5:
                    due = time.perf_counter() + rng.random() * 0.0004
                    while time.perf_counter() < due:
                        pass
                pairs.append((call, caller.send(type="cancel", target=call), done + number))
            replies = caller.collect([i for call, cancel, _ in pairs for i in (call, cancel)])
            for (call, _, echo), reply, cancelled in zip(pairs, replies[::2], replies[1::2], strict=True):
                seen[outcome(reply)] += 1
                assert cancelled["type"] == "cancelled" and cancelled["target"] == call
                if outcome(reply) == "ok":
                    assert reply["result"]["result"] == echo
                else:
                    assert outcome(reply) == "CANCELLED" and cancelled["found"], (reply, cancelled)
            done += IN_FLIGHT
            for call, cancel, _ in pairs:  # kept small: only what is late may still come
                caller.only(call), caller.only(cancel)
        caller.settle()
        assert outcome(caller.call(PLUGINS[0])) == "ok"
    assert min(seen["ok"], seen["CANCELLED"]) > CANCELS // 50, f"no race took place: {seen}"
