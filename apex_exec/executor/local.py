"""The executor of this machine: owns every live worker process, from fork to reaping. It decides nothing.

It carries out the core's actions (``ports.Executor``). The links of workers are read in turn (``link_reader``), and
what the workers say becomes events of the core (``worker_protocol``). For each worker that was started the core gets
exactly one end, with a reason, whatever dies (``worker_exits``): also for a worker whose zygote is gone, or whose fork
the machine refused.
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
"""A spare is forked this many turns of the loop after a cold worker is ready. The worker's first call goes out in the
first of these turns and its answer comes in the second, and the fork must not compete with that call."""
MARKS_DRAIN_MASK = 0x0FFF
"""The marks pipe holds 65,536 marks, one for each call; it is emptied every 4,096 calls."""
_encode = msgspec.msgpack.Encoder().encode


class LocalExecutor(Executor):
    """``step(event, now_ns)`` gives an event to the core and carries out its actions. ``fresh_realm`` gives each call
    an engine of its own, if the language can do that. See ``ports.Executor``.

    Workers with numbers below zero are spares and jobs, which the core does not know. What a worker is for is said by
    its link's ``kind`` alone, not by its number.
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
        """Workers that may have begun to use CPU: they were started, or were sent a call while they had none. The
        resource monitor takes them from here."""
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
        """Reads the marks pipe and tells the core how many calls the worker has started in all. ``now_ns`` must not be
        later than that read. If the worker has no link any more it has ended, and the core gets its WorkerGone instead.
        """
        link = self._links.get(worker)
        if link is not None:
            self.neighbours.step(ev.CallsStarted(worker, self._read_started(link)), now_ns)

    def _read_started(self, link: WorkerLink) -> int:
        """Returns how many calls the worker has started in all. If it has marked more than it was sent, ``follow_up``
        reports the violation, since the core may be in the middle of a step now."""
        started = link.drain_marks()
        if link.overmarked and link not in self._overmarked:
            self._overmarked.append(link)
            self.unsettled = True
        return started

    # ------------------------------------------------------------------ starting
    def start(self, action: act.StartWorker, now_ns: int) -> None:
        """Gives the plugin a spare, or asks the zygote for a worker. If the machine refuses the worker, the core gets
        ForkRefused in the same turn."""
        self.activated.add(action.worker)
        self._start(action.worker, action.spec, self._pool_worker, now_ns)

    def start_job(self, job: Job) -> None:
        """Starts a worker of its own for ``job``."""
        self._last_own -= 1
        job.begin(self)
        self._start(self._last_own, job.spec, job, time.monotonic_ns())

    def never_started(self, worker: int) -> None:
        """``start`` failed: the core gets ForkRefused in the same turn."""
        self.exits.refuse_later(worker, self._pool_worker, self._links.get(worker))

    def refill(self, now_ns: int) -> None:
        """Forks the spares that are missing. It must not be called while a cold call is on its way, since the fork
        would compete with the call."""
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
        """A spare has booted, or its pidfd has come. Once both are so, it may be given to a plugin."""
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
        """Makes a spare the worker that is asked for. If that is not possible, kills the spare and returns False."""
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
        except Exception as error:  # noqa: BLE001 - whatever the store raises, only this worker ends for it
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
        """Tells the workers that run the code of ``spec`` which permissions it has now, if these have changed."""
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
        """Asks a worker to skip those of these calls that it has not begun."""
        link = self._links.get(action.worker)
        if link is not None:
            self.reply(link, inner.Recall(action.seqs))

    def cancel(self, action: act.CancelCall) -> None:
        """Tells a worker to end a call. With a probe goes PROBE_SIGNAL, whose handler in the worker reports which
        call's code it has interrupted."""
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
        """Queues any other message for a worker, such as an ApiReply."""
        if not link.queue(_encode(message)):
            self.violated(link, "it does not read what it asked for")
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def flush(self) -> None:
        """Writes what is queued, with one system call for each worker."""
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
        """Lets the worker finish and leave, by half-closing its link. It gets no more calls."""
        link = self._links.get(worker)
        if link is not None:
            link.flush()
            link.half_close()

    def kill(self, worker: int, reason: str, due_ns: int, now_ns: int) -> None:
        """Sends SIGKILL to the worker now, or as soon as there is a process to kill."""
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
        """Kills every worker of ``plugin``, without a decision of the core."""
        for link in self._links.values():
            if link.spec.id == plugin:
                self.kill_link(link)

    def kill_link(self, link: WorkerLink) -> OSError | None:
        """Kills the worker now, or as soon as there is a process. Returns the kernel's error if it refuses."""
        return self.forks.kill(link)

    def replace_zygote(self, worker: int) -> None:
        """The end of a killed worker was not reported: kills its zygote, and thereby the worker."""
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
        """Forgets the link and closes its descriptors. The uid and cgroup of its worker may be used again."""
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
        """Does, once a turn while ``unsettled``, what had to wait until frames were written: forks spares, and reports
        workers that ended or could not be started. Returns True if there were any: then the core may have decided
        something, and the next turn is due at once."""
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
        """Ends jobs that are overdue, and workers whose end a dead zygote never reported; looks after zygotes and
        spares. Call this once a second."""
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
