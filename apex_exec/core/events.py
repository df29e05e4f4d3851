"""Everything that may happen, as the pool sees it. Nothing else reaches the pool.

``Pool.step`` is given the time of an event (CLOCK_MONOTONIC, nanoseconds) beside the event.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from apex_exec.core.limits import PoolLimits, RecyclePolicy
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy


class PluginSet(Struct, gc=False):
    """A plugin was added or changed. Another digest or memory bound means another worker generation: the prepared
    generation is adopted, or a new one is started beside the old. Calls that are admitted from now on run on it, in
    order; none is lost."""

    spec: PluginSpec


class PluginRemoved(Struct, gc=False):
    """A plugin is no longer served."""

    plugin: str


class InvokeRequested(Struct, gc=False):
    """One invocation, which the shell has checked against its schema. ``call`` is the shell's number for it and is
    never used again. ``own`` marks a call of the daemon itself (a canary, a smoke call), for which it does not matter
    for which users the plugin is enabled. ``has_room`` says that ``Pool.peek`` has just found room for the call, and
    that nothing has happened since."""

    call: int
    plugin: str
    hook: str
    user_id: str
    params: Raw
    deadline_ns: int
    own: bool = False
    has_room: bool = False


class CancelRequested(Struct, gc=False):
    """The caller of ``call`` no longer wants it, or is gone."""

    call: int


class GenerationPrepared(Struct, gc=False):
    """A worker of ``spec`` is to be started beside the live one and to be tried with ``canary``, if there is one.
    GenerationJudged reports the outcome. The worker serves nobody until a PluginSet with the same digest adopts it."""

    spec: PluginSpec
    canary: InvokeRequested | None = None


class GenerationDropped(Struct, gc=False):
    """The generation that was prepared for ``plugin``, if there is one, is to be given up."""

    plugin: str


class WorkerReady(Struct, gc=False):
    """The worker has loaded its plugin."""

    worker: int


class WorkerAnswered(Struct, gc=False):
    """The worker answered call ``seq`` of its link. ``code`` is "" for a result, "skipped" for a call that it did not
    run, because its deadline had passed or it was recalled or cancelled, and "ended" for one that was cancelled while
    it ran. ``cpu_ns`` is the CPU time of the call by the word of a shared worker. It decides only whose turn is next
    among the plugin's own users, so a worker that lies about it harms nobody else."""

    worker: int
    seq: int
    code: str
    body: object
    cpu_ns: int = 0


class WorkerPonged(Struct, gc=False):
    """The worker answered the ping, or the probe, ``nonce``."""

    worker: int
    nonce: int


class WorkerBlocked(Struct, gc=False):
    """The worker says that it was running code of call ``seq`` when it was probed. This counts only if the probe is
    never answered: then the worker is killed for that call."""

    worker: int
    seq: int


class WorkerViolated(Struct, gc=False):
    """The worker broke the inner protocol."""

    worker: int
    message: str


class WorkerSampled(Struct, gc=False):
    """What the governor has read of one worker: its own memory now, and the CPU time that it has used in all."""

    worker: int
    memory_bytes: int
    cpu_ns: int


class WorkerThrottled(Struct, gc=False):
    """The governor has stopped the worker (``throttled``), or has let it go on. A stopped worker need not answer pings.
    """

    worker: int
    throttled: bool


class WorkerRanOn(Struct, gc=False):
    """The governor saw the worker use CPU time long after its last call was answered: the plugin's code goes on."""

    worker: int


class WorkerHesitates(Struct, gc=False):
    """The governor saw that the worker could have begun its oldest call long ago, since it sleeps or has used CPU time
    since then. Only a count says whether the worker has begun the call: a hook that sleeps or computes looks the same.
    """

    worker: int


class LimitExceeded(Struct, gc=False):
    """The governor has evidence that the worker is over a bound: ``code`` is MEMORY_LIMIT or CPU_LIMIT."""

    worker: int
    code: str
    message: str


class CallsStarted(Struct, gc=False):
    """The answer to CountStarted: the worker has started ``count`` calls of its link in all.

    The time given beside this event must not be later than the moment at which the count was read. The worker counts a
    call first and reads the clock then, so a call that is not counted here and whose deadline has passed never runs.
    """

    worker: int
    count: int


class WorkerGone(Struct, gc=False):
    """The worker is dead and its link drained. ``started`` counts the calls that it had started in all; ``code`` is the
    error code that the shell has evidence for."""

    worker: int
    started: int
    code: str
    message: str
    details: dict[str, int]


class PluginFaulted(Struct, gc=False):
    """The supervisor failed at something that it does for the plugin. The plugin is paused, as it is after too many
    ends of its workers: whether the plugin's data or a bug of ours is to blame, it is likely to fail again."""

    plugin: str
    message: str


class ForkRefused(Struct, gc=False):
    """The system gave no process for the worker (EAGAIN, EMFILE, ENOMEM). The worker never existed, and nobody is
    charged."""

    worker: int


class ZygoteLost(Struct, gc=False):
    """The zygote died, and every worker with it. The shell feeds this first, then WorkerGone for each worker."""


class ZygoteUp(Struct, gc=False):
    """A zygote takes requests again. Until a ZygoteLost the pool assumes that there is one."""


class Reconfigured(Struct, gc=False):
    """Other bounds hold from now on. What was admitted stays; idle workers above the new bound leave."""

    limits: PoolLimits
    breaker: BreakerPolicy
    recycle: RecyclePolicy


class Tick(Struct, gc=False):
    """Time has passed, and the timers that are due are to be handled. The shell sends this event when the time of
    ``Pool.next_wake_ns`` has come."""


class DrainRequested(Struct, gc=False):
    """The daemon ends: calls without a verdict at ``until_ns``, and calls that come later, are answered SHUTTING_DOWN.
    Until then the pool takes calls, so that a dispatch that was admitted before goes on from plugin to plugin; the
    shell refuses new requests of hosts."""

    until_ns: int


class RestartRequested(Struct, gc=False):
    """An operator wants another worker for the plugin. Its present worker answers what it was sent, and leaves."""

    plugin: str


class WorkerWanted(Struct, gc=False):
    """The plugin is to have a worker though no call waits: another node has handed it over, and its calls come here.
    Nothing happens if the plugin has one, if no place is free, or if its breaker is open or its backoff runs."""

    plugin: str


class BreakerReset(Struct, gc=False):
    """An operator lets the plugin be called again: its breaker closes, and its failures and its backoff are forgotten.
    """

    plugin: str


class WorkRefused(Struct, gc=False):
    """No call may begin from now on, until WorkAdmitted. Calls that wait are answered with ``code``, calls on a link
    that have not begun are recalled, and calls that have begun go on."""

    code: str
    message: str


class WorkAdmitted(Struct, gc=False):
    """Calls may begin again."""


Event = (
    PluginSet | PluginRemoved | InvokeRequested | CancelRequested | GenerationPrepared | GenerationDropped | WorkerReady
    | WorkerAnswered | WorkerPonged | WorkerBlocked | WorkerViolated | WorkerSampled | WorkerThrottled | WorkerRanOn
    | WorkerHesitates | LimitExceeded | CallsStarted | WorkerGone | PluginFaulted | ForkRefused | ZygoteLost | ZygoteUp
    | Reconfigured | Tick | DrainRequested | RestartRequested | WorkerWanted | BreakerReset | WorkRefused
    | WorkAdmitted
)
