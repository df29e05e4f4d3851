"""Everything the pool wants done. The shell does it; nothing here touches the world."""

from __future__ import annotations

from msgspec import Struct

from apex_exec.core.events import InvokeRequested
from apex_exec.core.plugin import PluginSpec


class StartWorker(Struct, gc=False):
    """Fork a jailed worker for ``spec``."""

    worker: int
    spec: PluginSpec


class SendCall(Struct, gc=False):
    """Put one call on the worker's link as its ``seq``-th."""

    worker: int
    seq: int
    request: InvokeRequested


class KillWorker(Struct, gc=False):
    """SIGKILL through the pidfd, now. ``reason`` is one of the exit reasons of the metrics table."""

    worker: int
    reason: str
    due_ns: int


class StopWorker(Struct, gc=False):
    """Close the idle worker's link; it leaves by itself."""

    worker: int
    reason: str


class Verdict(Struct, gc=False):
    """The one outcome of one invocation. ``code`` is "" for a result."""

    call: int
    plugin: str
    hook: str
    user_id: str
    code: str
    message: str
    body: object
    details: dict[str, object]
    started: bool
    queue_ns: int
    run_ns: int
    cold: bool


Action = StartWorker | SendCall | KillWorker | StopWorker | Verdict
