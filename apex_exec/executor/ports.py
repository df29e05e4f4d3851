"""The executor's one interface, and the interfaces of the parts around it that an executor needs.

An *executor* runs plugins as worker processes. The daemon, ``plugin validate``, ``plugin test`` and the marketplace all
use the same one, ``local.LocalExecutor``; nothing here says that the processes run on this machine.

**Inwards** go the core's actions: ``start`` a worker, ``send`` it a call, ``recall`` or ``cancel`` calls, ``ping`` it,
``stop`` or ``kill`` it, and ``sample`` what it uses. **Outwards** go the events of ``ExecutorEvent``, which the
executor gives to ``Neighbours.step``:

| event | the core's type |
|---|---|
| ready: the worker has loaded its plugin | ``WorkerReady`` |
| answered: one call is answered, skipped, or failed | ``WorkerAnswered`` |
| started: how many calls the worker has started in all, whenever the core asks | ``CallsStarted`` |
| ended: the worker is gone, with a code and a message, and how many calls it had started | ``WorkerGone`` |
| the worker never existed: the machine gave no process | ``ForkRefused`` |
| the worker broke the protocol, and is to be killed | ``WorkerViolated`` |
| the worker answered a ping, or a probe | ``WorkerPonged`` |
| the worker says which call's code it was running when it was probed | ``WorkerBlocked`` |
| the zygote came up, or was lost with all its workers | ``ZygoteUp``, ``ZygoteLost`` |

Every call is made in the loop and must not block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.links.worker_link import WorkerLink
from workers import wire as inner

ExecutorEvent = (
    ev.WorkerReady | ev.WorkerAnswered | ev.CallsStarted | ev.WorkerGone | ev.ForkRefused | ev.WorkerViolated
    | ev.WorkerPonged | ev.WorkerBlocked | ev.ZygoteUp | ev.ZygoteLost
)
"""Every event that an executor gives to the core."""


# ---------------------------------------------------------------------- the port
class Executor(Protocol):
    """Worker processes, wherever they run. For each worker that was started the core gets exactly one end.

    What is queued (by ``send``, ``recall``, ``cancel`` and ``ping``) leaves with the next ``flush``.
    """

    def start(self, action: act.StartWorker, now_ns: int) -> None:
        """Starts a worker. WorkerReady follows when it has loaded its plugin; ForkRefused if there is no process."""

    def send(self, action: act.SendCall, now_ns: int) -> None:
        """Queues one call. WorkerAnswered follows, unless the worker ends first."""

    def never_started(self, worker: int) -> None:
        """``start`` has failed. ForkRefused follows."""

    def recall(self, action: act.RecallCalls) -> None:
        """Asks a worker to skip those of the calls that it has not begun; each of them is still answered."""

    def cancel(self, action: act.CancelCall) -> None:
        """Tells a shared worker to end a call, which it still answers. If the action has a nonce, WorkerPonged follows
        as soon as the worker's event loop turns, and WorkerBlocked may come before."""

    def ping(self, action: act.PingWorker) -> None:
        """Asks an idle worker for a sign of life. WorkerPonged follows."""

    def stop(self, worker: int) -> None:
        """Lets the worker finish and leave: it gets no more calls."""

    def kill(self, worker: int, reason: str, due_ns: int, now_ns: int) -> None:
        """Kills the worker now, or as soon as there is a process to kill. ``due_ns`` is when it should have died."""

    def kill_plugin(self, plugin: str) -> None:
        """Kills every worker of ``plugin``, without a decision of the core."""

    def replace_zygote(self, worker: int) -> None:
        """The end of a killed worker was never reported. ZygoteLost follows, and WorkerGone for each of its workers."""

    def flush(self) -> None:
        """Sends what is queued."""

    def tell_end(self, ended: act.WorkerEnded) -> str:
        """Logs the end that was reported last, as the core judged it. Returns why the worker ended, or "" if that was
        not logged."""

    def plugin_of(self, worker: int) -> str:
        """Returns the plugin that a living worker was started for; "" if there is no such worker."""

    def sample(self, worker: int, call: int = 0) -> tuple[float, int]:
        """Returns (memory in MB, ns held back) by the latest sample: of ``call`` alone, or of the worker's life."""

    def count_started(self, worker: int, now_ns: int) -> None:
        """Answers with the event ``CallsStarted``: how many calls the worker has started in all."""


# ---------------------------------------------------------------------- what an executor asks of others
class BundleSource(Protocol):
    """Where a worker's files come from."""

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """Returns (files, the SHA-256 of each) of the bundle ``digest``. Raises Refusal if it is missing or damaged."""


