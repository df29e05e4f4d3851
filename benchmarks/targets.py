"""The targets, each with the rows it is judged by. A missed one stays in the table with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import bench_npm as npm
from benchmarks import bench_open_loop as open_loop
from benchmarks import bench_overload as overload
from benchmarks import bench_registered as registered
from benchmarks.lab import Lab

OURS = "apex-exec"
ZMQ = "bare ZeroMQ, two hops"
PEBBLE = "pebble(2, timeout 5)"
POOL = "ProcessPoolExecutor(2)"


@dataclass(frozen=True)
class Target:
    """``measure`` gives the text and whether it was met, or raises LookupError if a row is missing."""

    what: str
    text: str
    measure: Callable[[dict[str, Lab]], tuple[str, bool]]
    why: str = ""


def _get(labs: dict[str, Lab], name: str, contender: str, figure: str, **conditions: Any) -> float:
    lab = labs.get(name)
    value = lab.value(contender, figure, **conditions) if lab else None
    if value is None:
        raise LookupError(f"{name}: {contender} {figure}")
    return value


def judged(target: Target, labs: dict[str, Lab]) -> tuple[str, bool | None]:
    """(what was measured, met); ("", None) if it was not measured."""
    try:
        return target.measure(labs)
    except LookupError:
        return "", None


def _p50_below_peers(labs: dict[str, Lab]) -> tuple[str, bool]:
    conditions = {"payload": "100 B", "in flight": 1}
    ours = _get(labs, "roundtrip", OURS, "p50", **conditions)
    pebble = _get(labs, "roundtrip", PEBBLE, "p50", **conditions)
    pool = _get(labs, "roundtrip", POOL, "p50", **conditions)
    return f"{ours:.0f} µs; pebble {pebble:.0f}, ProcessPoolExecutor {pool:.0f}", ours < min(pebble, pool)


def _p50_to_zmq(labs: dict[str, Lab]) -> tuple[str, bool]:
    conditions = {"payload": "100 B", "in flight": 1}
    ratio = (_get(labs, "roundtrip", OURS, "p50", **conditions) / _get(labs, "roundtrip", ZMQ, "p50", **conditions))
    return f"{ratio:.2f} ×", ratio <= 0.7


def _rate(labs: dict[str, Lab]) -> tuple[str, bool]:
    conditions = {"payload": "100 B", "in flight": 256}
    ours = _get(labs, "roundtrip", OURS, "calls/s", **conditions)
    ratio = ours / _get(labs, "roundtrip", PEBBLE, "calls/s", **conditions)
    return f"{ours:,.0f}/s, {ratio:.1f} × pebble", ours >= 20_000 and ratio >= 1.5


def _open_loop(labs: dict[str, Lab]) -> tuple[str, bool]:
    p99_ms = _get(labs, "open_loop", OURS, "p99", rate=open_loop.HALF) / 1e3
    lab = labs["open_loop"]
    texts = []
    for name in (OURS, PEBBLE, POOL, ZMQ):
        row = lab.row(name, "p99", rate=open_loop.HALF)
        driven = lab.row(name, open_loop.DRIVEN, rate=open_loop.HALF)
        if row and driven:
            values = f" ({' '.join(f'{value / 1e3:.2f}' for value in row.values)})" if name == OURS else ""
            texts.append(f"{'' if name == OURS else name + ' '}{row.median / 1e3:.2f} ms{values} at "
                         f"{min(driven.values):,.0f}–{max(driven.values):,.0f}/s")
    return "; at half of its own ".join(texts[:2]) + "".join(f", {text}" for text in texts[2:]), p99_ms <= 5


def _flooded(labs: dict[str, Lab]) -> tuple[str, bool]:
    alone = _get(labs, "overload", overload.ALONE, "p99")
    ratios = [_get(labs, "overload", who, "p99") / alone for who in (overload.BESIDE_FLOOD, overload.BESIDE_BURSTS)]
    return f"{ratios[0]:.2f} ×, in bursts {ratios[1]:.2f} × ({alone / 1e3:.2f} ms alone)", max(ratios) <= 2


def _at_most(name: str, contender: str, figure: str, bound: float, unit: str, scale: float = 1.0,
             **conditions: Any) -> Callable[[dict[str, Lab]], tuple[str, bool]]:
    def measure(labs: dict[str, Lab]) -> tuple[str, bool]:
        value = _get(labs, name, contender, figure, **conditions) * scale
        return f"{value:.4g} {unit}", value <= bound
    return measure


def _both(*parts: Callable[[dict[str, Lab]], tuple[str, bool]]) -> Callable[[dict[str, Lab]], tuple[str, bool]]:
    def measure(labs: dict[str, Lab]) -> tuple[str, bool]:
        texts, met = zip(*(part(labs) for part in parts), strict=True)
        return " · ".join(texts), all(met)
    return measure


def _at_least(name: str, contender: str, figure: str, bound: float, unit: str,
              **conditions: Any) -> Callable[[dict[str, Lab]], tuple[str, bool]]:
    def measure(labs: dict[str, Lab]) -> tuple[str, bool]:
        value = _get(labs, name, contender, figure, **conditions)
        return f"{value:,.0f} {unit}", value >= bound
    return measure


def _beside_registered(labs: dict[str, Lab]) -> tuple[str, bool]:
    alone, most = (_get(labs, "registered", registered.WHO, "calls/s", beside=count) for count in (0, 10_000))
    return f"{most / alone:.2f} × ({alone:,.0f}/s beside none)", most >= 0.8 * alone


def _coverage_of_javascript(labs: dict[str, Lab]) -> tuple[str, bool]:
    slower, lines, both, node, us = (_get(labs, "npm", npm.COVERAGE, figure) for figure in (
        "slower", "lines counted", "missed by both", "missed by node alone", "missed by us alone"))
    return (f"{slower:.2f} ×; of {lines:,.0f} lines both miss {both:,.0f}, node alone {node:,.0f}, we alone {us:,.0f}",
            slower <= 2 and node <= lines / 1000)


def _against_old(workload: str, case: str, **bounds: float) -> Callable[[dict[str, Lab]], tuple[str, bool]]:
    """New by old of ``benchmarks ab``: ``rate`` is at least, ``cpu`` and ``p50`` are at most."""
    def measure(labs: dict[str, Lab]) -> tuple[str, bool]:
        found = {}
        for word in bounds:
            figure = {"rate": "calls/s", "cpu": "CPU", "p50": "p50"}[word]
            new, old = (_get(labs, "ab", who, figure, workload=workload, case=case) for who in ("new", "old"))
            found[word] = new / old
        met = all(ratio >= bounds[word] if word == "rate" else ratio <= bounds[word] for word, ratio in found.items())
        return ", ".join(f"{word} {ratio:.2f} ×" for word, ratio in found.items()), met
    return measure


def _grown(database: str, bound: float) -> Callable[[dict[str, Lab]], tuple[str, bool]]:
    def measure(labs: dict[str, Lab]) -> tuple[str, bool]:
        ratios = []
        for case in ("by key", "latest ten"):
            most, few = (_get(labs, "ab", "new", "p50", workload=f"{database}, {size} rows", case=case)
                         for size in ("100,000", "100"))
            ratios.append(most / few)
        return " · ".join(f"{ratio:.2f} ×" for ratio in ratios), max(ratios) <= bound
    return measure


_COLD = "cold start, request to reply"
_ROBIN = "apex-exec, round-robin, 64 in flight"
_AGAIN = "next call of the plugin"

TARGETS = (
    Target("p50 at 1 in flight", "below pebble and below ProcessPoolExecutor in the same run", _p50_below_peers),
    Target("p50 at 1 in flight", "≤ 0.7 × the bare ZeroMQ two-hop loop with free placement", _p50_to_zmq),
    Target("calls/s at 256 in flight, 2 plugins", "≥ 20,000 and ≥ 1.5 × pebble", _rate),
    Target("p99 at half the maximum rate, open loop", "≤ 5 ms", _open_loop,
           "what is left are stretches of milliseconds in which a core stands idle with work waiting, or a process "
           "that is not ours has it"),
    Target("cold start, jailed, request to reply", "p50 ≤ 8 ms, p99 ≤ 25 ms", _both(
        _at_most("kill", _COLD, "p50", 8, "ms", when="at rest"),
        _at_most("kill", _COLD, "p99", 25, "ms", when="at rest"))),
    Target("TIMEOUT answered after the deadline, p99", "≤ 5 ms at rest, ≤ 20 ms at full load", _both(
        _at_most("kill", "TIMEOUT answered after the deadline", "p99", 5, "ms", when="at rest"),
        _at_most("kill", "TIMEOUT answered after the deadline", "p99", 20, "ms", when="at full load"))),
    Target("fresh worker after a kill", "≤ 15 ms p50", _at_most("kill", _AGAIN, "p50", 15, "ms", when="at rest")),
    Target("1,000 live workers", "≤ 4 MB USS each, supervisor ≤ 2 % of a core at rest, ≥ 8,000 calls/s round-robin",
           _both(_at_most("density", "worker, idle", "memory", 4, "MB", (1 << 20) / 1e6,
                          **{"live workers": 1000}),
                 _at_most("density", "supervisor at rest", "CPU", 2, "%", **{"live workers": 1000}),
                 _at_least("density", _ROBIN, "calls/s", 8000, "/s", **{"live workers": 1000})),
           "each of a thousand processes finds its part of the caches cold: 100 µs of a core a call instead of 20"),
    Target("10,000 registered plugins", "start ≤ 3 s, supervisor ≤ 300 MB, cold calls as above", _both(
        _at_most("density", "start, 10,000 in the registry", "time", 3, "s", registered=10_000),
        _at_most("density", "supervisor", "memory", 286, "MiB", registered=10_000),
        _at_most("density", "cold call", "p50", 8, "ms", registered=10_000)),
           "the cause was not profiled"),
    Target("dispatches to one plugin a second, beside 10,000 registered ones", "≥ 0.8 × of beside none",
           _beside_registered),
    Target("p99 of another plugin beside one flooded to its bound", "≤ 2 × its p99 alone", _flooded),
    Target("a JavaScript plugin of 1 kB is loaded", "≤ 2 ms", _at_most("npm", npm.SMALL, "load", 2, "ms")),
    Target("thirteen packages of npm in one JavaScript bundle",
           "load ≤ 400 ms, worker ≤ 15 MB, scan ≤ 1 s a MB without an error", _both(
               _at_most("npm", npm.BIG, "load", 400, "ms"),
               _at_most("npm", npm.BIG, "memory", 15, "MB", (1 << 20) / 1e6),
               _at_most("npm", npm.BIG, "scan", 1, "s a MB"),
               _at_most("npm", npm.BIG, "errors of the scan", 0, "errors"))),
    Target("coverage of JavaScript", "≤ 2 × slower; no line that node misses counts as run, but for 1 in 1,000",
           _coverage_of_javascript),
    Target("by key · latest ten of 100,000 own rows, to 100 rows, SQLite", "≤ 1.5 ×", _grown("SQLite", 1.5)),
    Target("the same, PostgreSQL", "≤ 1.5 ×", _grown("PostgreSQL", 1.5)),
    Target("point query on SQLite, to the old commit", "p50 at 1 ≤ 0.65 ×; at 64 rate ≥ 1.7 ×, CPU ≤ 0.55 ×", _both(
        _against_old("SQLite, point query", "1 in flight", p50=0.65),
        _against_old("SQLite, point query", "64 in flight", rate=1.7, cpu=0.55))),
    Target("point query on PostgreSQL, to the old commit", "rate at 64 ≥ 1.6 ×",
           _against_old("PostgreSQL, point query", "64 in flight", rate=1.6)),
    Target("inserts on SQLite with a write-ahead log, to the old commit",
           "one plugin ≥ 2 ×; eight plugins ≥ 5 ×, CPU ≤ 0.4 ×", _both(
               _against_old("SQLite, writes, log", "one plugin", rate=2),
               _against_old("SQLite, writes, log", "eight plugins, 32 in flight", rate=5, cpu=0.4))),
    Target("scrape with 1,000 plugins", "adds ≤ 5 ms to p99 of the loop",
           _at_most("density", "scrape", "added to p99", 5, "ms", **{"live workers": 1000})),
)
