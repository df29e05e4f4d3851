"""What the settings mean for the parts: bounds of the pool, and when a plugin is paused, or a worker replaced."""

from __future__ import annotations

import logging
import os

from apex_exec.config import Settings
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import SECOND_NS, PoolLimits, RecyclePolicy
from apex_exec.daemon.hosts.stream_peers import CONNECTIONS_MAX

log = logging.getLogger("apex_exec")

FDS_PER_WORKER = 4
"""Link, marks, pidfd, and one in passing."""
FDS_OWN = 256
"""What the daemon itself, its administrators and its side processes may use."""


def hosts_max(fds: int) -> int:
    """How many connections of hosts there may be: few enough that workers still find descriptors."""
    return min(CONNECTIONS_MAX, max(2, fds // 4))


def pool_limits(settings: Settings, fds: int) -> PoolLimits:
    """The pool's bounds; the number of workers is clamped to what ``fds`` descriptors allow."""
    pool = settings.pool
    room = max(1, (fds - FDS_OWN - hosts_max(fds)) // FDS_PER_WORKER)
    if pool.max_workers > room:
        log.warning("pool.max_workers = %d is lowered to %d, because RLIMIT_NOFILE is %d; raise that limit for more "
                    "workers", pool.max_workers, room, fds)
    uids = max(1, _uids(settings) - pool.spare_workers)
    if uids < min(pool.max_workers, room):
        log.warning("pool.max_workers = %d is lowered to %d, because sandbox.uid_range has no more uids; "
                    "widen it", pool.max_workers, uids)
        room = uids
    return PoolLimits(
        workers_max=min(pool.max_workers, room), idle_ns=int(pool.idle_seconds * SECOND_NS),
        queue_max=pool.queue_depth, in_flight_max=pool.in_flight, prefetch=pool.prefetch,
        boot_ns=int(pool.boot_seconds * SECOND_NS))


def _uids(settings: Settings) -> int:
    """How many workers there can be at once, spares included: as root each has a uid of its own."""
    low, high = settings.sandbox.uid_range
    return high - low + 1 if os.geteuid() == 0 else 1 << 32


def spares_of(settings: Settings) -> int:
    """The number of spare workers: ``pool.spare_workers``, or fewer if ``sandbox.uid_range`` is small. At least one uid
    of the range stays free for a plugin's worker."""
    return min(settings.pool.spare_workers, _uids(settings) - 1)


def breaker_policy(settings: Settings) -> BreakerPolicy:
    """When a failing plugin is paused."""
    given = settings.breaker
    return BreakerPolicy(given.ends, int(given.window_seconds * SECOND_NS), int(given.open_seconds * SECOND_NS),
                         int(given.stable_seconds * SECOND_NS), int(given.backoff_min_seconds * SECOND_NS),
                         int(given.backoff_max_seconds * SECOND_NS))


def recycle_policy(settings: Settings) -> RecyclePolicy:
    """When a healthy worker is replaced."""
    given = settings.recycle
    return RecyclePolicy(given.after_calls, int(given.after_seconds * SECOND_NS), int(given.growth_mb * 1024 * 1024))
