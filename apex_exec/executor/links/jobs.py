"""Jobs: workers beside the pool's, each for one task. The core does not know of them.

The daemon's only job is the *probe*, which loads a bundle and says what its code declares. ``plugin validate`` runs the
same probe without a daemon, and a bundle's tests are a job as well (``registry.trials``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.links import worker_protocol
from apex_exec.executor.links.worker_kinds import Home, say_failure
from apex_exec.executor.links.worker_link import Handlers, ProvenEnd, WorkerLink
from workers import wire as inner
from workers.zmtp import ZmtpError


class Job:
    """One worker for one task. ``files`` are the bundle's files; if there are none, the bundle source has them.

    A subclass says which messages its worker may send (``handlers``) and what its end means (``over``). The worker is
    killed once ``due_ns`` has passed.
    """

    serves = False
    mode = ""
    """What the worker is to do with the plugin (``workers.wire.Load``)."""
    decode: Callable[[bytes], Any] = staticmethod(worker_protocol.decode)

    def __init__(self, spec: PluginSpec, files: dict[str, bytes] | None, due_ns: int) -> None:
        self.spec = spec
        self.due_ns = due_ns
        self.handlers = Handlers()
        self.is_over = False
        """Whether the worker has ended, or never was."""
        self._files = files
        self._sent = False
        self._home: Home

    def begin(self, home: Home) -> None:
        """The executor ``home`` starts the worker next."""
        self._home = home

    def over(self, code: str, message: str) -> None:
        """The worker has ended, or never was; called once. ``message`` says why."""
        raise NotImplementedError

    def overdue(self, link: WorkerLink) -> None:
        """``due_ns`` has passed: the worker is killed."""
        link.failure = "the bundle was not loaded in time (pool.boot_seconds)"
        self._home.kill_link(link)

    # ------------------------------------------------------------------ as a kind of worker
    def jail_spec(self, link: WorkerLink) -> PluginSpec | None:
        """The control group has the plugin's limits from the start; RLIMIT_DATA comes with ``Load``."""
        return link.spec

    def forked(self, link: WorkerLink) -> None:
        """The governor samples it as it does any other worker."""
        governing = self._home.neighbours.governing
        if governing is not None:
            governing.worker_started(link.worker, link.spec, link.pid, link.pidfd)
        self._send_plugin(link)

    def booted(self, link: WorkerLink) -> None:
        """The worker waits for its plugin."""
        self._send_plugin(link)

    def _send_plugin(self, link: WorkerLink) -> None:
        """Sends the worker its plugin once it is jailed and its pidfd is known, so that no line of the plugin runs in a
        process that we could not kill."""
        if link.booted and link.pidfd >= 0 and not self._sent:
            self._sent = True
            self._home.load(link, self._files, self.mode)

    def ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        """It has loaded the plugin. Raises ZmtpError if that is not its task."""
        raise ZmtpError("it says that it is ready to be called")

    def failed(self, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
        """The plugin's log says why it could not boot."""
        say_failure(self._home.logs, link, message, now_ns)

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """It is killed."""
        link.failure = f"the worker broke the inner protocol: {why[:200]}"
        self._home.kill_link(link)

    def hung_up(self, link: WorkerLink) -> None:
        """Its end is reported when its process is reaped."""

    def orphaned(self, link: WorkerLink) -> None:
        """It is killed: nothing would report its end."""
        self._home.kill_link(link)

    def refused(self, worker: int, now_ns: int) -> None:
        """There is no process for it."""
        self.is_over = True
        self.over("OVERLOADED", "the system gave no process for a worker")

    def ended(self, link: WorkerLink, end: ProvenEnd, begun: int, now_ns: int) -> None:
        """Why it was killed says more than how it died."""
        self.is_over = True
        self.over(end.code, link.failure or end.message)


class Probe(Job):
    """Loads a bundle and ends. ``done(value, code, message)`` is called once: with what the code declares,
    ``{hooks, permissions, usesLoop, version}``, or with None and why there is nothing."""

    mode = "probe"

    def __init__(self, spec: PluginSpec, files: dict[str, bytes] | None, due_ns: int,
                 done: Callable[[dict[str, Any] | None, str, str], None]) -> None:
        super().__init__(spec, files, due_ns)
        self._done = done
        self._declared: dict[str, Any] | None = None

    def begin(self, home: Home) -> None:
        """The executor ``home`` starts the worker next, which may send what a worker without calls may send."""
        super().begin(home)
        self.handlers = home.protocol.of_others

    def ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        """The worker has reported what the code declares, and leaves. Raises ZmtpError if it does so twice."""
        if self._declared is not None:
            raise ZmtpError("it says twice that it is ready")
        self._declared = {"hooks": message.hooks, "permissions": message.permissions,
                          "usesLoop": message.uses_loop, "version": message.version}

    def over(self, code: str, message: str) -> None:
        """What the code has declared counts, however the worker ended."""
        self._done(self._declared, code, message)
