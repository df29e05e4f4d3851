"""What the supervisor asks of the parts that are plugged into it. Every call is made in the loop and must not block."""

from __future__ import annotations

from typing import Any, Protocol

from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.worker_link import WorkerLink
from workers import wire as inner


class ApiCalls(Protocol):
    """API calls of plugins, from the worker's link to the gateway or a host and back."""

    components: frozenset[str]

    def handle(self, link: WorkerLink, message: inner.ApiCall, now_ns: int) -> None:
        """Takes one API call; its ApiReply goes out by ``WorkerTable.send``, then or later."""

    def refused(self, worker: int, seq: int, code: str) -> bool:
        """Whether an API call of the hook that runs as ``seq`` was answered with ``code``."""

    def invocation_ended(self, call: int) -> list[Any]:
        """The invocation has its verdict: the effects that it asked for are given, what is in flight is cancelled."""


class Governing(Protocol):
    """CPU and memory of workers: samples, holds back, kills on evidence."""

    busy_ns: int
    """Between two looks at a worker that has a call."""
    rests: bool
    """True where no worker was busy at the last tick."""

    @property
    def halfway(self) -> bool:
        """True where the last tick did a part only: the next follows at once."""

    def worker_started(self, worker: int, spec: PluginSpec, pid: int, pidfd: int) -> None:
        """A worker's process exists; ``pidfd`` stays the worker table's."""

    def worker_gone(self, worker: int, exited: inner.Exited | None) -> tuple[str, str] | None:
        """Its process has ended; None where no rusage was had. (code, message) where there is evidence of a limit."""

    def charge_host(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        """Takes what the daemon's own processes did for ``plugin`` out of its CPU bucket."""

    def tick(self, now_ns: int) -> int:
        """Does what is due; when (CLOCK_MONOTONIC ns) it wants to be called next."""

    def usage(self, worker: int, call: int = 0) -> tuple[float, int]:
        """(memory in MB, throttled ns) by the latest sample: of ``call`` alone, or of the worker's whole life."""
