"""Every bound and grace period of the scheduler, in one place. Configurable ones have their key beside them; times are
in ns."""

from __future__ import annotations

from msgspec import Struct

MS_NS = 1_000_000
SECOND_NS = 1_000 * MS_NS

SKIP_GRACE_NS = 100 * MS_NS
"""How long the worker has to skip a call that becomes the oldest on its link after its deadline."""
CANCEL_GRACE_NS = 250 * MS_NS
"""How long a cancelled call that has started may go on before it costs its worker."""
PROBE_NS = 50 * MS_NS
"""How long the event loop of a worker that runs several calls has to answer a probe, which is sent if a call is past
its deadline. An event loop that runs cancels that call alone; one that does not answer costs the worker. Time for which
the governor holds the worker back does not count."""
HELD_NS_MAX = 5 * SECOND_NS
"""For how long at most such a worker is excused because the governor holds it back. A hook may run for as long by
default, so most of the other calls are past their own deadlines by then."""
RECOUNT_NS = 10 * MS_NS
"""If calls of a shared worker are past their deadlines and the count that was asked for did not come, it is asked for
again after this time."""
STALL_NS = 200 * MS_NS
"""If a timer is handled this late, the supervisor itself stood still (SIGSTOP, suspend, swap)."""
STALL_GRACE_NS = 100 * MS_NS
"""How much longer a worker gets, once, if its deadline passed during such a stall: time for its answer to be read."""
EXPIRED_AT_ONCE = 32
"""Queued calls that one step answers because their deadline has passed; the next step goes on. Calls that came at one
moment expire at one moment, and a verdict costs the loop some 25 µs, so a thousand at once would delay everybody."""
KILL_SUSPECT_NS = 10 * SECOND_NS
"""If the end of a killed worker is not reported for this long, the zygote that should report it is taken for dead."""
PINGS_TOGETHER = 32
"""Pings are due at multiples of ``ping_ns`` divided by this, so that a thousand idle workers wake the loop together,
about once a second."""
FIRST_PING_NS = 5 * SECOND_NS
"""How long after its last answer an idle worker is first pinged; after that it is pinged each ``ping_ns``. A hook may
run for as long by default, so code that goes on sleeping after its own answer gets at most its deadline once more."""
CANDIDATE_NS = 60 * SECOND_NS
"""How long a prepared generation is kept for the PluginSet that adopts it."""
FORK_BACKOFF_MIN_NS = 10 * MS_NS
FORK_BACKOFF_MAX_NS = SECOND_NS
"""How long the whole pool waits after a refused fork (EAGAIN, EMFILE): at first the minimum, then twice as long each
time up to the maximum, until a worker is ready."""
EVICT_TENURE_NS = SECOND_NS
"""How long a busy worker may keep its place while another plugin waits for one."""
PLACE_RETRY_NS = 100 * MS_NS
"""How often the pool looks again at plugins that wait for a place, and at a worker that is to be recycled, if no event
makes it look earlier."""


class PoolLimits(Struct, frozen=True):
    """Defaults of the ``[pool]`` configuration section. Full is an answer (OVERLOADED), never a wait."""

    workers_max: int = 1000  # pool.max_workers, clamped to what RLIMIT_NOFILE allows
    idle_ns: int = 300 * SECOND_NS  # pool.idle_seconds
    queue_max: int = 1024  # pool.queue_depth, per plugin; one user holds at most a quarter
    in_flight_max: int = 20_000  # pool.in_flight
    prefetch: int = 8  # pool.prefetch: calls on one worker's link
    boot_ns: int = 10 * SECOND_NS  # pool.boot_seconds: from StartWorker to WorkerReady
    ping_ns: int = 30 * SECOND_NS  # silence of an idle worker before it is asked; 0 is never
    ping_grace_ns: int = 5 * SECOND_NS  # from the ping to the pong, throttled time not counted
    stop_grace_ns: int = SECOND_NS  # from StopWorker to its end; then SIGKILL


class RecyclePolicy(Struct, frozen=True):
    """When a healthy worker is replaced between calls (``[recycle]``). 0 is never."""

    calls_max: int = 0  # recycle.after_calls
    age_ns_max: int = 0  # recycle.after_seconds
    growth_bytes_max: int = 20 * 1024 * 1024  # recycle.growth_mb, over the worker's first idle sample
    cpu_ns_max: int = 3300 * SECOND_NS  # RLIMIT_CPU kills at one CPU-hour; replaced well before it
    at_once_max: int = 4  # workers of different plugins that are being replaced at the same moment
