"""Everything that the pool may want done. The shell carries the actions out, in order; the classes here do nothing."""

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
    """Say how many calls of its link the worker has started; the answer is CallsStarted. The core asks if something
    has to be decided about a call that the worker may have started without an answer so far."""

    worker: int


class RecallCalls(Struct, gc=False):
    """Tell the worker not to begin these calls of its link (numbered as in SendCall). It skips those that it has not
    begun when it hears of this, and answers each of them all the same."""

    worker: int
    seqs: list[int]


class CancelCall(Struct, gc=False):
    """Tell the worker to end call ``seq`` of its link; the worker still answers the call. If ``nonce`` is not 0 this is
    a probe as well: the worker's event loop answers it at once, and WorkerPonged follows; WorkerBlocked may come first.
    """

    worker: int
    seq: int
    nonce: int = 0


class PingWorker(Struct, gc=False):
    """Ask the idle worker for a sign of life, over its link; its Pong becomes WorkerPonged."""

    worker: int
    nonce: int


class KillWorker(Struct, gc=False):
    """Send SIGKILL through the pidfd, now. ``reason`` is one of the exit reasons of the metrics table; ``due_ns`` is
    when the kill was due, from which its delay is measured."""

    worker: int
    reason: str
    due_ns: int


class StopWorker(Struct, gc=False):
    """Half-close the idle worker's link. The worker then leaves by itself, or is killed ``stop_grace_ns`` later."""

    worker: int
    reason: str


class WorkerEnded(Struct, gc=False):
    """For observers: a worker has ended, and ``reason`` is final; ``charged`` says that the breaker counted the end.
    There is exactly one for each worker."""

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
    """For the shell: the core itself failed at a timer of ``plugin``, which is "" if the timer was not a plugin's."""

    plugin: str
    error: Exception


class ReplaceZygote(Struct, gc=False):
    """The end of a killed worker was not reported: kill the zygote, start another, and then send ZygoteLost."""

    worker: int


class Verdict(Struct, gc=False):
    """The core's one decision about one invocation. ``code`` is "" for a result. ``started`` is false only if the hook
    never ran and never will. ``worker`` is the worker whose link the call stood on; it is 0 if the call never ran.
    ``cold`` says that no worker was ready when the call arrived. ``admitted`` is false if the call was refused as it
    came in; such a call leaves no record of an invocation."""

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
