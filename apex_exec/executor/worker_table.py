"""Every living worker: started (forked, or a spare adopted), read, killed, and taken leave of. It decides nothing.

What workers say becomes events of the core. What must be answered for is kept true whatever dies: a worker whose
zygote is gone, or whose fork the machine refused, ends like any other, with an event and a reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.pool import MS_NS
from apex_exec.executor.guard import raise_it
from apex_exec.executor.loop import EPOLLIN, EPOLLOUT, Loop
from apex_exec.executor.outcome import at_place, raised_code
from apex_exec.executor.overhead import ORDINARY_NS, Overhead, Used
from apex_exec.executor.warm_pool import NOBODY, Spares
from apex_exec.executor.worker_link import WorkerLink
from apex_exec.executor.zygote_keeper import ZygoteKeeper
from apex_exec.executor.zygote_link import ZygoteLink
from apex_exec.observe.metrics import UNWANTED_EXITS
from apex_exec.sandbox.plan import LAYERS
from apex_exec.wire import hooks
from workers import wire as inner
from workers.zmtp import ZmtpError

if TYPE_CHECKING:
    from apex_exec.executor.jails import Sandboxing
    from apex_exec.executor.ports import ApiCalls, Governing
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

DRAIN_NS_MAX = 100 * MS_NS
"""How long the link of a dead worker is read; what it wrote before its death is there at once."""
LOST_NS_MAX = 1000 * MS_NS
"""How long after the zygote's death a worker without a pidfd may take to show its end."""
REFILL_TURNS = 3
"""After a cold worker is ready a spare is forked so many turns of the loop later: its call goes out in the first, comes
back in the second."""
QUIET_ENDS = ("idle", "drained")
"""Ends of workers that nobody needs to hear of."""
UNSTARTED_NS = 10_000 * MS_NS
"""For so long after a start that the machine has refused `/readyz` says no, unless another worker starts meanwhile."""
CPUCLOCK_SCHED = 2
"""The kernel's clock id for the CPU time of process p is ``~p << 3 | 2`` (clock_getcpuclockid)."""
UNCALLED_NS = 10 * MS_NS
"""CPU time without a call that makes a record of its own: at a tenth of a core no more than ten a second."""
DECLARED_MAX = 100
"""Hooks, and permissions, that a plugin's code may declare; there are four and eight."""
DECLARED_CHARACTERS_MAX = 200
LINES_PER_CALL_MAX = 1000
"""Lines of output from one call; an honest worker stops at 200, so more is a violation."""
ANSWERS = frozenset((inner.Reply, inner.Raised, inner.BadOutput, inner.BadInput, inner.Skipped))
ASKING = frozenset((inner.ApiCall, inner.Log))
UNCALLED = frozenset((inner.Booted, inner.Ready, inner.Failed, inner.Log))
"""What a worker may say that is sent no calls: a spare, or one of a job, of which the core never hears."""
MARKS_DRAIN_MASK = 0x0FFF
"""The marks pipe holds 65,536 marks, one a call; it is emptied every 4,096 calls."""

SLICE_NS = MS_NS // 2
"""So long a link is read at once, if it has that much; then others have their turn."""
PARKED_NS = 2 * MS_NS
"""So long, in one turn, links are read whose turn it is among those that wait for one."""
DEAD_NS = MS_NS
"""So long, in one turn, what a dead worker has left on its link is read."""
_cpu_ns = time.thread_time_ns
_clock_ns = time.monotonic_ns
_decode_worker = msgspec.msgpack.Decoder(inner.FromWorker).decode
_encode = msgspec.msgpack.Encoder().encode


class BundleSource(Protocol):
    """Where a worker's files come from."""

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """(files, SHA-256 of each) of the bundle ``digest``. Raises Refusal where it is not there or not whole."""


class Lost(msgspec.Struct, gc=False):
    """How a worker ended where no exit status was had."""

    code: str
    message: str


class Job:
    """One worker beside the pool's, for one task: ``mode`` "probe" loads the plugin and ends.

    ``ended(value, code, message)`` is called once: with what the worker said, or with why it said nothing.
    """

    __slots__ = ("due_ns", "ended", "files", "mode", "spec", "value")

    def __init__(self, spec: PluginSpec, mode: str, files: dict[str, bytes] | None, due_ns: int,
                 ended: Callable[[dict[str, Any] | None, str, str], None]) -> None:
        self.spec = spec
        self.mode = mode
        self.files = files
        self.due_ns = due_ns
        self.ended = ended
        self.value: dict[str, Any] | None = None


