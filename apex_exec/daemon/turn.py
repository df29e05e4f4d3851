"""One round of the loop, in the order in which it is done: what is ready leaves, duties, traffic, timers, the outcome.

What is ready to go leaves first, so that no answer waits for what is taken in after it. Then come the duties whose time
has come; whatever they bring about leaves at the end of the same round. Connections and links are read in bounded
parts, so that a round takes milliseconds at most. No exception leaves a round: it costs the duty, or the
plugin, that it concerns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_exec.core import events as ev
from apex_exec.core.limits import MS_NS
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.core_driver import CoreDriver
from apex_exec.daemon.duties import Due, Monitoring
from apex_exec.daemon.supervisor import Supervisor

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.connections import Connections
    from apex_exec.daemon.hosts.requests import Requests
    from apex_exec.daemon.ports import ApiCalls, Trail
    from apex_exec.executor.guard import Guard
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.loop import Loop

_clock_ns = time.monotonic_ns
FAR_NS = 3600 * 1000 * MS_NS
CORES = len(os.sched_getaffinity(0))
SPIN_BELOW = CORES if CORES > 1 else 0
"""Busy-poll only while fewer workers than this are busy, and while the gateway has nothing to do: then a core is likely
to be idle. A loop that polls while a query runs keeps the core that the gateway and the database need: of a point query
on SQLite it was most of the supervisor's CPU time."""


class Turn:
    """``duties`` are looked at in their order; ``monitoring`` is one of them."""

    def __init__(self, *, loop: Loop, guard: Guard, pool: Pool, driver: CoreDriver, workers: LocalExecutor,
                 peers: Connections, requests: Requests, api: ApiCalls, audit: Trail, supervisor: Supervisor,
                 monitoring: Monitoring, duties: Sequence[Due]) -> None:
        self._loop = loop
        self._guard = guard
        self._pool = pool
        self._driver = driver
        self._workers = workers
        self._peers = peers
        self._requests = requests
        self._api = api
        self._audit = audit
        self._supervisor = supervisor
        self._monitoring = monitoring
        self._duties = tuple(duties)

    def run(self) -> int:  # noqa: C901, PLR0912 - a round in its order; cut up it would cost each call more
        """One round. When the next is due (CLOCK_MONOTONIC ns; 0: now)."""
        now_ns = _clock_ns()
        guard, workers, peers = self._guard, self._workers, self._peers
        if guard.faulty:
            self._driver.quarantine(now_ns)
        if workers.dirty:  # calls that came about since the last round do not wait for what is taken in now
            workers.flush()
        busy = False
        try:
            peers.flush()
        except Exception as error:
            guard.failed("hosts", error)
        for duty in self._duties:
            if now_ns >= duty.due_ns:
                try:
                    if duty.run(now_ns):
                        busy = True
                except Exception as error:
                    guard.failed(duty.name, error)
        try:
            audit = self._audit
            if (now_ns <= audit.fine_until_ns or not audit.is_stalling(now_ns)) and peers.receive():
                busy = True
            if self._requests.left and self._requests.cancel_left():
                busy = True
        except Exception as error:
            guard.failed("hosts", error)
        try:
            if workers.reading.size and workers.read_parked(now_ns):
                busy = True
        except Exception as error:
            guard.failed("links that wait", error)
        wake_ns = self._pool.next_wake_ns()
        if wake_ns is not None and wake_ns <= now_ns:
            self._driver.step(ev.Tick(), now_ns)
            wake_ns = self._pool.next_wake_ns()
            busy = True
        if self._monitoring.rests and workers.activated:
            self._monitoring.wake(now_ns)
        if workers.dirty:
            workers.flush()
        if workers.unsettled and workers.follow_up(now_ns):
            busy = True
        try:
            peers.flush()
        except Exception as error:
            guard.failed("hosts", error)
        if self._supervisor.drain_until_ns and self._supervisor.drained(now_ns):
            self._loop.stop()
        if busy or guard.faulty:  # who is to be quarantined is so at once
            return 0
        self._loop.core_free = len(workers.busy) < SPIN_BELOW and not self._api.at_gateway
        due_ns = now_ns + FAR_NS if wake_ns is None else wake_ns
        for duty in self._duties:
            if duty.due_ns < due_ns:
                due_ns = duty.due_ns
        if workers.reading.size and (read_ns := workers.next_read_ns(now_ns)) is not None and read_ns < due_ns:
            return read_ns
        return due_ns
