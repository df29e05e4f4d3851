"""Plugins in JavaScript beside the same plugins in Python, in one daemon and in turn: calls, CPU, memory, start."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.daemon import HOOK, Daemon, Host, context_of, serving, write_bundle
from benchmarks.lab import Lab

TITLE = "JavaScript beside Python"
MIB = 1024 * 1024
STARTS = 8
"""Plugins of each language that are started once in each repetition."""
JAVASCRIPT = """export default {{ id: "{id}", version: "1.0.0", permissions: ["events:emit"],
  hooks: {{ onActionExecute: {hook} }} }};
"""
PYTHON = """
from workers import Plugin
plugin = Plugin(id="{id}", version="1.0.0", permissions=["events:emit"])
@plugin.hook("onActionExecute")
{hook}
"""
EMPTY = ('() => ({ result: null, metadata: {} })', 'def act():\n    return {"result": None, "metadata": {}}')
ECHO = ('(c) => ({ result: c.context, metadata: {} })',
        'def act(params):\n    return {"result": params["context"], "metadata": {}}')


def kilobyte(null: bool) -> dict[str, Any]:
    """About 1 kB of JSON: nine rows of four members, and a few filters."""
    filters = {"from": "2026-01-01", "tags": ["alpha", "beta", "gamma"], "limit": 50, "deep": {"b": [1.5, 2.5]}}
    rows = [{"id": n, "name": f"user {n}", "score": n * 1.5, "note": None if null else "x" * 40} for n in range(9)]
    if null:
        filters["note"] = "x" * 320
    return {"filters": filters, "rows": rows}


KINDS: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "empty": (EMPTY, {}),
    "1 kB in and out": (ECHO, kilobyte(False)),
    "1 kB with nulls": (ECHO, kilobyte(True)),
    "two API calls": ((
        'async (c) => { await c.api.emit("a", 1); await c.api.emit("b", 2); return { result: null, metadata: {} } }',
        'async def act(context):\n    await context.api.emit("a", 1)\n    await context.api.emit("b", 2)\n'
        '    return {"result": None, "metadata": {}}'), {}),
}
"""Kind -> (the hook in JavaScript and in Python, the context that it is called with)."""
WORK: dict[str, tuple[str, str]] = {
    "JSON of 1 MB, parsed and written": (
        '() => ({ result: JSON.stringify(JSON.parse(DATA)).length, metadata: {} })',
        'def act():\n    return {"result": len(json.dumps(json.loads(DATA))), "metadata": {}}'),
    "100,000 numbers sorted": (
        '() => { const a = []; for (let i = 0; i < 1e5; i++) a.push((i * 7919) % 100003);'
        ' return { result: a.sort((x, y) => x - y)[0], metadata: {} } }',
        'def act():\n    return {"result": sorted([i * 7919 % 100003 for i in range(100000)], key=lambda x: x)[0],'
        ' "metadata": {}}'),
    "a loop of 10,000,000": (
        '() => { let n = 0; for (let i = 0; i < 1e7; i++) n += i; return { result: n, metadata: {} } }',
        'def act():\n    n = 0\n    for i in range(10000000):\n        n += i\n'
        '    return {"result": n, "metadata": {}}'),
}
DATA = json.dumps([{"id": n, "name": f"name {n}", "tags": ["a", "b"], "ok": True} for n in range(16_000)])


def write_js(folder: Path, id_: str, hook: str, head: str = "", **manifest: Any) -> None:
    """A plugin in JavaScript."""
    write_bundle(folder, id_, head + JAVASCRIPT.format(id=id_, hook=hook), permissions=["events:emit"],
                 entrypoint="index.js", **manifest)


def write_both(folder: Path, name: str, pair: tuple[str, str], data: str = "") -> None:
    """The plugins ``js-<name>`` and ``py-<name>``."""
    write_js(folder, f"js-{name}", pair[0], f"const DATA = {data!r};\n" if data else "")
    head = f"import json\nDATA = {data!r}\n" if data else ""
    write_bundle(folder, f"py-{name}", head + PYTHON.format(id=f"py-{name}", hook=pair[1]), permissions=["events:emit"])


def run(lab: Lab) -> None:
    """Adds the rows."""
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for number, (pair, _) in enumerate(KINDS.values()):
            write_both(folder, f"kind-{number}", pair)
        for number, pair in enumerate(WORK.values()):
            write_both(folder, f"work-{number}", pair, DATA if number == 0 else "")
        for number in range(STARTS):
            write_both(folder, f"start-{number}", EMPTY)
        write_js(folder, "js-fresh", EMPTY[0], isolation="call")
        with serving(folder, limits__cpu_percent=100, limits__api_calls_per_second=1_000_000,
                     limits__timeout_ms=60_000) as daemon:
            host = Host(daemon.endpoint)
            lab.interleave({language: _starts(lab, daemon, host, prefix) for language, prefix in LANGUAGES})
            lab.interleave({f"{kind}, {language}": _calls(lab, daemon, host, f"{prefix}-kind-{number}", kind, language)
                            for number, kind in enumerate(KINDS) for language, prefix in LANGUAGES})
            lab.interleave({"fresh": _fresh(lab, daemon, host)})
            lab.interleave({f"{work}, {language}": _work(lab, host, f"{prefix}-work-{number}", work, language)
                            for number, work in enumerate(WORK) for language, prefix in LANGUAGES})
            zygote = psutil.Process(daemon.operate("daemon.status")["zygotePid"])
            lab.add("zygote", "memory", "MiB", zygote.memory_full_info().uss / MIB)
            lab.add("zygote", "threads", "", zygote.num_threads())
            host.close()
        with serving(folder) as daemon:  # 5 s and a tenth of a core, which every plugin has by default
            host = Host(daemon.endpoint)
            lab.interleave({f"{work}, {language}": _within_limits(lab, host, f"{prefix}-work-{number}", work, language)
                            for number, work in enumerate(WORK) for language, prefix in LANGUAGES})
            host.close()


LANGUAGES = (("JavaScript", "js"), ("Python", "py"))


def _calls(lab: Lab, daemon: Daemon, host: Host, plugin: str, kind: str, language: str) -> Callable[[], None]:
    context = KINDS[kind][1]

    def measure() -> None:
        host.rounds([plugin], 50, 4, context)
        for in_flight, total in ((1, 500), (64, 3000)):
            round_ = host.rounds([plugin], lab.scaled(total), in_flight, context)
            lab.add_round(language, round_, hook=kind, **{"in flight": in_flight})
            lab.add(language, "worker CPU of a call", "µs", statistics.median(round_.cpus_us), hook=kind,
                    **{"in flight": in_flight})
        (worker,) = daemon.workers(plugin)
        lab.add(language, "worker's memory", "MiB", worker.memory_full_info().uss / MIB, hook=kind, **{"in flight": 1})

    return measure


def _starts(lab: Lab, daemon: Daemon, host: Host, prefix: str) -> Callable[[], None]:
    def measure() -> None:
        for number in range(STARTS):
            plugin = f"{prefix}-start-{number}"
            daemon.operate("plugin.restart", id=plugin)
            time.sleep(0.1)
            begun = time.perf_counter()
            host.invoke(plugin)
            language = "JavaScript" if prefix == "js" else "Python"
            lab.add(language, "first call", "ms", (time.perf_counter() - begun) * 1000)
            (worker,) = daemon.workers(plugin)
            lab.add(language, "memory after it", "MiB", worker.memory_full_info().uss / MIB)

    return measure


def _fresh(lab: Lab, daemon: Daemon, host: Host) -> Callable[[], None]:
    def measure() -> None:
        host.invoke("js-fresh")
        (worker,) = daemon.workers("js-fresh")
        used_ns, total = _ran_ns(worker.pid), lab.scaled(1000)
        host.rounds(["js-fresh"], total, 1, context_of(10))
        lab.add("an engine for each call", "worker CPU, all in", "µs", (_ran_ns(worker.pid) - used_ns) / total / 1000)
        lab.add("an engine for each call", "memory", "MiB", worker.memory_full_info().uss / MIB)

    return measure


def _ran_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0])


def _work(lab: Lab, host: Host, plugin: str, work: str, language: str) -> Callable[[], None]:
    def measure() -> None:
        reply = host.request({"type": "invoke", "plugin": plugin, "action": HOOK, "deadlineMs": 60_000,
                              "userId": "11111111-2222-4333-8444-555555555555",
                              "payload": {"action": "x", "context": {}}}, 70_000)
        lab.add(language, "worker CPU", "ms", reply["usage"]["cpuMs"], work=work)

    return measure


REST_SECONDS = 3.0
"""After a work the plugin has its whole burst of CPU again: a tenth of a core fills it."""


def _within_limits(lab: Lab, host: Host, plugin: str, work: str, language: str) -> Callable[[], None]:
    def measure() -> None:
        time.sleep(REST_SECONDS)
        begun = time.perf_counter()
        reply = host.invoke(plugin)
        if reply["type"] == "error":
            lab.note(f"{work} in {language} within 5 s and 10 % of a core: {reply['code']}")
        else:
            lab.add(f"{language}, within 5 s and 10 % of a core", "answered after", "ms",
                    (time.perf_counter() - begun) * 1000, work=work)

    return measure
