"""The questions that the page answers: for each a benchmark, a plot, and a sentence with the figures in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.bench_npm import BIG, COVERAGE, SMALL
from benchmarks.lab import Lab, Row
from benchmarks.plots import Bar, Draw, Point, bars, lines, point
from benchmarks.targets import OURS, PEBBLE, POOL, ZMQ

MS = 1e-3
"""Microseconds to milliseconds."""


@dataclass(frozen=True)
class Question:
    """``answer`` takes its figures from the results and raises LookupError if one of them is missing."""

    name: str
    text: str
    answer: Callable[[Lab], str]
    draw: Draw
    height_inches: float = 3.6


def _row(lab: Lab, contender: str, figure: str, **conditions: Any) -> Row:
    row = lab.row(contender, figure, **conditions)
    if row is None:
        raise LookupError(f"{lab.name}: {contender} {figure}")
    return row


def _value(lab: Lab, contender: str, figure: str, **conditions: Any) -> float:
    return _row(lab, contender, figure, **conditions).median


def _by(lab: Lab, figure: str, x: str, scale: float = 1.0, **fixed: Any) -> dict[str, list[Point]]:
    """The rows of ``figure`` as one line a contender, over the condition ``x``, the other conditions as ``fixed``."""
    found: dict[str, list[Point]] = {}
    for row in lab.rows:
        rest = {key: value for key, value in row.conditions.items() if key != x}
        if row.figure == figure and x in row.conditions and rest == fixed:
            found.setdefault(row.contender, []).append(point(row, row.conditions[x], scale))
    return found


def _latencies(lab: Lab, contenders: list[tuple[str, str]], scale: float = 1.0, peers: tuple[str, ...] = (),
               **conditions: Any) -> list[Bar]:
    """A bar of p50 with its p99 for each (contender, name in the plot) that was measured."""
    found = []
    for contender, name in contenders:
        p50, p99 = (lab.row(contender, figure, **conditions) for figure in ("p50", "p99"))
        if p50 and p99:
            found.append(Bar(name, point(p50, scale=scale), p99.median * scale, contender not in peers))
    return found


# ------------------------------------------------------------------ one pair of functions a question
def _roundtrip(lab: Lab) -> str:
    ours, pebble, pool, zmq = (_value(lab, who, "calls/s", **{"payload": "100 B", "in flight": 256})
                               for who in (OURS, PEBBLE, POOL, ZMQ))
    return (f"With 256 calls in flight apex-exec answers {ours:,.0f} calls a second, pebble {pebble:,.0f}, "
            f"ProcessPoolExecutor {pool:,.0f}; a bare ZeroMQ relay of two hops, which checks and records nothing, "
            f"{zmq:,.0f}. apex-exec alone jails, validates, records and meters what it runs.")


def _draw_roundtrip(axes: Any, lab: Lab) -> None:
    series = {name: points for name, points in _by(lab, "calls/s", "in flight", payload="100 B").items()
              if len(points) > 1}
    lines(axes, series, xlabel="calls in flight, payload 100 B", ylabel="calls a second")


def _ray(lab: Lab) -> str:
    ours, ray = (_value(lab, who, "calls/s", **{"in flight": 64}) for who in (OURS, "ray, two actors"))
    return (f"Two of ray's actors answer {ray:,.0f} calls a second with 64 in flight, apex-exec {ours:,.0f} on the "
            "same two cores.")


def _draw_ray(axes: Any, lab: Lab) -> None:
    lines(axes, _by(lab, "calls/s", "in flight"), xlabel="calls in flight", ylabel="calls a second")


def _open_loop(lab: Lab) -> str:
    ours, driven = (_value(lab, OURS, figure, rate="half the maximum") for figure in ("p99", "driven at"))
    return (f"At half of its maximum rate ({driven:,.0f} calls a second, whatever the answers do) one call in a "
            f"hundred takes longer than {ours * MS:.1f} ms. Each peer is driven at the same fixed rates and at half of "
            "its own maximum.")


def _draw_open_loop(axes: Any, lab: Lab) -> None:
    series: dict[str, list[Point]] = {}
    for row in lab.rows:
        driven = lab.row(row.contender, "driven at", **row.conditions)
        if row.figure == "p99" and driven is not None:
            series.setdefault(row.contender, []).append(point(row, driven.median, MS))
    lines(axes, series, xlabel="calls a second", ylabel="p99, ms", yscale="log")
    axes.set_xticks([1000, 2000, 5000, 10_000, 20_000], ["1,000", "2,000", "5,000", "10,000", "20,000"])


COLD = "cold start, request to reply"
TIMEOUT = "TIMEOUT answered after the deadline"
AGAIN = "next call of the plugin"


def _kill(lab: Lab) -> str:
    cold, timeout = (_value(lab, who, "p50", when="at rest") for who in (COLD, TIMEOUT))
    again = _value(lab, AGAIN, "p50", when="at rest")
    return (f"A cold call is answered after {cold:.1f} ms, jail included. A hook that never ends is answered `TIMEOUT` "
            f"{timeout:.1f} ms after its deadline, and its plugin's next call after {again:.1f} ms, by a new worker.")


def _draw_kill(axes: Any, lab: Lab) -> None:
    found = []
    for who, when, name in ((COLD, "at rest", "cold start, request to reply"),
                            (f"{COLD}, pool.spare_workers = 0", "at rest", "the same without spare workers"),
                            (TIMEOUT, "at rest", "TIMEOUT after the deadline"),
                            (TIMEOUT, "at full load", "TIMEOUT, at full load"),
                            (AGAIN, "at rest", "next call after a kill"),
                            (AGAIN, "at full load", "next call, at full load")):
        found += _latencies(lab, [(who, name)], when=when)
    bars(axes, found, xlabel="ms")


def _jail(lab: Lab) -> str:
    full, none, other = (_value(lab, who, "start to first answer, p50") for who in (
        "apex-exec, every layer", "apex-exec, no layer", "bubblewrap + python"))
    return (f"From a start to the first answer it takes {full:.1f} ms with every layer of the jail and {none:.1f} ms "
            f"with none; bubblewrap with a Python of its own takes {other:.1f} ms.")


def _draw_jail(axes: Any, lab: Lab) -> None:
    found = []
    for contender in dict.fromkeys(row.contender for row in lab.rows):
        p50, p99 = (lab.row(contender, f"start to first answer, {which}") for which in ("p50", "p99"))
        if p50 and p99:
            found.append(Bar(contender, point(p50), p99.median, contender.startswith(OURS)))
    bars(axes, found, xlabel="start to first answer, ms", xscale="log")


def _density(lab: Lab) -> str:
    rate, memory, cpu = (_value(lab, who, figure, **{"live workers": 1000}) for who, figure in (
        ("apex-exec, round-robin, 64 in flight", "calls/s"), ("worker, idle", "memory"), ("supervisor at rest", "CPU")))
    return (f"With 1,000 live workers apex-exec answers {rate:,.0f} calls a second in turn over all of them; an idle "
            f"worker has {memory:.1f} MiB of its own, and the supervisor uses {cpu:.1f} % of a core at rest.")


def _draw_density(axes: Any, lab: Lab) -> None:
    lines(axes, _by(lab, "calls/s", "live workers"), xlabel="live workers, a plugin each", ylabel="calls a second")


def _overload(lab: Lab) -> str:
    alone, beside = (_value(lab, f"another plugin, {which}", "p99") * MS for which in ("alone", "beside the flood"))
    return (f"The p99 of a modest plugin is {alone:.2f} ms alone and {beside:.2f} ms beside a plugin whose queue is "
            "flooded to its bound.")


def _draw_overload(axes: Any, lab: Lab) -> None:
    names = [(row.contender, row.contender.removeprefix("another plugin, ")) for row in lab.rows if row.figure == "p50"]
    short = [(who, "beside a process as busy as the bursts" if "CPU use" in name else name) for who, name in names]
    bars(axes, _latencies(lab, short, MS), xlabel="ms, at 200 calls a second")


def _hooks(lab: Lab) -> str:
    plain, coroutine, three, many = (_value(lab, who, "p50", **{"in flight": 1}) for who in (
        "invoke, def", "invoke, async def", "invoke, def, 3 API calls", "dispatch to 16"))
    return (f"A call of a hook takes {plain:.0f} µs, of an `async def` {coroutine:.0f} µs; each API call in it adds "
            f"about {(three - plain) / 3:.0f} µs. A dispatch to 16 plugins takes {many:.0f} µs.")


def _draw_hooks(axes: Any, lab: Lab) -> None:
    names = [row.contender for row in lab.rows if row.figure == "p50" and row.conditions["in flight"] == 1]
    bars(axes, _latencies(lab, [(name, name) for name in names], **{"in flight": 1}), xlabel="µs, 1 in flight")


def _registered(lab: Lab) -> str:
    alone, most = (_value(lab, "apex-exec, dispatch to 1", "calls/s", beside=count) for count in (0, 10_000))
    return (f"With 64 in flight, {alone:,.0f} dispatches a second reach their one plugin if nothing else is "
            f"registered, and {most:,.0f} if 10,000 others are.")


def _draw_registered(axes: Any, lab: Lab) -> None:
    found = {who: [one._replace(x=max(one.x, 1)) for one in points] for who, points in _by(
        lab, "calls/s", "beside").items()}
    lines(axes, found, xlabel="other plugins registered (1 stands for none)", ylabel="dispatches a second")


def _gateway(lab: Lab) -> str:
    query, fetch, idle, slow = (_value(lab, who, "p50", database="SQLite") for who in (
        "query", "fetch", "ping, idle", "ping, database slow, peer drips"))
    return (f"A `query` on SQLite takes {query:.0f} µs and a `fetch` on this machine {fetch:.0f} µs, permission, rate, "
            f"audit and the rewriting of the SQL included. A `ping` takes {slow:.0f} µs while a database is slow and a "
            f"peer drips, and {idle:.0f} µs while nothing happens.")


def _draw_gateway(axes: Any, lab: Lab) -> None:
    found = []
    for row in lab.rows:
        p99 = lab.row(row.contender, "p99", **row.conditions)
        if row.figure == "p50" and p99:
            twice = sum(other.figure == "p50" and other.contender == row.contender for other in lab.rows) > 1
            name = f"{row.contender}, {row.conditions['database']}" if twice else row.contender
            found.append(Bar(name, point(row), p99.median, not row.contender.startswith("(")))
    bars(axes, found, xlabel="µs", xscale="log")


DURABILITIES = ("no record (to compare)", "group", "strict")


def _ledger(lab: Lab) -> str:
    none, group, strict = (_value(lab, f"daemon, {which}", "calls/s", **{"in flight": 64}) for which in DURABILITIES)
    return (f"With 64 calls in flight the daemon answers {group:,.0f} calls a second with a record of each on disk "
            f"within 10 ms, {strict:,.0f} if each reply waits for its record, and {none:,.0f} if nothing is recorded.")


def _draw_ledger(axes: Any, lab: Lab) -> None:
    found = []
    for at in (1, 64):
        for which in DURABILITIES:
            row = lab.row(f"daemon, {which}", "calls/s", **{"in flight": at})
            if row:
                found.append(Bar(f"{which}, {at} in flight", point(row), None, not which.startswith("no")))
    bars(axes, found, xlabel="calls a second")


PARTS = ("host connection: ZMTP, frames, socket calls", "host codec: decode, validate, encode",
         "requests: admission, verdict to reply", "core: queues, deadlines, decisions",
         "worker link: frames, socket calls", "metrics and audit", "loop and supervisor")


def _profile(lab: Lab) -> str:
    alone, many = (_value(lab, "CPU of the supervisor", "time", **{"in flight": at}) for at in (1, 64))
    return (f"The supervisor uses {many:.0f} µs of CPU a call with 64 in flight and {alone:.0f} µs with one, when each "
            "call wakes it anew. The plot divides its own code's time by what the code does.")


def _draw_profile(axes: Any, lab: Lab) -> None:
    found = [Bar(f"{part.partition(':')[0]}, {at} on the link", point(row), None, at == 8)
             for part in PARTS for at in (1, 8) if (row := lab.row(part, "time", **{"on the link": at}))]
    bars(axes, found, xlabel="µs of CPU a call")


def _npm(lab: Lab) -> str:
    size = _value(lab, BIG, "size")
    load, memory, scan = (_value(lab, BIG, figure) for figure in ("load", "memory", "scan"))
    small, slower = _value(lab, SMALL, "load"), _value(lab, COVERAGE, "slower")
    return (f"A bundle of {size:,.0f} kB with thirteen packages is loaded in {load:.0f} ms and its worker has "
            f"{memory:.1f} MiB; a plugin of 1 kB is loaded in {small:.1f} ms. The scan takes {scan:.2f} s for each MB, "
            f"and tests with our counters take {slower:.2f} × as long as without.")


def _draw_npm(axes: Any, lab: Lab) -> None:
    found = [Bar(name, point(row), None, True) for who, name in ((SMALL, "1 kB"), (BIG, "13 packages"))
             if (row := lab.row(who, "load"))]
    bars(axes, found, xlabel="load, ms of CPU", xscale="log")


QUESTIONS = (
    Question("roundtrip", "How many calls, beside the peers?", _roundtrip, _draw_roundtrip, 4.0),
    Question("open_loop", "How long does a call take at a fixed rate?", _open_loop, _draw_open_loop, 4.0),
    Question("kill", "How fast is a cold start, and how fast a kill?", _kill, _draw_kill, 2.9),
    Question("overload", "What does one plugin's flood do to another plugin?", _overload, _draw_overload, 2.6),
    Question("density", "What do a thousand plugins cost?", _density, _draw_density, 3.2),
    Question("jail", "What does the jail cost?", _jail, _draw_jail, 3.0),
    Question("hooks", "What do the kinds of hooks and dispatches cost?", _hooks, _draw_hooks, 3.6),
    Question("registered", "Does a dispatch notice the plugins that it does not go to?", _registered, _draw_registered,
             3.0),
    Question("gateway", "What does a call of the platform's API cost?", _gateway, _draw_gateway, 4.6),
    Question("ledger", "What does the audit cost?", _ledger, _draw_ledger, 2.8),
    Question("profile", "Where does the time of one call go?", _profile, _draw_profile, 4.0),
    Question("npm", "What do packages of npm cost a JavaScript plugin?", _npm, _draw_npm, 1.8),
    Question("ray", "How does it compare with ray's actors?", _ray, _draw_ray, 3.2),
)
"""In the order of the page. What is measured beside them is listed after them, folded."""
