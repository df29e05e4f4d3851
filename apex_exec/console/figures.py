"""What a page says about figures: whether all is well and why, rates, percentiles, and what was used as a line.

Pure: what the daemon answered goes in, words and numbers come out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

LOOKS_MAX = 90
"""Looks that are kept: three minutes at one every two seconds."""
LOOK_SECONDS_MIN = 1.0
WINDOW_SECONDS = 60.0
"""Percentiles are of the calls of this time."""
STALE_SECONDS = 30.0
"""After a longer pause the line begins anew: nobody looked meanwhile."""
PLUGINS_MAX = 200
"""Plugins whose latest looks are kept."""


class Verdict(NamedTuple):
    """Whether it is well. ``level``: well, watch or bad; ``why`` is the sentence; ``do`` is what to do, or ""."""

    level: str
    why: str
    do: str = ""


def verdict(now: dict[str, Any]) -> Verdict:
    """One sentence about a daemon, by its overview: what is worst comes first."""
    if now["ending"]:
        return Verdict("bad", "The daemon is ending: it answers what is pending and takes no new calls.",
                       "Start it again once it has ended.")
    if now["health"]:
        name, reason = next(iter(now["health"].items()))
        more = len(now["health"]) - 1
        return Verdict("bad", f"The daemon is not ready: {name}: {reason}" + (f" ({more} more)" if more else "") + ".",
                       "Its log says more; /readyz answers the same.")
    if now["draining"]:
        return Verdict("watch", "An operator drained the daemon: it takes no new calls.",
                       "`apex-exec undrain` ends that.")
    if now["waived"]:
        return Verdict("watch", f"It runs without {', '.join(now['waived'])}, which sandbox.waive leaves out.",
                       "The Doctor page says what each layer stops.")
    if not now["plugins"]:
        return Verdict("watch", "The daemon runs, and there is no plugin yet.",
                       "Install one: `apex-exec plugin install FILE`, then `apex-exec plugin enable ID`.")
    states, failing = now["states"], now["hurting"]["failures"]
    if paused := now["paused"]:
        return Verdict("watch", f"{_count(paused, 'plugin is', 'plugins are')} paused because too many calls ended "
                       "a worker.", "Open the plugin to see why, and reset its breaker or stop it.")
    if failing:
        worst = failing[0]
        others = f", and {_count(len(failing) - 1, 'other fails', 'others fail')} too" if len(failing) > 1 else ""
        times = _count(worst["failedRecently"], "time", "times")
        return Verdict("watch", f"{worst['id']} failed {times} in the last five minutes "
                       f"({worst['lastFailure'] or 'no reason is known'}){others}. Everything else answers.",
                       "Open it to see its last failures, and stop it if it keeps failing.")
    if not states.get("enabled"):
        return Verdict("watch", "The daemon runs, and none of its plugins is enabled.",
                       "Enable one on the Plugins page.")
    if not now["calls"]:
        return Verdict("well", "The daemon is ready; no host has called a plugin yet.")
    return Verdict("well", "All is well: no plugin has failed in the last five minutes.")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


class Moment(NamedTuple):
    """One look: when, and the counters then."""

    at: float
    calls: float
    failed: float
    throttled: float
    counts: tuple[int, ...]


class Rates(NamedTuple):
    """Between two looks: a second each; percentiles in milliseconds, None without a call."""

    calls: float
    failed: float
    throttled: float
    p50: float | None
    p99: float | None
    window: float


class History:
    """The latest looks at the whole daemon."""

    def __init__(self) -> None:
        self._looks: deque[Moment] = deque(maxlen=LOOKS_MAX)

    def add(self, now: dict[str, Any], at: float) -> Rates:
        """Takes a look over and says what happened since those before."""
        looks = self._looks
        moment = Moment(at, now["calls"], now["failed"], now["throttledSeconds"], tuple(now["durations"]["counts"]))
        if looks and (moment.calls < looks[-1].calls or at - looks[-1].at > STALE_SECONDS):
            looks.clear()  # the daemon was started again, or nobody looked for long
        if looks and at - looks[-1].at < LOOK_SECONDS_MIN:
            moment = looks[-1]
        else:
            looks.append(moment)
        if len(looks) == 1:  # averages since the daemon's start
            begun = Moment(at - max(1.0, now["uptimeSeconds"]), 0, 0, 0, (0,) * len(moment.counts))
            return _between(begun, begun, moment, now["durations"]["seconds"])
        early = next(look for look in looks if moment.at - look.at <= WINDOW_SECONDS)
        recent = next(look for look in looks if moment.at - look.at <= 10 or look is looks[-2])
        return _between(recent, early, moment, now["durations"]["seconds"])

    def line(self) -> list[tuple[float, float]]:
        """(seconds ago, calls a second) for each pair of looks, the oldest first."""
        looks = list(self._looks)
        return [(looks[-1].at - later.at, (later.calls - earlier.calls) / (later.at - earlier.at))
                for earlier, later in zip(looks, looks[1:], strict=False)]


def _between(recent: Moment, early: Moment, now: Moment, bounds: Sequence[float]) -> Rates:
    seconds = max(1e-3, now.at - recent.at)
    counts = [later - earlier for earlier, later in zip(early.counts, now.counts, strict=True)]
    return Rates((now.calls - recent.calls) / seconds, (now.failed - recent.failed) / seconds,
                 (now.throttled - recent.throttled) / seconds, quantile_ms(bounds, counts, 0.50),
                 quantile_ms(bounds, counts, 0.99), now.at - early.at)


def quantile_ms(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The quantile of a histogram, in milliseconds, by straight lines within buckets; None if it is empty. What is
    beyond the last bound counts as that bound."""
    total = sum(counts)
    if not total:
        return None
    wanted, passed, low = share * total, 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and passed + count >= wanted:
            return 1000 * (low + (bound - low) * (wanted - passed) / count)
        passed, low = passed + count, bound
    return 1000 * bounds[-1]


