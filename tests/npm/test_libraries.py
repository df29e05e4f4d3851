"""Thirteen packages of npm in one bundle, by the documented command: installed, scanned, loaded, used, measured."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apex_exec.config import load_settings
from apex_exec.market.review.coverage import measure
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import parse_manifest
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.trials.packages import by_its_own_maps
from apex_exec.registry.trials.testing import run_tests
from apex_exec.testing import npm_plugin
from apex_exec.testing.npm_plugin import ANSWERS, HOOK, ID, LIBRARIES, ORDER
from tests.support import need
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]  # a registry may be slow
LOAD_CPU_SECONDS_MAX, MEMORY_MB_MAX, SCAN_CPU_SECONDS_PER_MB_MAX = 0.4, 15.0, 1.0
"""What is promised."""
BUSY = 3
"""A test may take this many times as long, since the machine may be busy: `python -m benchmarks npm` measures."""
TESTS = """import assert from "node:assert/strict";
import test from "node:test";
import plugin from "../index.js";
test("ramda and dayjs", async () => {
  const use = (action) => plugin.hooks.onActionExecute({ action, context: {} });
  assert.equal((await use("ramda")).result, 13);
  assert.equal((await use("dayjs")).result, "2024-02-29");
});
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages in node_modules, and the bundle."""
    folder = tmp_path_factory.mktemp("built")
    try:
        npm_plugin.install(folder)
    except npm_plugin.CannotInstall as error:
        need(False, str(error))
    npm_plugin.build(folder)
    return folder


@pytest.fixture(scope="module")
def daemon(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the bundle, installed from a packed file as an operator does it."""
    bundle = npm_plugin.write_plugin(tmp_path_factory.mktemp("bundle"), built)
    with Daemon(None, None, {"limits.cpu_percent": 100, "limits.timeout_ms": 60_000}) as running:
        running.operate("plugin.install", path=str(bundle))
        running.operate("plugin.enable", id=ID)
        yield running


def test_every_package_is_in_the_bundle(built: Path) -> None:
    sources = json.loads((built / "index.js.map").read_text())["sources"]
    text = (built / "index.js").read_text()
    assert "src/plugin.ts" in sources
    for name in LIBRARIES:
        assert any(f"node_modules/{name}/" in source for source in sources), name
    assert len(text) > 500_000 and not any(line.startswith("import") for line in text.splitlines())


@pytest.mark.parametrize("package", LIBRARIES)
def test_each_package_does_its_work_in_a_hook(daemon: Daemon, package: str) -> None:
    got = daemon.invoke(ID, HOOK, {"action": package, "context": {"order": ORDER}}, deadline_ms=60_000)
    assert got["result"] == ANSWERS[package]


def test_it_is_loaded_within_the_promised_time_and_memory(daemon: Daemon) -> None:
    daemon.operate("plugin.restart", id=ID)
    time.sleep(0.2)
    daemon.invoke(ID, HOOK, {"action": "ramda", "context": {}}, deadline_ms=60_000)
    worker = psutil.Process(daemon.pids(ID)[-1])
    used = worker.cpu_times()
    assert worker.memory_full_info().uss / 1e6 <= MEMORY_MB_MAX
    assert used.user + used.system <= BUSY * LOAD_CPU_SECONDS_MAX


def test_the_scan_has_no_error_and_is_fast(built: Path) -> None:
    source = (built / "index.js").read_bytes()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = scan({"index.js": source}, parse_manifest(json.dumps(npm_plugin.manifest()).encode()), seconds=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert [f"{one.line} {one.rule} {one.message}" for one in report.errors] == []
    assert {one.rule for one in report.findings} <= {"dynamic-code"}, "lodash and ajv make functions of text"
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent <= BUSY * SCAN_CPU_SECONDS_PER_MB_MAX * len(source) / 1e6


def test_the_packages_do_not_count_in_its_coverage(built: Path, tmp_path: Path) -> None:
    folder = npm_plugin.write_plugin(tmp_path, built)
    (folder / "tests").mkdir()
    (folder / "tests" / "index.test.js").write_text(TESTS)
    bundle = read_folder(folder)
    left_out = by_its_own_maps(bundle, ["index.js"])
    assert set(LIBRARIES) <= set(left_out.packages)
    run = run_tests(bundle, load_settings(None), left_out=left_out)
    assert (run.passed, run.failed, run.ended) == (1, 0, ""), run
    own = measure(bundle.files, run.arcs, ["index.js"], left_out)
    lines = (folder / "index.js").read_text().splitlines()
    assert 20 < own.lines < 120, "the author's statements and the bundler's own"
    assert any('"ramda"' in lines[number - 1] or "ramda:" in lines[number - 1] for number in own.run["index.js"])
    begins = next(number for number, line in enumerate(lines, 1) if line == "// src/plugin.ts")
    helpers = next(number for number, line in enumerate(lines, 1) if line.startswith("// node_modules/"))
    assert all(number < helpers or number > begins for number in (*own.run["index.js"], *own.missing["index.js"]))
