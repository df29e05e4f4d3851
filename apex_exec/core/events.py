"""Everything that happens to the pool. Times are CLOCK_MONOTONIC nanoseconds, given beside the event."""

from __future__ import annotations

from msgspec import Raw, Struct

from apex_exec.core.plugin import PluginSpec


class PluginSet(Struct, gc=False):
    """A plugin was added or changed. A changed digest gives its worker up once it has answered."""

    spec: PluginSpec


class PluginRemoved(Struct, gc=False):
    """A plugin is no longer served."""

    plugin: str


class InvokeRequested(Struct, gc=False):
    """One admitted, schema-checked invocation. ``call`` is the shell's number for it, never reused."""

    call: int
    plugin: str
    hook: str
    user_id: str
    params: Raw
    deadline_ns: int


class CancelRequested(Struct, gc=False):
    """The caller of ``call`` no longer wants it (or is gone)."""

    call: int


class WorkerReady(Struct, gc=False):
    """The worker has loaded its plugin."""

    worker: int


class WorkerAnswered(Struct, gc=False):
    """The worker answered call ``seq`` of its link. ``code`` is "" for a result, "skipped" for a skip."""

    worker: int
    seq: int
    code: str
    body: object


class WorkerViolated(Struct, gc=False):
    """The worker broke the inner protocol."""

    worker: int
    message: str


class WorkerGone(Struct, gc=False):
    """The worker is dead and its link drained. ``marks`` counts the calls it had begun; ``code`` on evidence."""

    worker: int
    marks: int
    code: str
    message: str
    details: dict[str, int]


class Tick(Struct, gc=False):
    """Time has passed."""


class DrainRequested(Struct, gc=False):
    """No new calls; what waits is answered SHUTTING_DOWN at ``until_ns``."""

    until_ns: int


Event = (
    PluginSet | PluginRemoved | InvokeRequested | CancelRequested | WorkerReady | WorkerAnswered
    | WorkerViolated | WorkerGone | Tick | DrainRequested
)
