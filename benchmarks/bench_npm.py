"""Packages of npm in a JavaScript plugin: load, memory, scan, and what coverage costs and says beside node's own.

Needs npm and its registry, and for the last part node. Without them it says so and measures what is left.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from apex_exec.config import load_settings
from apex_exec.market.review.coverage import measure
from apex_exec.registry.bundles.manifest import parse_manifest
from apex_exec.registry.scan.javascript.counters import points_of
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.trials.javascript import counted
from apex_exec.registry.trials.testing import Request, Run
from apex_exec.registry.trials.testing_child import Zygote
from apex_exec.testing import npm_plugin
from apex_exec.testing.npm_plugin import ANSWERS, ID, ORDER
from benchmarks.bench_javascript import MIB, write_js
from benchmarks.daemon import Daemon, Host, serving
from benchmarks.lab import Lab
from benchmarks.node_coverage import missed_lines

TITLE = "Packages of npm in a JavaScript plugin"
SMALL, BIG = "a plugin of 1 kB", "thirteen packages in one bundle"
PLAIN, WITH_COUNTERS = "tests without counters", "tests with counters"
COVERAGE = "counters beside node's coverage"
ECHO = "(c) => ({ result: c.context, metadata: {} })"
ROUNDS = 20
"""How often the tests use every package: the start of a worker is to be a small part of their time."""
TESTS = '''import assert from "node:assert/strict";
import test from "node:test";
import plugin from "../index.js";
const use = async (action) => (await plugin.hooks.onActionExecute({{ action, context: {context} }})).result;
for (const [action, answer] of Object.entries({answers}))
  test(action, async () => {{
    for (let n = 0; n < {rounds}; n++) assert.deepEqual(JSON.parse(JSON.stringify(await use(action))), answer);
  }});
'''


def run(lab: Lab) -> None:
    """Adds the rows."""
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        try:
            npm_plugin.install(folder)
        except npm_plugin.CannotInstall as error:
            lab.note(f"Not measured: {error}.")
            return
        npm_plugin.build(folder)
        source = (folder / "index.js").read_bytes()
        lab.add(BIG, "size", "kB", len(source) / 1000)
        write_js(folder / "plugins", "small", ECHO, "// " + "x" * 850 + "\n")
        npm_plugin.write_plugin(folder / "plugins", folder)
        small = (folder / "plugins" / "small" / "index.js").read_bytes()
        with serving(folder / "plugins", limits__cpu_percent=100, limits__timeout_ms=60_000) as daemon:
            host = Host(daemon.endpoint)
            lab.interleave({SMALL: _loads(lab, daemon, host, SMALL, "small", small),
                            BIG: _loads(lab, daemon, host, BIG, ID, source)})
            host.close()
        lab.interleave({"scan": _scans(lab, source)})
        _coverage(lab, folder, source)


def _loads(lab: Lab, daemon: Daemon, host: Host, who: str, plugin: str, source: bytes) -> Callable[[], None]:
    asked = msgspec.msgpack.encode((plugin, {"index.js": source}, lab.scaled(10)))

    def measure_loads() -> None:
        done = subprocess.run([sys.executable, "-m", "benchmarks.load_javascript"], input=asked, capture_output=True,
                              check=True)
        for ms in msgspec.msgpack.decode(done.stdout, type=list[float]):
            lab.add(who, "load", "ms of CPU", ms)
        daemon.operate("plugin.restart", id=plugin)
        reply = host.request({"type": "invoke", "plugin": plugin, "action": npm_plugin.HOOK, "deadlineMs": 60_000,
                              "userId": "11111111-2222-4333-8444-555555555555",
                              "payload": {"action": "ramda", "context": {}}}, 70_000)
        if reply["type"] == "error":
            raise SystemExit(f"a call failed: {reply}")
        (worker,) = daemon.workers(plugin)
        lab.add(who, "memory", "MiB", worker.memory_full_info().uss / MIB)

    return measure_loads


def _scans(lab: Lab, source: bytes) -> Callable[[], None]:
    manifest = parse_manifest(json.dumps(npm_plugin.manifest()).encode())

    def scan_once() -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = scan({"index.js": source}, manifest, seconds=300)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        lab.add(BIG, "scan", "s of CPU a MB", spent / (len(source) / 1e6))
        lab.add(BIG, "errors of the scan", "", len(report.errors))

    return scan_once


def _coverage(lab: Lab, folder: Path, source: bytes) -> None:
    """The same tests with and without counters in the jail, and under node. The whole bundle counts, packages too."""
    tests = TESTS.format(context=json.dumps({"order": ORDER}), answers=json.dumps(ANSWERS), rounds=lab.scaled(ROUNDS))
    files = {"index.js": source, "tests/index.test.js": tests.encode()}
    uid = load_settings(None).sandbox.uid_range[1] if os.geteuid() == 0 else 0
    zygote = Zygote(Request(ID, "1.0.0", "index.js", files, 150 << 20, [], [], "L1", uid, 300.0, ["index.js"]))
    runs: list[Run] = []

    def tested(who: str, given: dict[str, bytes]) -> Callable[[], None]:
        def test() -> None:
            made, _ = zygote.run(given)
            if made.ended or made.failed:
                raise SystemExit(f"the tests fail: {made.ended} {made.failures}")
            lab.add(who, "time", "s", made.seconds)
            runs.append(made)

        return test

    try:
        lab.interleave({PLAIN: tested(PLAIN, counted(files, [])),
                        WITH_COUNTERS: tested(WITH_COUNTERS, counted(files, ["index.js"]))})
    finally:
        zygote.close()
    times = [lab.value(who, "time") or 0.0 for who in (WITH_COUNTERS, PLAIN)]
    lab.add(COVERAGE, "slower", "×", times[0] / times[1])
    if shutil.which("node") is None:
        lab.note("The lines are not compared: node is not installed.")
        return
    (folder / "tests").mkdir()
    (folder / "tests" / "index.test.js").write_bytes(files["tests/index.test.js"])
    lines = {point.line for point in points_of(source)}
    ours = set(measure(files, runs[-1].arcs, ["index.js"]).missing["index.js"])
    theirs = missed_lines(folder, "index.js", "tests/index.test.js") & lines
    lab.add(COVERAGE, "lines counted", "", len(lines))
    lab.add(COVERAGE, "missed by both", "", len(ours & theirs))
    lab.add(COVERAGE, "missed by node alone", "", len(theirs - ours))
    lab.add(COVERAGE, "missed by us alone", "", len(ours - theirs))
    lab.note("What we alone miss are lines of which node saw a part run: a member whose arrow function was never "
             "called, a function with defaults that was never called, an `else if` that was not reached.")
