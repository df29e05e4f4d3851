"""The two kinds of worker that the core knows of: one that serves a plugin, and a spare that may come to serve one.

The third kind, a worker of its own for one task, is ``jobs.Job``.
"""

from __future__ import annotations

from typing import Any, Protocol

from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.links import worker_protocol
from apex_exec.executor.links.accounts import Accounts
from apex_exec.executor.links.worker_link import ProvenEnd, WorkerLink
from apex_exec.executor.ports import Neighbours
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from workers import wire as inner
from workers.zmtp import ZmtpError


class Home(Protocol):
    """The executor, as the kinds of its workers see it."""

    neighbours: Neighbours
    protocol: worker_protocol.WorkerProtocol
    accounts: Accounts
    metrics: Metrics
    logs: Logs

    def load(self, link: WorkerLink, files: dict[str, bytes] | None = None, mode: str = "serve") -> None:
        """Sends a jailed worker its plugin: ``files``, or what the bundle source has."""

    def reply(self, link: WorkerLink, message: Any) -> None:
        """Queues a message for the worker."""

    def kill_link(self, link: WorkerLink) -> OSError | None:
        """Kills the worker now, or as soon as there is a process. Returns the kernel's answer if it refuses."""

    def spare_progressed(self, link: WorkerLink) -> None:
        """A spare has booted, or its pidfd has come. Once both are so, it may be given to a plugin."""

    def refill_soon(self) -> None:
        """Has the warm pools filled soon, but after the messages that are being sent to workers and hosts."""


class PoolWorker:
    """A worker that serves one plugin. Everything that happens to it becomes an event of the core."""

    serves = True
    decode = staticmethod(worker_protocol.decode)

    def __init__(self, home: Home) -> None:
        self.handlers = home.protocol.of_pool
        self._home = home
        self._step = home.neighbours.step

    def jail_spec(self, link: WorkerLink) -> PluginSpec | None:
        """The control group has its plugin's limits from the start; RLIMIT_DATA comes with ``Load``."""
        return link.spec

    def forked(self, link: WorkerLink) -> None:
        """The governor samples it from now on."""
        governing = self._home.neighbours.governing
        if governing is not None:
            governing.worker_started(link.worker, link.spec, link.pid, link.pidfd)

    def booted(self, link: WorkerLink) -> None:
        """Sends the worker its plugin."""
        self._home.load(link)

    def ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        """The worker can be called. Raises ZmtpError if it was ready before, or was sent no plugin."""
        if not link.booted or link.ready:
            raise ZmtpError("it says that it is ready a second time, or too early")
        link.ready = True
        home = self._home
        home.accounts.begin(link)
        home.metrics.observe("cold_start_seconds", (), (now_ns - link.started_ns) / 1e9)
        self._step(ev.WorkerReady(link.worker), now_ns)
        home.refill_soon()

    def failed(self, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
        """Writes the reason into its plugin's log."""
        say_failure(self._home.logs, link, message, now_ns)

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """The core has the worker killed, and the plugin's breaker counts that."""
        self._step(ev.WorkerViolated(link.worker, why[:500]), now_ns)

    def hung_up(self, link: WorkerLink) -> None:
        """Its end is reported when its process is reaped."""

    def orphaned(self, link: WorkerLink) -> None:
        """Does nothing: the core, which was notified of the zygote's loss, has the worker killed."""

    def refused(self, worker: int, now_ns: int) -> None:
        """Tells the core that there is no process for the worker."""
        self._step(ev.ForkRefused(worker), now_ns)

    def ended(self, link: WorkerLink, end: ProvenEnd, begun: int, now_ns: int) -> None:
        """Tells the core that the worker has ended."""
        self._step(ev.WorkerGone(link.worker, begun, end.code, end.message, end.details), now_ns)


class Spare:
    """A worker that is forked and jailed ahead and waits for a plugin. The core does not know of it."""

    serves = False
    decode = staticmethod(worker_protocol.decode)

    def __init__(self, home: Home) -> None:
        self.handlers = home.protocol.of_others
        self._home = home

    def jail_spec(self, link: WorkerLink) -> PluginSpec | None:
        """Limits come with the plugin."""
        return None

    def forked(self, link: WorkerLink) -> None:
        """The spare may be given to a plugin if it has booted as well."""
        self._home.spare_progressed(link)

    def booted(self, link: WorkerLink) -> None:
        """The spare may be given to a plugin if its pidfd is known as well."""
        self._home.spare_progressed(link)

    def ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        """Raises ZmtpError: a spare has loaded no plugin."""
        raise ZmtpError("a spare says that it is ready, and was sent no plugin")

    def failed(self, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
        """No plugin is concerned: the daemon's log says why."""
        self._home.logs.log("error", f"a spare worker: {link.failure}")

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """It is killed."""
        self._home.kill_link(link)

    def hung_up(self, link: WorkerLink) -> None:
        """Its end is logged when its process is reaped."""

    def orphaned(self, link: WorkerLink) -> None:
        """It is killed: another zygote's workers take its place."""
        self._home.kill_link(link)

    def refused(self, worker: int, now_ns: int) -> None:
        """The warm pool, which knows already, tries again after a pause."""

    def ended(self, link: WorkerLink, end: ProvenEnd, begun: int, now_ns: int) -> None:
        """The daemon's log says how, unless the zygote's end explains it."""
        if not link.lost_ns:
            self._home.logs.log("warning", f"a spare worker ended: {end.message}")


def say_failure(logs: Logs, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
    """Writes into the plugin's log why its worker could not boot, if there is room for one more failure."""
    if logs.failure_room(link.spec.id, now_ns):
        text = worker_protocol.failure_text(message)
        logs.failure(link.spec.id, f"{text}\n{message.traceback}" if message.traceback else text)
