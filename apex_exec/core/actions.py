"""Everything that the pool may want done. The shell does it, in order; nothing here touches the world."""

from __future__ import annotations

from msgspec import Struct

from apex_exec.core.events import InvokeRequested
from apex_exec.core.plugin import PluginSpec


class StartWorker(Struct, gc=False):
    """Fork a jailed worker for ``spec``, or hand over a spare one that is jailed already."""

    worker: int
    spec: PluginSpec


class SendCall(Struct, gc=False):
    """Put one call on the worker's link as its ``seq``-th."""

    worker: int
    seq: int
    request: InvokeRequested


class CountStarted(Struct, gc=False):
    """Say how many calls of its link the worker has started (CallsStarted): somebody waits for a call that it may have
    started although nothing was heard of it."""

    worker: int


class RecallCalls(Struct, gc=False):
    """Tell the worker not to begin these calls of its link (numbered as in SendCall). It skips those that it has not
    begun when it hears of this, and answers each of them all the same."""

    worker: int
    seqs: list[int]


class CancelCall(Struct, gc=False):
    """Tell the worker to end call ``seq`` of its link, which it answers all the same. If ``nonce`` is not 0 this is a
    probe as well: the worker's loop answers it at once, and WorkerPonged follows; WorkerBlocked may come before."""

    worker: int
    seq: int
    nonce: int = 0


class PingWorker(Struct, gc=False):
    """Ask the idle worker for a sign of life, over its link; its Pong becomes WorkerPonged."""

    worker: int
    nonce: int


class KillWorker(Struct, gc=False):
    """SIGKILL through the pidfd, now. ``reason`` is one of the exit reasons of the metrics table."""

    worker: int
    reason: str
    due_ns: int


class StopWorker(Struct, gc=False):
    """Close the idle worker's link; it leaves by itself, or is killed ``stop_grace_ns`` later."""

    worker: int
    reason: str


class WorkerEnded(Struct, gc=False):
    """For observers: a worker has ended, for its final reason; ``charged`` says that the breaker counted it. It is said
    once of each worker."""

    worker: int
    plugin: str
    reason: str
    charged: bool


class BreakerChanged(Struct, gc=False):
    """For observers: the plugin's breaker is now ``closed``, ``open`` or ``half_open`` (a probe is out)."""

    plugin: str
    state: str


class UserPaused(Struct, gc=False):
    """For observers: the calls of ``hook`` by this user have ended worker after worker, and are refused for a while."""

    plugin: str
    user_id: str
    hook: str


class GenerationJudged(Struct, gc=False):
    """The answer to GenerationPrepared: ``code`` is "" if the generation is ready to be adopted."""

    plugin: str
    digest: str
    code: str
    message: str


class Faulted(Struct, gc=False):
    """For the shell: the core itself failed at what was due for ``plugin``, which is "" if it was for none."""

    plugin: str
    error: Exception


class ReplaceZygote(Struct, gc=False):
    """The end of a killed worker was not reported: kill the zygote, start another, and then send ZygoteLost."""

    worker: int


class Verdict(Struct, gc=False):
    """The one outcome of one invocation. ``code`` is "" for a result. ``worker`` is the worker that the call ran on; it
    is 0 if none has begun it. ``cold`` says that no worker was ready when the call arrived. ``admitted`` is false of a
    call that was refused as it came in: it leaves no record of an invocation."""

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
    worker: int = 0
    admitted: bool = True


Action = (
    StartWorker | SendCall | CountStarted | RecallCalls | CancelCall | PingWorker | KillWorker | StopWorker
    | WorkerEnded | BreakerChanged | UserPaused | GenerationJudged | Faulted | ReplaceZygote | Verdict
)
