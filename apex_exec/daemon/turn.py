"""One turn of the loop, in the order in which it is done: write, duties, read, timers, write again.

Messages that are queued are written first, so that no answer waits for what is read after it. Then the duties that are
due are run, connections and parked links are read, and the core's timers are handled; what all this has queued is
written at the end of the same turn. (A link that is not parked is read between two turns, by its handler in epoll.)
Connections and links are read in bounded parts, so that a turn takes milliseconds at most. No exception leaves a turn:
it costs the duty, or the plugin, that it concerns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apex_exec.core import events as ev
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import MS_NS
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.core_driver import CoreDriver
from apex_exec.daemon.duties import Agenda, Duty, Monitoring
from apex_exec.daemon.supervisor import Supervisor

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.connections import Connections
    from apex_exec.daemon.hosts.requests import Requests
    from apex_exec.daemon.ports import Administering, ApiCalls, Trail
    from apex_exec.executor.guard import Guard
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.loop import Loop

_clock_ns = time.monotonic_ns
FAR_NS = 3600 * 1000 * MS_NS
CORES = len(os.sched_getaffinity(0))
SPIN_BELOW = CORES if CORES > 1 else 0
"""Busy-poll only while fewer workers than this are busy and the gateway has nothing to do: then a core is likely to be
idle. A loop that busy-polls while a query runs takes the core that the gateway and the database need; during point
queries on SQLite, that was most of the supervisor's CPU time."""


class Turn:
    """``duties`` are run in their order when they are due; ``monitoring`` is one of them. ``admin`` serves operators
    after the duties, in a bounded part of each turn."""

    def __init__(self, *, loop: Loop, guard: Guard, pool: Pool, driver: CoreDriver, workers: LocalExecutor,
                 peers: Connections, requests: Requests, api: ApiCalls, audit: Trail, supervisor: Supervisor,
                 monitoring: Monitoring, duties: Sequence[Duty], admin: Administering) -> None:
        self._loop = loop
        self._guard = guard
        self._timers = pool.timers
        self._driver = driver
        self._workers = workers
        self._peers = peers
        self._requests = requests
        self._api = api
        self._audit = audit
        self._supervisor = supervisor
        self._monitoring = monitoring
        self._agenda = Agenda(duties, guard.failed)
        self._admin = admin
        self._admin_peers = admin.peers

    def run(self) -> int:  # noqa: C901, PLR0912 - a round in its order; cut up it would cost each call more
        """Does one turn. Returns when the next is due (CLOCK_MONOTONIC ns; 0 for at once)."""
        now_ns = _clock_ns()
        guard, workers, peers, agenda, timers = self._guard, self._workers, self._peers, self._agenda, self._timers
        if guard.faulty:
            self._driver.quarantine(now_ns)
        if workers.dirty:  # calls that were queued since the last turn do not wait for what is read now
            workers.flush()
        busy = False
        if peers.unsent:
            self._flush()
        if now_ns >= agenda.soonest_ns:
            busy = agenda.run(now_ns)
        admin_peers = self._admin_peers
        if admin_peers.unread or admin_peers.unsent:
            busy = self._administer(now_ns) or busy
        try:
            if peers.unread:
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
        if timers.wake_ns <= now_ns:
            self._driver.step(ev.Tick(), now_ns)
            busy = True
        if self._monitoring.rests and workers.activated:
            self._monitoring.wake(now_ns)
        if workers.dirty:
            workers.flush()
        if workers.unsettled and workers.follow_up(now_ns):
            busy = True
        if peers.unsent:
            self._flush()
        if self._supervisor.drain_until_ns and self._supervisor.drained(now_ns):
            self._loop.stop()
        if busy or guard.faulty or admin_peers.unread or admin_peers.unsent:  # a faulty plugin is quarantined at once
            return 0
        self._loop.core_free = len(workers.busy) < SPIN_BELOW and not self._api.at_gateway
        wake_ns, due_ns = timers.wake_ns, agenda.soonest_ns
        if wake_ns < due_ns:
            due_ns = wake_ns
        if due_ns == NEVER_NS:
            due_ns = now_ns + FAR_NS
        if workers.reading.size and (read_ns := workers.next_read_ns(now_ns)) is not None and read_ns < due_ns:
            return read_ns
        return due_ns

    def _flush(self) -> None:
        try:
            self._peers.flush()
        except Exception as error:
            self._guard.failed("hosts", error)

    def _administer(self, now_ns: int) -> bool:
        try:
            return self._admin.run(now_ns)
        except Exception as error:
            self._guard.failed("administration", error)
            return True
