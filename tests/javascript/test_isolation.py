"""An engine for each call: nothing that one call leaves is there in the next, and nothing grows."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client.errors import Busy
from apex_exec.errors import Refusal
from apex_exec.registry.bundles.manifest import parse_manifest
from tests.support.daemon import Daemon, wait_for
from tests.support.javascript import write_actions

HEAD = "import { bump } from './state.js';\nconsole.log('loaded');"
FILES = {"state.js": "let n = 0; export const bump = () => ++n;"}
COUNT = """() => { Array.prototype.evil = (Array.prototype.evil ?? 0) + 1; globalThis.left = (globalThis.left ?? 0) + 1;
  return [Array.prototype.evil, globalThis.left, bump()] }"""
LEAVE = """async (c) => { bump(); globalThis.left = c;
  Array.prototype.evil = JSON.parse = Promise.prototype.then = null;
  const held = {}; globalThis.registry = new FinalizationRegistry(() => {}); registry.register(held, 1);
  setTimeout(() => { console.log('fired', held) }, 1); new Promise(() => held); Symbol.for('left').description;
  Error.prepareStackTrace = () => 'mine'; Object.freeze(Object.prototype); delete globalThis.structuredClone;
  globalThis.garbage = Array.from({ length: 20_000 }, (_, i) => ({ i })); URL.prototype.left = 1;
  c.api.emit('left', 1); return 1 }"""
LOOK = """() => [globalThis.left, globalThis.registry, globalThis.garbage, Array.prototype.evil, URL.prototype.left,
  Error.prepareStackTrace].filter((one) => one !== undefined).length + Number(Object.isFrozen(Object.prototype))
  + Number(JSON.parse('0')) + Number(typeof structuredClone !== 'function') + bump() - 1"""
ACTIONS = {"count": COUNT, "fail": "() => { globalThis.left = 9; throw new Error('x') }", "leave": LEAVE, "look": LOOK,
           "memory": "() => { const a = []; for (;;) a.push(new Uint8Array(65536)) }"}
SETTLING_CALLS, CALLS = 100, 300
SETTLING_ROUNDS, ROUNDS, ROUNDS_PER_FULL = 50, 1500, 50
GROWTH_BYTES_MAX = 32 * 1024
"""What a worker may grow by after it has settled, however many calls follow: eight pages."""
KEPT_BYTES_MAX = 4_000_000
"""How much larger a worker may be whose first call filled the memory. Seen: 0.6 MB, and 23 MB if its engine is kept."""
BUSY_SECONDS_MAX = 30


@pytest.fixture(scope="module", params=["manifest", pytest.param("operator", marks=pytest.mark.slow)])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    by_manifest = request.param == "manifest"
    own: dict[str, Any] = {"isolation": "call"} if by_manifest else {}
    write_actions(folder / "plugins", "fresh", ACTIONS, HEAD, FILES, ("events:emit",), **own)
    write_actions(folder / "plugins", "other", ACTIONS, HEAD, FILES)
    try:
        with Daemon(folder / "d", folder / "plugins",
                    {"limits.timeout_ms": 60_000, "sandbox.fresh_realm": not by_manifest}) as running:
            running.by_manifest = by_manifest  # type: ignore[attr-defined]  # for the tests below
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(daemon: Daemon, plugin: str, action: str) -> Any:
    """The hook's result. A busy machine's ledger refuses a call now and then, of which nothing was run."""
    due = time.monotonic() + BUSY_SECONDS_MAX
    while True:
        try:
            return daemon.invoke(plugin, "onActionExecute", {"action": action, "context": {}},
                                 deadline_ms=60_000)["result"]
        except Busy:
            if time.monotonic() > due:
                raise
            time.sleep(0.2)


def test_every_call_has_an_engine_of_its_own_where_that_is_asked_for(daemon: Daemon) -> None:
    assert [run(daemon, "fresh", "count") for _ in range(3)] == [[1, 1, 1]] * 3
    (pid,) = daemon.pids("fresh")
    by_manifest: bool = daemon.by_manifest  # type: ignore[attr-defined]  # set by the fixture
    shared = [run(daemon, "other", "count") for _ in range(3)]
    assert shared == ([[n, n, n] for n in (1, 2, 3)] if by_manifest else [[1, 1, 1]] * 3)
    for _ in range(SETTLING_CALLS):
        run(daemon, "fresh", "count")
    before = psutil.Process(pid).memory_full_info().uss
    for _ in range(CALLS):
        assert run(daemon, "fresh", "count") == [1, 1, 1]
    assert daemon.pids("fresh") == [pid]
    assert psutil.Process(pid).memory_full_info().uss < before + GROWTH_BYTES_MAX
    assert daemon.log.count("plugin fresh: loaded") == 1  # what loading says is said once


def test_what_the_first_call_held_is_freed_with_its_engine(daemon: Daemon) -> None:
    def uss() -> int:
        found: int = psutil.Process(daemon.pids("fresh")[-1]).memory_full_info().uss
        return found

    def call_a_new_worker(*, full: bool) -> None:
        daemon.operate("plugin.restart", id="fresh")
        if full:
            with pytest.raises(Exception, match="MEMORY_LIMIT"):
                run(daemon, "fresh", "memory")
        for _ in range(2):
            assert run(daemon, "fresh", "count") == [1, 1, 1]

    call_a_new_worker(full=False)
    usual = uss()
    call_a_new_worker(full=True)
    wait_for(lambda: uss() < usual + KEPT_BYTES_MAX, 10, "the end of the first engine")  # after the call's answer


def test_nothing_of_a_call_is_left_in_the_next(daemon: Daemon) -> None:
    for _ in range(3):
        assert run(daemon, "fresh", "leave") == 1
        assert run(daemon, "fresh", "look") == 0
    assert run(daemon, "fresh", "count") == [1, 1, 1] and "fired" not in daemon.log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_calls_of_every_kind_leave_a_worker_as_it_was(daemon: Daemon) -> None:
    def rounds(count: int) -> None:
        for number in range(count):
            if number % ROUNDS_PER_FULL == 0:
                with pytest.raises(Exception, match="MEMORY_LIMIT"):
                    run(daemon, "fresh", "memory")
            assert run(daemon, "fresh", "leave") == 1 and run(daemon, "fresh", "look") == 0
            with pytest.raises(Exception, match="PLUGIN_ERROR"):
                run(daemon, "fresh", "fail")
            assert run(daemon, "fresh", "count") == [1, 1, 1]

    rounds(SETTLING_ROUNDS)  # with calls of every kind, the one that fills the memory among them
    (pid,) = daemon.pids("fresh")
    before = psutil.Process(pid).memory_full_info().uss
    rounds(ROUNDS)
    assert daemon.pids("fresh") == [pid]
    assert psutil.Process(pid).memory_full_info().uss < before + GROWTH_BYTES_MAX


def test_python_cannot_have_it_and_says_why() -> None:
    manifest = {"id": "sample", "name": "P", "version": "1.0.0", "author": "A", "permissions": [], "isolation": "call",
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}}
    with pytest.raises(Refusal) as caught:
        parse_manifest(json.dumps(manifest).encode())
    assert caught.value.reason == "isolation_unsupported" and "fork" in caught.value.message
    manifest["manifest"] = {"entrypoint": "index.js", "hooks": ["onDataFetch"]}
    assert parse_manifest(json.dumps(manifest).encode()).isolation == "call"
