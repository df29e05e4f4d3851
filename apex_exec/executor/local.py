"""The executor of this machine: owns every live worker process, from fork to reaping. It decides nothing.

What arrives from the core is done here (``ports.Executor``); what workers say becomes events of the core
(``worker_protocol``), read in turn (``link_reader``). Each worker that was started ends once, with an event and a
reason, whatever dies (``worker_exits``): also a worker whose zygote is gone, or whose fork the machine refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.guard import raise_it
from apex_exec.executor.links.accounts import Accounts
from apex_exec.executor.links.jobs import Job
from apex_exec.executor.links.link_reader import LinkReader
from apex_exec.executor.links.overhead import Overhead
from apex_exec.executor.links.start_health import StartHealth
from apex_exec.executor.links.worker_exits import WorkerExits
from apex_exec.executor.links.worker_kinds import PoolWorker, Spare
from apex_exec.executor.links.worker_link import Kind, WorkerLink
from apex_exec.executor.links.worker_protocol import WorkerProtocol
from apex_exec.executor.loop import Loop
from apex_exec.executor.ports import BundleSource, Executor, Jails, Neighbours
from apex_exec.executor.processes.forks import Forks
from apex_exec.executor.processes.runtimes import zygote_of
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

REFILL_TURNS = 3
"""A spare is forked this many turns of the loop after a cold worker is ready: its call goes out in the first of them
and comes back in the second, and the fork is not to compete with it."""
MARKS_DRAIN_MASK = 0x0FFF
"""The marks pipe holds 65,536 marks, one a call; it is emptied every 4,096 calls."""
_encode = msgspec.msgpack.Encoder().encode


class LocalExecutor(Executor):
    """``step(event, now_ns)`` gives an event to the core and does its actions. ``fresh_realm``: each call has an engine
    of its own, wherever the language can do that. See ``ports.Executor``.

    Numbers below zero are the executor's own: of spares and jobs, of which the core does not know. What a worker is for
    is said by its link's ``kind`` alone.
    """

    def __init__(self, loop: Loop, *, zygotes: Sequence[ZygoteSource], sandboxing: Jails, source: BundleSource,
                 spares: int, step: Callable[[ev.Event, int], None], metrics: Metrics, logs: Logs,
                 failed: Callable[[str, Exception, str], None] = raise_it, fresh_realm: bool = False) -> None:
        self._fresh_realm = fresh_realm
        self.neighbours = Neighbours(step, failed)
        self.metrics = metrics
        self.logs = logs
        self.busy: set[WorkerLink] = set()
        """Links of the workers that have a call and have not answered it."""
        self.activated: set[int] = set()
        """Workers that were started, or sent a call while they had none, since the resource monitor last took them from
        here: they may use CPU."""
        self.dirty: list[WorkerLink] = []
        """Links with messages for ``flush`` to write."""
        self.unsettled = False
        """Whether ``follow_up`` has something to do."""
        self._jails = sandboxing
        self._source = source
        self._links: dict[int, WorkerLink] = {}
        self._overmarked: list[WorkerLink] = []
        self._last_own = 0
        self._refill_turns = 0
        self.accounts = Accounts(self._links, self.neighbours)
        self.overhead = Overhead(metrics)
        self.reading = self.overhead.reading
        """The links that wait for their plugin's turn to be read."""
        self._health = StartHealth(metrics, logs)
        self.protocol = WorkerProtocol(self.neighbours, self.busy, reply=self.reply, health=self._health,
                                       metrics=metrics, logs=logs)
        self.reader = LinkReader(loop, self.overhead, hung_up=self._hung_up, violated=self.violated,
                                 failed=self._failed)
        self.exits = WorkerExits(self.reader, self.neighbours, self.accounts, release=self._release,
                                 failed=self._failed, unsettle=self._unsettle, metrics=metrics, logs=logs)
        self._pool_worker, self._spare = PoolWorker(self), Spare(self)
        self.forks = Forks(loop, zygotes, spares, jails=sandboxing, exits=self.exits, neighbours=self.neighbours,
                           health=self._health, failed=self._failed, metrics=metrics, logs=logs)

    # ------------------------------------------------------------------ what others may ask
    def living(self) -> list[tuple[int, str, int]]:
        """Returns (worker, plugin, pid) of every worker that has a plugin and a process."""
        return [(link.worker, link.spec.id, link.pid) for link in self._links.values() if link.pid]

    def ages(self, plugin: str, now_ns: int) -> list[float]:
        """Returns how many seconds ago each of the plugin's processes was forked, in the order of ``living``."""
        return [(now_ns - link.started_ns) / 1e9 for link in self._links.values()
                if link.pid and link.spec.id == plugin]

    def plugin_of(self, worker: int) -> str:
        """Returns the plugin that a living worker was started for; "" if there is no such worker."""
        link = self._links.get(worker)
        return link.spec.id if link is not None else ""

    def sample(self, worker: int, call: int = 0) -> tuple[float, int]:
        """Returns (memory in MB, ns held back) by the latest sample: of ``call`` alone, or of the worker's life."""
        return self.accounts.sample(worker, call)

    def count_started(self, worker: int, now_ns: int) -> None:
        """Tells the core how many calls the worker has started in all, as its pipe says now. ``now_ns`` must not be
        later than now. A worker that has no link any more has ended, and the core hears that instead."""
        link = self._links.get(worker)
        if link is not None:
            self.neighbours.step(ev.CallsStarted(worker, self._read_started(link)), now_ns)

    def _read_started(self, link: WorkerLink) -> int:
        """Returns the calls that the worker has started in all. A pipe that lies is dealt with in ``follow_up``, since
        the core may be in the middle of a step."""
        started = link.drain_marks()
        if link.overmarked and link not in self._overmarked:
            self._overmarked.append(link)
            self.unsettled = True
        return started

    # ------------------------------------------------------------------ starting
    def start(self, action: act.StartWorker, now_ns: int) -> None:
        """Gives the plugin a spare, or asks the zygote for a worker. If the machine refuses one, the core hears of it
        in this very turn."""
        self.activated.add(action.worker)
        self._start(action.worker, action.spec, self._pool_worker, now_ns)

    def start_job(self, job: Job) -> None:
        """Starts a worker of its own for ``job``."""
        self._last_own -= 1
        job.begin(self)
        self._start(self._last_own, job.spec, job, time.monotonic_ns())

    def never_started(self, worker: int) -> None:
        """``start`` failed: in this turn the core hears that there is no such worker."""
        self.exits.refuse_later(worker, self._pool_worker, self._links.get(worker))

    def refill(self, now_ns: int) -> None:
        """Forks the spares that are missing. Not called while a cold call is on its way: it would compete with it."""
        for pool in self.forks.warm.values():
            for _ in range(pool.missing(now_ns)):
                self._last_own -= 1
                try:
                    link = WorkerLink(self._last_own, pool.placeholder, now_ns)
                except OSError:
                    return
                self._open(link, self._spare)
                pool.fork(link)

    def spare_progressed(self, link: WorkerLink) -> None:
        """A spare has booted, or its process is known: with both it may be given away."""
        self.forks.pool_of(link).check(link)

    def refill_soon(self) -> None:
        """Has ``refill`` called in REFILL_TURNS turns of the loop."""
        self._refill_turns = REFILL_TURNS
        self.unsettled = True

    def _start(self, worker: int, spec: PluginSpec, kind: Kind, now_ns: int) -> None:
        pool = self.forks.warm.get(zygote_of(spec.runtime))
        if pool is None:
            self.logs.log("error", f"no worker for {spec.id}: this daemon runs no plugins in {spec.runtime!a}")
            self.exits.refuse_later(worker, kind, None)
            return
        spare = pool.take()
        if spare is not None and self._adopt(spare, worker, spec, kind, now_ns):
            return
        try:
            link = WorkerLink(worker, spec, now_ns)
        except OSError as error:
            self.logs.log("error", f"no worker for {spec.id}: {error.strerror}")
            self.exits.refuse_later(worker, kind, None)
            return
        self._open(link, kind)
        self._claim(link)
        self.forks.ask(link)

    def _open(self, link: WorkerLink, kind: Kind) -> None:
        link.kind = kind
        self.forks.links[link.forked_as] = link
        self.reader.poll(link)

    def _claim(self, link: WorkerLink) -> None:
        """The worker has a plugin from now on."""
        self._links[link.worker] = link
        if link.kind.serves:
            self.accounts.opened(link)

    def _adopt(self, link: WorkerLink, worker: int, spec: PluginSpec, kind: Kind, now_ns: int) -> bool:
        """Makes a spare the worker that is asked for. Returns False if it cannot be; then the spare is killed."""
        try:
            self._jails.adopt(link.worker, worker, spec)
        except RuntimeError as error:
            self.logs.log("error", f"a spare worker could not be given to {spec.id}: {error}")
            self.forks.pool_of(link).lost(link)
            self.kill_link(link)
            return False
        link.worker, link.spec, link.started_ns, link.kind = worker, spec, now_ns, kind
        link.granted = spec.permissions
        self._claim(link)
        kind.forked(link)
        kind.booted(link)
        return True

    def load(self, link: WorkerLink, files: dict[str, bytes] | None = None, mode: str = "serve") -> None:
        """Sends a jailed worker its plugin: ``files``, or what the bundle source has."""
        spec = link.spec
        try:
            if files is not None:
                sha256 = {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}
            else:
                files, sha256 = self._source.load(spec.digest)
        except Exception as error:  # noqa: BLE001 - whatever the store says, only this worker ends for it
            link.failure = f"the bundle could not be read: {error}"[:500]
            self.logs.log("error", f"plugin {spec.id}: {link.failure}")
            link.half_close()
            return
        link.shared = mode == "serve" and spec.limits.concurrency > 1
        api = self.neighbours.api
        self.reply(link, inner.Load(spec.id, spec.version, spec.entrypoint, files, sha256,
                                    spec.limits.memory_mb * 1024 * 1024, mode,
                                    self._fresh_realm or spec.isolation == "call", link.shared,
                                    [] if api is None else list(link.granted),
                                    [] if api is None else sorted(api.components)))

    def grant(self, spec: PluginSpec) -> None:
        """Tells workers that run this very code of ``spec`` which permissions it has now, if that has changed."""
        for link in self._links.values():
            held = link.spec
            if held.id == spec.id and held.digest == spec.digest and link.granted != spec.permissions:
                link.granted = spec.permissions
                if link.booted and link.kind.serves:
                    self.reply(link, inner.Grants(list(spec.permissions)))

    # ------------------------------------------------------------------ sending
    def send(self, action: act.SendCall, now_ns: int) -> None:
        """Queues one call on its worker's link."""
        link = self._links[action.worker]
        request = action.request
        if action.seq & MARKS_DRAIN_MASK == MARKS_DRAIN_MASK:
            self._read_started(link)
        link.sent = action.seq + 1
        if not link.owed:
            self.busy.add(link)
            self.activated.add(action.worker)
        link.owed += 1
        link.user_id = request.user_id
        deadline_ns = request.deadline_ns
        settings = self.neighbours.settings_of(link.spec, request.user_id) if link.spec.settings else b""
        link.queue(_encode(inner.Call(action.seq, request.hook, request.user_id, deadline_ns, deadline_ns - now_ns,
                                      request.params, settings)))
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def recall(self, action: act.RecallCalls) -> None:
        """Asks a worker to skip what it has not begun of these calls."""
        link = self._links.get(action.worker)
        if link is not None:
            self.reply(link, inner.Recall(action.seqs))

    def cancel(self, action: act.CancelCall) -> None:
        """Tells a worker to end a call. A probe comes with a signal, whose handler says what code it has
        interrupted."""
        link = self._links.get(action.worker)
        if link is not None:
            self.reply(link, inner.Cancel(action.seq, action.nonce))
            if action.nonce:
                link.interrupt()

    def ping(self, action: act.PingWorker) -> None:
        """Asks an idle worker for a sign of life, over its link."""
        link = self._links.get(action.worker)
        if link is not None:
            self.reply(link, inner.Ping(action.nonce))

    def reply(self, link: WorkerLink, message: Any) -> None:
        """Queues any other message for a worker, an ApiReply say."""
        if not link.queue(_encode(message)):
            self.violated(link, "it does not read what it asked for")
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def flush(self) -> None:
        """Writes what is queued, with one system call a worker."""
        for link in self.dirty:
            link.dirty = False
            try:
                link.flush()
                if link.wants_write != link.polled_write:
                    self.reader.written(link)
            except Exception as error:
                self._failed("link", error, link)
        self.dirty.clear()

    # ------------------------------------------------------------------ ending
    def stop(self, worker: int) -> None:
        """Lets the worker finish and leave: it gets no more calls."""
        link = self._links.get(worker)
        if link is not None:
            link.flush()
            link.half_close()

    def kill(self, worker: int, reason: str, due_ns: int, now_ns: int) -> None:
        """Kills the worker now, or as soon as there is a process to kill."""
        link = self._links.get(worker)
        if link is None:
            return
        refusal = self.kill_link(link)
        if refusal is not None:
            self.neighbours.failed("kill", refusal, link.spec.id)
        if reason == "violation":
            link.broken = True
        if reason == "deadline":
            self.metrics.observe("kill_delay_seconds", (), max(0, time.monotonic_ns() - due_ns) / 1e9)
        self._jails.killed(worker)
        if self.forks.unask(link):
            self.exits.never(link)

    def kill_plugin(self, plugin: str) -> None:
        """Kills every worker of ``plugin``, whatever the core thinks of them."""
        for link in self._links.values():
            if link.spec.id == plugin:
                self.kill_link(link)

    def kill_link(self, link: WorkerLink) -> OSError | None:
        """Kills the worker now, or as soon as there is a process. Returns the kernel's answer if it refuses."""
        return self.forks.kill(link)

    def replace_zygote(self, worker: int) -> None:
        """The end of a killed worker was never reported: kills its zygote, and with it the worker."""
        self.forks.replace(self._links.get(worker))

    def violated(self, link: WorkerLink, why: str) -> None:
        """The worker broke the inner protocol."""
        self.protocol.violated(link, why, time.monotonic_ns())

    def tell_end(self, ended: act.WorkerEnded) -> str:
        """Writes a line into both logs if a worker ended otherwise than to save resources. Returns why it ended, or ""
        if no line was written."""
        return self.exits.tell(ended)

    def _hung_up(self, link: WorkerLink) -> None:
        if link.lost_ns and link.pidfd < 0:
            self.forks.orphaned(link)
        else:
            link.kind.hung_up(link)

    def _release(self, link: WorkerLink) -> None:
        """Forgets the link and closes its descriptors; what its worker held of the sandbox is free again."""
        self.reader.release(link)
        self.forks.forget(link)
        link.close()
        self.busy.discard(link)
        if self._links.get(link.worker) is link:
            del self._links[link.worker]
            self.accounts.released(link)
        else:
            self.forks.pool_of(link).lost(link)
        self._jails.worker_gone(link.worker)

    # ------------------------------------------------------------------ duties
    def read_parked(self, now_ns: int) -> bool:
        """Reads links that wait for their plugin's turn. Returns True if more may be read at once."""
        return self.reader.read_parked(now_ns)

    def next_read_ns(self, now_ns: int) -> int | None:
        """Returns when ``read_parked`` has something to do; None if no link waits."""
        return self.reading.next_due_ns(now_ns)

    def follow_up(self, now_ns: int) -> bool:
        """Does, once a turn while ``unsettled``, what had to wait until frames were written: forks spares, tells the
        end of what could not be started. Returns True if workers ended: the core's answer is for a turn at once."""
        if self._refill_turns:
            self._refill_turns -= 1
            if not self._refill_turns:
                self.refill(now_ns)
        self.unsettled = self._refill_turns > 0
        while self._overmarked:
            link = self._overmarked.pop()
            try:
                if link.worker in self._links:
                    self.violated(link, "it has marked more calls than it was sent")
            except Exception as error:
                self._failed("marks of a worker", error, link)
        return self.exits.follow_up(now_ns)

    def upkeep(self, now_ns: int) -> None:
        """Ends jobs that are overdue and workers that a zygote never spoke of; sees to zygotes and spares. Call it once
        a second."""
        for link in list(self.forks.links.values()):
            kind = link.kind
            if isinstance(kind, Job) and now_ns > kind.due_ns:
                kind.overdue(link)
            self.reader.export(link)
        self._health.upkeep(now_ns)
        self.forks.upkeep(now_ns)

    def _unsettle(self) -> None:
        self.unsettled = True

    def _failed(self, duty: str, error: Exception, link: WorkerLink | None) -> None:
        """A duty done for one worker failed: the worker ends, and the plugin that it serves is quarantined."""
        if link is not None:
            self.kill_link(link)
        self.neighbours.failed(duty, error, link.spec.id if link is not None and link.kind.serves else "")