class Plot(NamedTuple):
    """A line as the points of an SVG polyline: time to the right, ``top`` at the top. ``limit`` is the height at which
    the limit is drawn, None if there is none; ``over``: the line was above it. The line is ``seconds`` long."""

    points: str
    top: float
    limit: float | None
    over: bool
    seconds: float


def plot(line: Sequence[tuple[float, float]], limit: float | None = None, width: float = 300,
         height: float = 48) -> Plot | None:
    """``line`` is (seconds ago, value), the oldest first; None for fewer than two. The plot begins at 0 and has room
    for the limit, so that what is far from it looks far from it."""
    if len(line) < 2:
        return None
    high = max(value for _, value in line)
    span, top = max(1.0, line[0][0]), max(high, limit or 0.0)

    def at(value: float) -> float:
        return height - 2 - (height - 4) * value / max(1e-9, top)

    points = " ".join(f"{width * (1 - ago / span):.1f},{at(value):.1f}" for ago, value in line)
    return Plot(points, top, None if limit is None else round(at(limit), 1), limit is not None and high > limit, span)


class Use(NamedTuple):
    """One look at a plugin: when, and what it had used by then or had then."""

    at: float
    cpu_seconds: float
    calls: float
    memory_mb: float
    p99_ms: float


class Uses:
    """Single plugins between the looks at their pages."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, deque[Use]] = OrderedDict()

    def add(self, plugin: str, live: dict[str, Any], at: float) -> dict[str, Any]:
        """Takes a look over. ``share`` is the CPU in percent of a core since the look before, and ``rate`` calls a
        second; both are None at the first look and after a long pause. ``memory``, ``p99``, ``cpu`` and ``calls`` are
        plots."""
        looks = self._looks.setdefault(plugin, deque(maxlen=LOOKS_MAX))
        self._looks.move_to_end(plugin)
        while len(self._looks) > PLUGINS_MAX:
            self._looks.popitem(last=False)
        use = Use(at, live["cpuSeconds"], live["calls"], live["memoryMb"], live["p99Ms"] or 0.0)
        if looks and (at - looks[-1].at > STALE_SECONDS or use.cpu_seconds < looks[-1].cpu_seconds
                      or use.calls < looks[-1].calls):
            looks.clear()  # nobody looked for long, or the daemon was started again
        if not looks or at - looks[-1].at >= LOOK_SECONDS_MIN:
            looks.append(use)
        now, limits = looks[-1].at, live["limits"]
        pairs = [(now - later.at, earlier, later) for earlier, later in zip(looks, list(looks)[1:], strict=False)]
        cpu = [(ago, 100 * (later.cpu_seconds - earlier.cpu_seconds) / (later.at - earlier.at))
               for ago, earlier, later in pairs]
        calls = [(ago, (later.calls - earlier.calls) / (later.at - earlier.at)) for ago, earlier, later in pairs]
        return {"share": cpu[-1][1] if cpu else None, "rate": calls[-1][1] if calls else None,
                "memory": plot([(now - one.at, one.memory_mb) for one in looks], limits["memory_mb"]),
                "p99": plot([(now - one.at, one.p99_ms) for one in looks], limits["timeout_ms"]),
                "cpu": plot(cpu, limits["cpu_percent"]), "calls": plot(calls)}