class Jails(Protocol):
    """What confines each worker beside the zygote's own jail: a uid, a control group."""

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Returns what the zygote needs to know of this worker. Raises RuntimeError if there is no room for it."""

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """Gives what the spare holds to the worker, with the plugin's limits. Raises RuntimeError."""

    def killed(self, worker: int) -> None:
        """SIGKILL was sent to the worker, which must not be held back, so that it can die."""

    def worker_gone(self, worker: int) -> None:
        """The worker is dead: what it held may be given to another worker."""


class ApiCalls(Protocol):
    """API calls of plugins, from the worker's link to the gateway or a host and back."""

    components: frozenset[str]

    def handle(self, link: WorkerLink, message: inner.ApiCall, now_ns: int) -> None:
        """Takes one API call. Its ApiReply goes out by ``LocalExecutor.reply``, at once or later."""

    def effects(self, link: WorkerLink, message: inner.Effects, now_ns: int) -> None:
        """Decides on effects. An effect that is refused here, and that the worker had not refused itself, goes into
        ``link.refused``."""

    def give_up(self, link: WorkerLink, message: inner.ApiCancel, now_ns: int) -> None:
        """Ends an API call that its hook waits for no longer, unless it has been answered."""

    def refused(self, worker: int, seq: int, code: str) -> bool:
        """Whether an API call of the hook that runs as ``seq`` was answered with ``code``."""

    def invocation_ended(self, call: int) -> list[Any]:
        """The invocation has its verdict. Returns the effects that it asked for and cancels what is in flight."""


class Governing(Protocol):
    """CPU and memory of workers: samples them, holds them back, kills them on evidence."""

    busy_ns: int
    """The time between two looks at a worker that has a call."""
    rests: bool
    """True if no worker was busy at the last tick."""

    @property
    def halfway(self) -> bool:
        """True if the last tick did a part of the work only: the next one follows at once."""

    def worker_started(self, worker: int, spec: PluginSpec, pid: int, pidfd: int) -> None:
        """A worker's process exists; ``pidfd`` stays the executor's."""

    def worker_gone(self, worker: int, exited: inner.Exited | None) -> tuple[str, str] | None:
        """A worker's process has ended; ``exited`` is None if no exit status was had. Returns (code, message) if there
        is evidence that it was over a limit."""

    def charge_host(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        """Takes what the daemon's own processes did for ``plugin`` out of its CPU bucket."""

    def tick(self, now_ns: int) -> int:
        """Does what is due; returns when (CLOCK_MONOTONIC ns) it wants to be called next."""

    def usage(self, worker: int, call: int = 0) -> tuple[float, int]:
        """Returns (memory in MB, throttled ns) by the latest sample: of ``call`` alone, or of the worker's life."""

    def held_ns(self, worker: int, run_ns: int) -> int:
        """Returns for how long the worker was held back in the last ``run_ns``."""


class Neighbours:
    """The parts that an executor reports to and asks. Some of them need the executor and are made after it. One that is
    missing stays None, and the executor then fails closed: without ``api`` no API call is granted."""

    def __init__(self, step: Callable[[ev.Event, int], None],
                 failed: Callable[[str, Exception, str], None]) -> None:
        self.step = step
        """Gives an event to the core and does the actions that follow from it."""
        self.failed = failed
        """Is given (duty, error, plugin) if a duty failed; the plugin is "" if no plugin is concerned."""
        self.api: ApiCalls | None = None
        self.governing: Governing | None = None
        self.on_uncalled: Callable[[str, str, int], None] = lambda _plugin, _user, _cpu_ns: None
        """Is notified of CPU time that no call's figure holds: the plugin, the user of its worker's latest call, ns."""
        self.locate: Callable[[PluginSpec, str, Callable[[str, int], None], int], bool] = lambda *_: False
        """Has the places in a text found in the author's source: ``locate(spec, text, located, now_ns)``. True if
        ``located(text, cpu_ns)`` is called, at once or later; False if the text stays as it is."""
        self.settings_of: Callable[[PluginSpec, str], bytes] = lambda _spec, _user: b""
        """Returns the values of a plugin's settings for a call of this user; asked for plugins that declare some."""
        self.on_link: Callable[[int, int], tuple[str, ev.InvokeRequested | None]] = lambda *_: ("never", None)
        """Returns how a call stands by its worker and number: see ``Pool.on_link``."""