class WorkerTable:
    """Links by worker number. ``step(event, now_ns)`` gives an event to the core and does its actions."""

    def __init__(self, loop: Loop, *, start_zygote: Callable[[], ZygoteLink], zygote: ZygoteLink,
                 sandboxing: Sandboxing, source: BundleSource, spares: int,
                 step: Callable[[ev.Event, int], None], metrics: Metrics, logs: Logs,
                 failed: Callable[[str, Exception, str], None] = raise_it) -> None:
        self.api: ApiCalls | None = None
        self.governing: Governing | None = None
        self.on_uncalled: Callable[[str, str, int], None] = lambda _plugin, _user, _cpu_ns: None
        """Told of CPU time that no call's figure holds: plugin, the user of its worker's latest call, nanoseconds."""
        self.oldest: Callable[[int], tuple[int, ev.InvokeRequested] | None] = lambda _worker: None
        """Seq and request of the oldest unanswered call on a worker's link."""
        self.layers: list[inner.LayerReport] = []
        self.working = 0
        """Workers that have a call and have not answered it."""
        self._loop = loop
        self._sandboxing = sandboxing
        self._source = source
        self._step = step
        self._metrics = metrics
        self._logs = logs
        self._guard_failed = failed
        self._links: dict[int, WorkerLink] = {}
        self._forked: dict[int, WorkerLink] = {}  # by the number that the zygote knows it by; spares too
        self._latest: dict[str, int] = {}  # plugin → its latest worker
        self.dirty: list[WorkerLink] = []
        """Links with messages for ``flush`` to write."""
        self.unsettled = False
        """Whether ``follow_up`` has something to do."""
        self._ends: dict[int, tuple[int, str, str]] = {}  # (pid, code, message) of one whose end is being told
        self._unstarted_ns = self._unstarted_until_ns = 0
        self._never: list[tuple[WorkerLink, Lost]] = []  # killed before the zygote had heard of them
        self._refused: list[int] = []
        self._overmarked: list[WorkerLink] = []
        self._closing: list[tuple[WorkerLink, inner.Exited | None, Lost | None, int]] = []
        self.overhead = Overhead(metrics)
        self.reading = self.overhead.reading
        """The links that wait for their plugin's turn to be read."""
        self._jobs: dict[int, Job] = {}
        self._last_own = 0
        self._refill_turns = 0
        self.zygote = ZygoteKeeper(loop, start=start_zygote, zygote=zygote, asker=self, metrics=metrics, logs=logs)
        self.spares = Spares(self.zygote, spares)

    # ------------------------------------------------------------------ what others may ask
    def living(self) -> list[tuple[int, str, int]]:
        """(worker, plugin, pid) of every worker that has one."""
        return [(link.worker, link.spec.id, link.pid) for link in self._links.values() if link.pid]

    def link(self, worker: int) -> WorkerLink | None:
        """The link of a living worker."""
        return self._links.get(worker)

    def usage_of(self, plugin: str) -> tuple[float, int]:
        """(memory in MB, throttled ns) of the plugin's latest worker in its whole life, by the latest sample."""
        if self.governing is None:
            return 0.0, 0
        worker = self._latest.get(plugin)
        return self.governing.usage(worker) if worker is not None else (0.0, 0)

    def used(self, worker: int, call: int, run_ns: int) -> Used:
        """What ``call`` has used, from the accounts of the worker that it ran on, which need not be its plugin's
        latest; nothing for ``worker`` 0, of a call that none has begun. Asked once a call, at its verdict.

        Without a ``run_ns``, how long the call ran, its CPU time is left for the next one's figure.
        """
        link = self._links.get(worker)
        if link is None:
            return Used()
        used = Used()
        if self.governing is not None:
            used.memory_mb, used.throttled_ns = self.governing.usage(link.worker, call)
        if link.host_ns > 0:
            used.host_ns, link.host_ns = link.host_ns, 0
        if run_ns and link.pid:
            used.cpu_ns = self._cpu_since(link, run_ns)
        return used

    def _cpu_since(self, link: WorkerLink, run_ns: int) -> int:
        """CPU time (ns) that the worker has used since this was last asked: 0.4 µs, the kernel's count.

        At most ``run_ns``, how long the call ran: one thread uses no more. What is above that was used without a call;
        a little of it is a matter of two clocks and left to the next one's figure, more of it goes on record as such.
        A killed worker still has a figure until the zygote has reaped it; afterwards it is 0.
        """
        try:
            total_ns = time.clock_gettime_ns(~link.pid << 3 | CPUCLOCK_SCHED)
        except OSError:
            return 0
        spent_ns, link.cpu_ns = total_ns - link.cpu_ns, total_ns
        if spent_ns <= run_ns:
            return spent_ns
        if spent_ns - run_ns < UNCALLED_NS:
            link.cpu_ns -= spent_ns - run_ns
        else:
            self.on_uncalled(link.spec.id, link.user_id, spent_ns - run_ns)
        return run_ns

    def _begin_account(self, link: WorkerLink) -> None:
        """What the worker has used until it was ready is the boot's, and nobody's who calls it."""
        with contextlib.suppress(OSError):
            link.cpu_ns = time.clock_gettime_ns(~link.pid << 3 | CPUCLOCK_SCHED)

    def _close_account(self, link: WorkerLink, exited: inner.Exited) -> None:
        """What it used after the last verdict that its figure was read for: in a call that it died in, or after it."""
        left_ns = exited.user_ns + exited.system_ns - link.cpu_ns
        if link.ready and left_ns >= UNCALLED_NS // 10:
            self.on_uncalled(link.spec.id, link.user_id, left_ns)

    def add_host_ns(self, plugin: str, spent_ns: int) -> None:
        """Another process of the daemon has spent so much on the plugin's call under way: on its latest worker's
        account, or on that of the one before, if that still owes an answer and the latest does not."""
        link = self._links.get(self._latest.get(plugin, 0))
        if link is None or link.owed <= 0:
            link = next((one for one in self._links.values() if one.spec.id == plugin and one.owed > 0), link)
        if link is not None:
            link.host_ns += spent_ns

    # ------------------------------------------------------------------ the core's actions
    def start(self, action: act.StartWorker, now_ns: int) -> None:
        """Gives the plugin a spare, or asks the zygote for a worker; where the machine refuses one, the core hears of
        it in this very turn."""
        spare = self.spares.take()
        if spare is not None and self._adopt(spare, action, now_ns):
            return
        try:
            link = WorkerLink(action.worker, action.spec, now_ns)
        except OSError as error:
            self._logs.log("error", f"no worker for {action.spec.id}: {error.strerror}")
            self._refused.append(action.worker)
            self.unsettled = True
            return
        self._enter(link)
        self._forked[link.forked_as] = link
        self._poll(link)
        self.zygote.ask(link)

    def _enter(self, link: WorkerLink) -> None:
        self._links[link.worker] = link
        if link.worker > 0:
            self._latest[link.spec.id] = link.worker

    def _adopt(self, link: WorkerLink, action: act.StartWorker, now_ns: int) -> bool:
        """Makes a spare the worker that ``action`` asks for; False where it cannot be, and then it is no more."""
        try:
            self._sandboxing.adopt(link.worker, action.worker, action.spec)
        except RuntimeError as error:
            self._logs.log("error", f"a spare worker could not be given to {action.spec.id}: {error}")
            self.spares.lost(link)
            self.zygote.kill(link)
            return False
        link.worker, link.spec, link.started_ns = action.worker, action.spec, now_ns
        self._enter(link)
        if self.governing is not None:
            self.governing.worker_started(link.worker, link.spec, link.pid, link.pidfd)
        self._load(link)
        return True

    def refill(self, now_ns: int) -> None:
        """Forks the spares that are missing. Not called while a cold call is on its way: it would compete with it."""
        for _ in range(self.spares.missing(now_ns)):
            self._last_own -= 1
            try:
                link = WorkerLink(self._last_own, NOBODY, now_ns)
            except OSError:
                return
            self._forked[link.forked_as] = link
            self._poll(link)
            self.spares.fork(link)

    def start_job(self, job: Job) -> None:
        """Starts a worker of its own for ``job``; jobs have negative numbers, and the core never hears of them."""
        self._last_own -= 1
        self._jobs[self._last_own] = job
        self.start(act.StartWorker(self._last_own, job.spec), time.monotonic_ns())

    def _job_ended(self, worker: int, code: str, message: str) -> None:
        job = self._jobs.pop(worker)
        job.ended(job.value, code, message)

    def send_call(self, action: act.SendCall) -> None:
        """Queues one call on its worker's link; ``flush`` writes."""
        link = self._links[action.worker]
        request = action.request
        if action.seq & MARKS_DRAIN_MASK == MARKS_DRAIN_MASK:
            self.marks(action.worker)
        link.sent = action.seq + 1
        if not link.owed:
            self.working += 1
        link.owed += 1
        link.user_id = request.user_id
        link.queue(_encode(inner.Call(action.seq, request.hook, request.user_id, request.deadline_ns, request.params)))
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def recall(self, action: act.RecallCalls) -> None:
        """Asks a worker to skip what it has not begun of these calls; ``flush`` writes."""
        link = self._links.get(action.worker)
        if link is not None:
            self.send(link, inner.Recall(action.seqs))

    def send(self, link: WorkerLink, message: Any) -> None:
        """Queues any other message for a worker, an ApiReply say; ``flush`` writes."""
        if not link.queue(_encode(message)):
            self._violated(link, "it does not read what it asked for")
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def flush(self) -> None:
        """Writes what is queued, one system call a worker."""
        for link in self.dirty:
            link.dirty = False
            try:
                link.flush()
                if link.wants_write != link.polled_write:
                    self._watch(link)
            except Exception as error:
                self._failed("link", error, link)
        self.dirty.clear()

    def follow_up(self, now_ns: int) -> bool:
        """Once a turn while ``unsettled``, what had to wait until frames were written: spares, and the end of what
        could not be started. True where workers ended: what the core makes of it is for a turn at once."""
        if self._refill_turns:
            self._refill_turns -= 1
            if not self._refill_turns:
                self.refill(now_ns)
        self.unsettled = self._refill_turns > 0
        while self._overmarked:
            link = self._overmarked.pop()
            try:
                if link.worker in self._links:
                    self._violated(link, "it has marked more calls than it was sent")
            except Exception as error:
                self._failed("marks of a worker", error, link)
        if not self._refused and not self._never and not self._closing:
            return False
        closing, self._closing = self._closing, []
        for link, exited, lost, due_ns in closing:
            try:
                self._close(link, exited, lost, due_ns)
            except Exception as error:
                link.closing = False  # whoever hears of the end next may tell it
                self._failed("end of a worker", error, link)
        while self._refused:
            worker = self._refused.pop()
            try:
                self._refuse(worker, now_ns)
            except Exception as error:
                self._failed("refused fork", error, self._links.get(worker))
        never, self._never = self._never, []
        for link, lost in never:
            try:
                self._gone(link, None, lost)
            except Exception as error:
                self._failed("end of a worker", error, link)
        return True

    def _failed(self, duty: str, error: Exception, link: WorkerLink | None) -> None:
        """A duty done for one worker failed: it ends, and its plugin is quarantined. A spare or a job just ends."""
        if link is not None:
            self.zygote.kill(link)
        served = link is not None and link.spec is not NOBODY and link.worker not in self._jobs
        self._guard_failed(duty, error, link.spec.id if link is not None and served else "")

    def never_started(self, worker: int) -> None:
        """``start`` failed: in this turn the core hears that there is no such worker."""
        self._refused.append(worker)
        self.unsettled = True

    def kill_plugin(self, plugin: str) -> None:
        """SIGKILL for every worker of ``plugin``, whatever the core thinks of them."""
        for link in self._links.values():
            if link.spec.id == plugin:
                self.zygote.kill(link)

    def _refuse(self, worker: int, now_ns: int) -> None:
        """There is no process for ``worker``, and never was."""
        link = self._links.get(worker) or self._forked.get(worker)
        if link is not None:
            self._release(link)
            if link.spec is NOBODY:
                return
        if worker in self._jobs:
            self._job_ended(worker, "OVERLOADED", "the system gave no process for a worker")
            return
        self._step(ev.ForkRefused(worker), now_ns)

    def kill(self, worker: int, reason: str, due_ns: int, now_ns: int) -> None:
        """SIGKILL now, or as soon as there is a process to kill."""
        link = self._links.get(worker)
        if link is None:
            return
        refusal = self.zygote.kill(link)
        if refusal is not None:
            self._guard_failed("kill", refusal, link.spec.id)
        if reason == "violation":
            link.broken = True
        if reason == "deadline":
            self._metrics.observe("kill_delay_seconds", (), max(0, time.monotonic_ns() - due_ns) / 1e9)
        self._sandboxing.killed(worker)
        if self.zygote.unask(link):
            self._never.append((link, Lost("BOOT_FAILED", "the worker was not started in time")))
            self.unsettled = True

    def ping(self, action: act.PingWorker) -> None:
        """Asks an idle worker for a sign of life, over its link."""
        link = self._links.get(action.worker)
        if link is not None:
            self.send(link, inner.Ping(action.nonce))

    def marks(self, worker: int) -> int:
        """How many calls the worker has begun in all, as its marks pipe says now.

        The core asks in the middle of a step, so that a pipe that lies is dealt with after it (``follow_up``).
        """
        link = self._links.get(worker)
        if link is None:
            return 0
        begun = link.drain_marks()
        if link.overmarked and link not in self._overmarked:
            self._overmarked.append(link)
            self.unsettled = True
        return begun

    def stop(self, worker: int) -> None:
        """No more calls for this worker: it finishes and leaves."""
        link = self._links.get(worker)
        if link is not None:
            link.flush()
            link.half_close()

    # ------------------------------------------------------------------ what the zygote says
    def failed(self, number: int, error: Exception) -> None:
        """What the zygote said of a worker could not be taken."""
        self._failed("message of the zygote", error, self._forked.get(number))

    def zygote_up(self) -> None:
        """It takes requests."""
        self._step(ev.ZygoteUp(), time.monotonic_ns())

    def jail_of(self, link: WorkerLink) -> dict[str, Any]:
        """What the zygote is told of the worker. Raises RuntimeError."""
        return self._sandboxing.jail_for(link.worker, None if link.spec is NOBODY else link.spec)

    def forked(self, number: int, pid: int, pidfd: int) -> None:
        """There is a process."""
        link = self._forked.get(number)
        if link is None:
            if pidfd >= 0:
                os.close(pidfd)
            return
        link.pid, link.pidfd = pid, pidfd
        if link.pending_kill:
            self.zygote.kill(link)
        elif link.spec is NOBODY:
            self.spares.check(link)
        elif self.governing is not None:
            self.governing.worker_started(link.worker, link.spec, link.pid, link.pidfd)

    def refused(self, number: int, why: str) -> None:
        """There is no process."""
        link = self._forked.get(number)
        if link is not None:
            now_ns = time.monotonic_ns()
            self._cannot_start(f"no worker for {link.spec.id or 'a spare'}: {why}", now_ns)
            self._refuse(link.worker, now_ns)

    def _cannot_start(self, why: str, now_ns: int) -> None:
        """The machine, not a plugin, has kept a worker from starting: `/readyz` says so, and the log now and then."""
        if now_ns - self._unstarted_ns > UNSTARTED_NS or why != self._metrics.health.get("workers"):
            self._logs.log("error", why)
            self._unstarted_ns = now_ns
        self._metrics.health["workers"] = why
        self._unstarted_until_ns = now_ns + UNSTARTED_NS

    def exited(self, message: inner.Exited) -> None:
        """A process has ended."""
        link = self._forked.get(message.worker)
        if link is not None:
            self._gone(link, message, None)

    def zygote_lost(self, now_ns: int) -> None:
        """Each worker is waited for by its pidfd, so that its link is read to the end."""
        self._step(ev.ZygoteLost(), now_ns)  # kills each worker whose pidfd is known
        for link in list(self._forked.values()):
            link.lost_ns = now_ns
            if link.spec is NOBODY:
                self.zygote.kill(link)
            if link.pidfd >= 0:
                self._loop.add(link.pidfd, lambda _, link=link: self._orphaned(link))  # type: ignore[misc]  # bound now

    def _orphaned(self, link: WorkerLink) -> None:
        if self._forked.get(link.forked_as) is link:
            self._gone(link, None, Lost("WORKER_CRASHED", "the worker was lost with the daemon's zygote"))

    def upkeep(self, now_ns: int) -> None:
        """Ends workers that the zygote never spoke of, sees to zygote and spares. Call it once a second."""
        for worker, job in list(self._jobs.items()):
            if now_ns > job.due_ns and worker in self._links:
                self._links[worker].failure = "the bundle was not loaded in time (pool.boot_seconds)"
                self.zygote.kill(self._links[worker])
        for link in list(self._forked.values()):
            if link.lost_ns and now_ns - link.lost_ns > LOST_NS_MAX:
                self._orphaned(link)
            if link.spent_ns:
                self._export(link)
        if now_ns > self._unstarted_until_ns:  # nobody may have tried since, and would not while `/readyz` says no
            self._metrics.health["workers"] = ""
        self.zygote.upkeep(now_ns)
        self.spares.upkeep(now_ns)

    def _export(self, link: WorkerLink) -> None:
        self.overhead.count(link.spec.id, "supervisor", link.spent_ns)
        link.spent_ns = 0

    # ------------------------------------------------------------------ reading
    def _poll(self, link: WorkerLink) -> None:
        link.polled_write = link.wants_write
        self._loop.add(link.fileno(), partial(self._io, link),
                       EPOLLIN | EPOLLOUT if link.polled_write else EPOLLIN)

    def _watch(self, link: WorkerLink) -> None:
        if not link.ended and not link.parked:
            link.polled_write = link.wants_write
            self._loop.modify(link.fileno(), EPOLLIN | EPOLLOUT if link.polled_write else EPOLLIN)

    def _io(self, link: WorkerLink, mask: int) -> None:
        try:
            if mask & EPOLLOUT:
                link.flush()
                if link.wants_write != link.polled_write:
                    self._watch(link)
            if mask & ~EPOLLOUT:
                self._serve(link)
        except Exception as error:
            self._unreadable(link, error)

    def _unreadable(self, link: WorkerLink, error: Exception) -> None:
        """What fails to be read is not read again: it would be ready again at once, or wait for a turn for ever."""
        link.ended = True
        self._loop.remove(link.fileno())
        self._failed("events of a worker", error, link)

    def _serve(self, link: WorkerLink) -> None:
        """Reads a slice of what has arrived and charges what that took; parks the link where more must wait its turn.

        Time is the thread's own CPU, so that nobody pays for a core that others had, and is read once a slice.
        """
        begun_ns = _cpu_ns()
        ended = self._read(link)
        spent_ns = _cpu_ns() - begun_ns
        while link.more and spent_ns < SLICE_NS and not ended:
            ended = self._read(link)
            spent_ns = _cpu_ns() - begun_ns
        over_ns = self._spent(link, spent_ns)
        if ended:
            link.ended = True  # the exit status follows from the zygote; a dead link is not polled meanwhile
            self._loop.remove(link.fileno())
            if link.lost_ns and link.pidfd < 0:
                self._orphaned(link)
        elif link.more or over_ns > 0 or link.paced:
            link.paced = False
            now_ns = time.monotonic_ns()
            if link.more or self.reading.wait_ns(link.spec.id, now_ns):
                link.parked = True
                self._loop.remove(link.fileno())
                self.reading.push(link.spec.id, link, now_ns)

    def _spent(self, link: WorkerLink, spent_ns: int) -> int:
        """Charges CPU of the loop to the link's plugin; what of it was beyond its ordinary answers."""
        link.spent_ns += spent_ns
        over_ns = spent_ns - link.ordinary_ns
        link.ordinary_ns = 0
        if over_ns > 0 and link.spec is not NOBODY:
            link.host_ns += over_ns
            self.overhead.read(link.spec.id, over_ns, time.monotonic_ns())
        return over_ns

    def read_parked(self, now_ns: int) -> bool:
        """Reads links that wait for their plugin's turn, in fair order, for PARKED_NS; True where more may be read."""
        until_ns = now_ns + PARKED_NS
        while (found := self.reading.pop(now_ns)) is not None:
            link = found[1]
            if link.closed or link.ended or link.closing:
                continue
            link.parked = False
            try:
                self._serve(link)
                if not link.parked and not link.ended and not link.closed:
                    self._poll(link)
            except Exception as error:
                self._unreadable(link, error)
            now_ns = time.monotonic_ns()
            if now_ns > until_ns:
                break
        due_ns = self.reading.next_due_ns(now_ns)
        return due_ns is not None and due_ns <= now_ns

    def next_read_ns(self, now_ns: int) -> int | None:
        """When ``read_parked`` has something to do; None where no link waits."""
        return self.reading.next_due_ns(now_ns)

    def _read(self, link: WorkerLink) -> bool:
        """Takes what has arrived, some messages at a time; True at the link's end."""
        try:
            if link.broken:
                return True
            bodies, ended = link.receive()
            if bodies:
                now_ns = _clock_ns()
                until_ns = now_ns + SLICE_NS
                waiting = iter(bodies)
                for body in waiting:
                    message = _decode_worker(body)
                    if len(body) > inner.LOG_FRAME_BYTES_MAX and type(message) is inner.Log:
                        raise ZmtpError("a line over its bound")
                    self._take(link, message, now_ns)
                    if link.broken:
                        return True
                    if _clock_ns() > until_ns:
                        if left := list(waiting):
                            link.put_back(left)
        except (ZmtpError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._violated(link, str(error))
            return True
        except Exception as error:  # a bug of ours may cost this worker, not everybody's
            self._failed("message of a worker", error, link)
            return True
        return ended

    def _violated(self, link: WorkerLink, why: str) -> None:
        self._logs.log("error", f"plugin {link.spec.id or '(none, a spare)'}: its worker broke the inner protocol: "
                                f"{why[:200]}")
        link.broken = True
        if link.spec is NOBODY:
            self.zygote.kill(link)
            return
        if link.worker in self._jobs:
            link.failure = f"the worker broke the inner protocol: {why[:200]}"
            self.zygote.kill(link)
            return
        self._step(ev.WorkerViolated(link.worker, why[:500]), time.monotonic_ns())

    def _take(self, link: WorkerLink, message: Any, now_ns: int) -> None:
        kind, worker = type(message), link.worker
        if worker < 0 and kind not in UNCALLED:
            raise ZmtpError("a worker without calls says what only one with calls may")
        if kind in ANSWERS:
            link.owed -= 1
            if not link.owed:
                self.working -= 1
            link.lines = link.strays = 0
            link.ordinary_ns += ORDINARY_NS
        if kind is inner.Reply:
            self._step(ev.WorkerAnswered(worker, message.seq, "", message), now_ns)
        elif kind is inner.Raised:
            code = raised_code(message, partial(self._refused_so, worker, message.seq))  # a lambda would slow all kinds
            self._step(ev.WorkerAnswered(worker, message.seq, code, message), now_ns)
        elif kind is inner.BadOutput:
            self._step(ev.WorkerAnswered(worker, message.seq, "INVALID_OUTPUT", message), now_ns)
        elif kind is inner.BadInput:
            code = "INVALID_INPUT" if self._payload_is_bad(worker, message.seq) else "PLUGIN_ERROR"
            self._step(ev.WorkerAnswered(worker, message.seq, code, message), now_ns)
        elif kind is inner.Skipped:
            self._step(ev.WorkerAnswered(worker, message.seq, "skipped", message), now_ns)
        elif link.closing and kind in ASKING:
            return  # nobody is there to be answered
        elif kind is inner.ApiCall:
            if self.api is not None:
                self.api.handle(link, message, now_ns)
            else:  # fail closed: without a gateway no permission is granted
                self.send(link, inner.ApiReply(message.api_id, False, inner.NIL, "permission_denied",
                                               "this daemon has no gateway"))
        elif kind is inner.Log:
            link.lines += 1
            if link.lines > LINES_PER_CALL_MAX or (link.ready and not link.owed):
                raise ZmtpError("too many lines in one call" if link.owed else "a line while nothing ran")
            self._logs.plugin_line(link.spec.id, message.level, message.text, now_ns)
        elif kind is inner.Pong:
            self._step(ev.WorkerPonged(worker, message.nonce), now_ns)
        elif kind is inner.Booted:
            self._booted(link, message)
        elif kind is inner.Ready:
            if declares_too_much(message):
                self._violated(link, "it declares more than any plugin has")
                return
            if worker in self._jobs:
                if self._jobs[worker].value is not None:
                    self._violated(link, "it says twice that it is ready")
                    return
                self._jobs[worker].value = {"hooks": message.hooks, "permissions": message.permissions,
                                            "usesLoop": message.uses_loop, "version": message.version}
                return
            if not link.booted or link.ready:
                self._violated(link, "it says twice, or too early, that it is ready")
                return
            link.ready = True
            self._begin_account(link)
            self._metrics.observe("cold_start_seconds", (), (now_ns - link.started_ns) / 1e9)
            self._step(ev.WorkerReady(worker), now_ns)
            self._refill_turns = REFILL_TURNS
            self.unsettled = True
        elif kind is inner.Failed:
            if link.ready or link.failure:  # said once, by a worker that goes: more is a plugin's word, without end
                self._violated(link, "it fails twice, or after it was ready")
                return
            text = f"{message.stage} failed: {message.layer or message.exception}: {message.message}"
            link.failure = at_place(text, message.traceback)
            if link.spec is NOBODY:
                self._logs.log("error", f"a spare worker: {link.failure}")
            if not link.booted and message.layer in LAYERS:  # later it may be the plugin that says so
                self._metrics.set("sandbox_layer_active", (message.layer,), 0.0)
                self._cannot_start(link.failure, now_ns)
            elif not link.booted:
                self._cannot_start(link.failure, now_ns)
            if link.spec is not NOBODY and self._logs.failure_room(link.spec.id, now_ns):
                self._logs.failure(link.spec.id, f"{text}\n{message.traceback}" if message.traceback else text)

    def _payload_is_bad(self, worker: int, seq: int) -> bool:
        """Whether the payload of that call cannot be decoded here either: a worker's word alone blames no host."""
        oldest = self.oldest(worker)
        if oldest is None or oldest[0] != seq:
            return False
        return not hooks.is_decodable(bytes(oldest[1].params))

    def _refused_so(self, worker: int, seq: int, code: str) -> bool:
        """Whether an API call of that hook was refused so; without a gateway every one is, for want of permission."""
        return code == "permission_denied" if self.api is None else self.api.refused(worker, seq, code)

    def _booted(self, link: WorkerLink, message: inner.Booted) -> None:
        if link.booted:
            self._violated(link, "it boots twice")
            return
        link.booted = True
        self._metrics.health["workers"] = ""
        self.layers = message.layers
        if link.spec is NOBODY:
            self.spares.check(link)
        else:
            self._load(link)

    def _load(self, link: WorkerLink) -> None:
        """Sends a worker that is confined its plugin."""
        spec = link.spec
        job = self._jobs.get(link.worker)
        try:
            if job is not None and job.files is not None:
                files = job.files
                sha256 = {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}
            else:
                files, sha256 = self._source.load(spec.digest)
        except Exception as error:  # noqa: BLE001 - whatever the store says, only this worker ends for it
            link.failure = f"the bundle could not be read: {error}"[:500]
            self._logs.log("error", f"plugin {spec.id}: {link.failure}")
            link.half_close()
            return
        self.send(link, inner.Load(spec.id, spec.version, spec.entrypoint, files, sha256,
                                   spec.limits.memory_mb * 1024 * 1024, job.mode if job is not None else "serve"))

    # ------------------------------------------------------------------ ends
    def _gone(self, link: WorkerLink, exited: inner.Exited | None, lost: Lost | None) -> None:
        if link.closing or link.closed:
            return
        link.closing = True
        try:
            self._close(link, exited, lost, time.monotonic_ns() + DRAIN_NS_MAX)
        except Exception:
            link.closing = False  # whoever hears of the end next may tell it
            raise

    def _close(self, link: WorkerLink, exited: inner.Exited | None, lost: Lost | None, due_ns: int) -> None:
        """Reads what was written before the death, since that counts, for DEAD_NS in a turn; then the worker's end is
        told."""
        begun_ns = _cpu_ns()
        until_ns = time.monotonic_ns() + DEAD_NS
        while not self._read(link):
            now_ns = time.monotonic_ns()
            if now_ns > due_ns:
                break
            if now_ns > until_ns:
                self._spent(link, _cpu_ns() - begun_ns)
                self._closing.append((link, exited, lost, due_ns))
                self.unsettled = True
                return
        self._spent(link, _cpu_ns() - begun_ns)
        code, message, details = _evidence(link, exited, lost)
        if self.governing is not None and link.pid:
            try:
                evidence = self.governing.worker_gone(link.worker, exited)
                if evidence is not None:
                    code, message = evidence
            except Exception as error:  # its end is told all the same
                self._failed("governing", error, link)
        if exited is not None and link.worker in self._links:
            self._close_account(link, exited)
        marks = link.drain_marks()
        self._release(link)
        if link.spec is NOBODY:
            if not link.lost_ns:
                self._logs.log("warning", f"a spare worker ended: {message}")
            return
        if link.worker in self._jobs:
            self._job_ended(link.worker, code, link.failure or message)  # why it was killed says more than how
            return
        self._ends[link.worker] = (link.pid, code, message)
        try:
            self._step(ev.WorkerGone(link.worker, marks, code, message, details), time.monotonic_ns())
        finally:
            self._ends.pop(link.worker, None)

    def tell_end(self, ended: act.WorkerEnded) -> str:
        """A line in both logs for a worker that ended otherwise than to save resources; why, "" where none was told."""
        if ended.reason in QUIET_ENDS:
            return ""
        now_ns = time.monotonic_ns()
        pid, code, message = self._ends.get(ended.worker, (0, "", "it was never started"))
        if ended.reason == "boot_failed":
            self._metrics.failure(ended.plugin, "BOOT_FAILED", now_ns)
        said = ""
        if self._logs.failure_room(ended.plugin, now_ns):
            said = f"{code}: {message}" if code and code not in message else message
            self._logs.failure(ended.plugin, f"its worker{f' (pid {pid})' if pid else ''} ended, {ended.reason}: {said}"
                                             + ("; its breaker counts it" if ended.charged else ""),
                               "warning" if ended.reason in UNWANTED_EXITS else "info")
        return said

    def _release(self, link: WorkerLink) -> None:
        """Forgets the link and closes its fds; what its worker held of the sandbox is free again."""
        self._export(link)
        self._loop.remove(link.fileno())
        if link.pidfd >= 0:
            self._loop.remove(link.pidfd)
        self.zygote.unask(link)
        link.close()
        if link.owed > 0:
            self.working -= 1
        del self._forked[link.forked_as]
        if link.spec is NOBODY:
            self.spares.lost(link)
        else:
            del self._links[link.worker]
        if self._latest.get(link.spec.id) == link.worker:
            del self._latest[link.spec.id]
        self._sandboxing.worker_gone(link.worker)


def declares_too_much(message: inner.Ready) -> bool:
    """What a worker says of its plugin is compared word for word, and each difference told to an administrator."""
    names = (*message.hooks[:DECLARED_MAX], *message.permissions[:DECLARED_MAX], message.plugin, message.version)
    return (len(message.hooks) > DECLARED_MAX or len(message.permissions) > DECLARED_MAX
            or max(map(len, names)) > DECLARED_CHARACTERS_MAX)


def _evidence(link: WorkerLink, exited: inner.Exited | None, lost: Lost | None) -> tuple[str, str, dict[str, int]]:
    """(code, message, details) of a worker's end, by what can be shown of it."""
    if exited is None:
        return (lost.code, lost.message, {}) if lost is not None else ("WORKER_CRASHED", "the worker was lost", {})
    if os.WIFSIGNALED(exited.status):
        number = os.WTERMSIG(exited.status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        code = "CPU_LIMIT" if number == signal.SIGXCPU else "WORKER_CRASHED"
        return code, f"the worker died of {name}", {"signal": number}
    status = os.waitstatus_to_exitcode(exited.status)
    if status in (inner.EXIT_JAIL, inner.EXIT_LOAD) or link.failure:
        return "BOOT_FAILED", link.failure or f"the worker exited with {status}", {"exitCode": status}
    return "WORKER_CRASHED", f"the worker exited with {status}", {"exitCode": status}
