"""Every way to go wrong in every phase of a worker: one outcome a request, the right reason, and the pool serves on."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asleep import wait_asleep
from tests.support.caller import Caller, outcome
from tests.support.daemon import Daemon, wait_for
from tests.support.faulty import FAULTS, PHASES, write_faulty, write_steady

PATIENCE_MS = 15_000
STOPPED_MS = 1500
"""Deadlines: of calls that fail by themselves, and of those whose worker is stopped and must be killed for it."""
BOOT_SECONDS = 3.0
CRASH = {"WORKER_CRASHED"}
OVERFLOW = CRASH if sys.version_info < (3, 12) else {*CRASH, "PLUGIN_ERROR"}
"""CPython 3.12 bounds the recursion of its own C code, so that an overflow may be an exception there."""
RUN = {"raise": {"PLUGIN_ERROR"}, "oom": {"MEMORY_LIMIT"}, "SIGSTOP": {"TIMEOUT"}, "overflow": OVERFLOW}
"""Codes of a call whose worker fails while the call is its own; where none stands here: WORKER_CRASHED."""
ENCODE = {"SIGSTOP": {"TIMEOUT"}, "oom": {"MEMORY_LIMIT", "WORKER_CRASHED"}, "overflow": OVERFLOW}
BEHIND = {"SIGSTOP": {"TIMEOUT", "DEADLINE_EXCEEDED", "ok"}}
"""Codes of a call that waits behind one whose worker fails: it goes to the next worker, unless its deadline passes."""
SIGNALS = {"SIGSEGV": signal.SIGSEGV, "SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
DETAILS = {"exit": {"exitCode": 3}, "SIGSEGV": {"signal": 11}, "SIGKILL": {"signal": 9}, "overflow": {"signal": 11}}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="apx") as name:
        plugins = Path(name) / "plugins"
        write_steady(plugins)
        for phase in PHASES:
            for fault in FAULTS:
                write_faulty(plugins, phase, fault)
        config = {"breaker.ends": 1000, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02,
                  "pool.boot_seconds": BOOT_SECONDS, "limits.cpu_percent": 100}
        with Daemon(name, plugins=plugins, config=config) as running:
            yield running


@pytest.fixture
def caller(daemon: Daemon) -> Iterator[Caller]:
    with Caller(daemon.endpoint) as calling:
        assert calling.call("steady", echo=1)["result"]["result"] == 1
        yield calling
        assert outcome(calling.call("steady", echo=2)) == "ok", "the pool serves others"
        calling.settle()


def deadline_ms(fault: str) -> int:
    """How long a call gets."""
    return STOPPED_MS if fault == "SIGSTOP" else PATIENCE_MS


def hit(daemon: Daemon, plugin: str, fault: str) -> None:
    """Sends the signal of ``fault`` to the plugin's worker, once it is where it sleeps."""
    if fault not in SIGNALS:
        return
    wait_for(lambda: daemon.pids(plugin), 5, "a worker")
    (pid,) = daemon.pids(plugin)
    wait_asleep(pid)
    os.kill(pid, SIGNALS[fault])


def serves_again(caller: Caller, plugin: str) -> None:
    """The plugin itself answers again; a worker that was stopped while idle may cost one call its deadline."""
    wait_for(lambda: outcome(caller.call(plugin, "ok", STOPPED_MS, echo=3)) == "ok", 5, f"{plugin} serves again")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", ["decode", "run", "encode"])
@pytest.mark.slow_after(4)
def test_a_worker_that_fails_with_a_call(daemon: Daemon, caller: Caller, phase: str, fault: str) -> None:
    plugin = f"{phase}-{fault.lower()}"
    # In `run` the hook itself fails; in `encode` the answer of the call that prepares for it; in `decode` the next one.
    assert outcome(caller.call(plugin, "arm" if phase == "decode" else "ok")) == "ok"
    first = caller.invoke(plugin, {"decode": "ok", "run": "fault", "encode": "arm"}[phase], deadline_ms(fault))
    behind = [caller.invoke(plugin, "ok", 2 * deadline_ms(fault)) for _ in range(3)]
    hit(daemon, plugin, fault)
    failed, *others = caller.collect([first, *behind])
    expected = (ENCODE if phase == "encode" else RUN).get(fault, CRASH)
    assert outcome(failed) in expected, failed
    assert failed["started"] and not failed["retryable"]
    if outcome(failed) == "WORKER_CRASHED" and phase == "run":
        assert failed["details"] == DETAILS[fault]
    # In decode and encode a worker that survives (a plain exception) stays spoilt: it is the plugin's own doing.
    assert {outcome(reply) for reply in others} <= (
        {"ok"} | BEHIND.get(fault, set()) | (expected if phase != "run" else set())), others


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow_after(3)
def test_a_worker_that_fails_after_its_reply(daemon: Daemon, caller: Caller, fault: str) -> None:
    plugin = f"written-{fault.lower()}"
    armed = caller.invoke(plugin, "arm", deadline_ms(fault))
    behind = [caller.invoke(plugin, "ok", 2 * deadline_ms(fault), echo=n) for n in range(3)]
    hit(daemon, plugin, fault)
    replies = caller.collect([armed, *behind])
    assert outcome(replies[0]) == "ok", "what was written before the end counts"
    for number, reply in enumerate(replies[1:]):
        assert outcome(reply) in {"ok"} | BEHIND.get(fault, set()), reply
        assert outcome(reply) != "ok" or reply["result"]["result"] == number
    serves_again(caller, plugin)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow_after(3)
def test_a_worker_that_fails_while_idle(daemon: Daemon, caller: Caller, fault: str) -> None:
    plugin = f"idle-{fault.lower()}"
    assert outcome(caller.call(plugin, "arm", deadline_ms(fault))) == "ok"
    hit(daemon, plugin, fault)
    caller.settle()
    serves_again(caller, plugin)
    wait_for(lambda: f'worker_exits_total{{plugin="{plugin}"' in daemon.metrics(), 5, "the end of the failed worker")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow_after(3)
def test_a_worker_that_fails_at_boot(daemon: Daemon, caller: Caller, fault: str) -> None:
    plugin = f"boot-{fault.lower()}"
    begun = time.monotonic()
    calls = [caller.invoke(plugin, "ok") for _ in range(3)]
    hit(daemon, plugin, fault)
    for reply in caller.collect(calls):
        assert outcome(reply) in {"BOOT_FAILED", "WORKER_CRASHED", "MEMORY_LIMIT"}, reply
        assert not reply["started"]
    assert time.monotonic() - begun < BOOT_SECONDS + 2
