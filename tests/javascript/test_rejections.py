"""A promise that is rejected and that nobody handles is one warning in the plugin's log, with its place."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import CallError
from tests.common.test_source_map import encode
from tests.support.daemon import Daemon, wait_for
from tests.support.javascript import write_actions

SAID = "a promise was rejected and nobody handled it"
ACTIONS = {
    "forgotten": "async () => { later(); await null; return 1 }",
    "many": "() => { for (let i = 0; i < 5; i++) Promise.reject(new Error('n' + i)); return 1 }",
    "flood": "() => { for (let i = 0; i < 100_000; i++) Promise.reject(new Error('f' + i)); return 1 }",
    "refused": "async (c) => { c.api.insert('orders', {}); await new Promise((r) => setTimeout(r, 200)); return 1 }",
    "failed too": "async () => { later(); await null; throw new Error('the hook itself') }",
    "no error": "() => { Promise.reject({ a: 1 }); return 1 }",
    "hostile": """() => { Error.prototype.toString = String.prototype.slice = null;
      Promise.reject(Object.defineProperty(new Error('x'), 'message', { get() { throw 9 } })); return 1 }""",
    "full": "() => { for (const all = [];;) all.push(Promise.reject([1, 2, 3])) }",
    "handled": "async () => { try { await later() } catch { } return later().catch(() => 1) }",
    "handled late": """async () => { const kept = later(); await new Promise((r) => setTimeout(r, 30));
      return kept.catch(() => 1) }""",
    "all": "async () => (await Promise.allSettled([later(), later()])).length",
    "quiet": "() => 1",
    "mark": "(c) => { console.log(c.context.word); return 1 }",
}
HEAD = """async function later() { await null; null.x }
(async () => { throw new RangeError("while loading") })();"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("plugins")
    write_actions(folder, "acts", ACTIONS, HEAD)
    write_actions(folder, "fresh", ACTIONS, HEAD, isolation="call")
    mapped = write_actions(folder, "mapped", ACTIONS, HEAD) / "index.js"
    count = len(mapped.read_text().splitlines())
    lines: list[list[tuple[int, ...]]] = [[(0, 0, 70 + number, 4)] for number in range(count)]
    mapped.write_text(mapped.read_text() + "//# sourceMappingURL=index.js.map\n")
    (mapped.parent / "index.js.map").write_text(json.dumps(
        {"version": 3, "sources": ["src/plugin.ts"], "names": [], "mappings": encode(lines)}))
    with Daemon(plugins=folder, config={"log.plugin_lines_per_second": 10_000, "limits.cpu_percent": 100,
                                        "breaker.ends": 1000, "limits.timeout_ms": 60_000}) as running:
        yield running


MARKS = itertools.count()


def told(daemon: Daemon, plugin: str, action: str, *, fails: bool = False) -> list[str]:
    """The warnings about rejections that one call of ``action`` has written."""
    log = mark(daemon, plugin)
    before = len(lines_of(log))
    invoke(daemon, plugin, action, fails=fails)
    return lines_of(mark(daemon, plugin))[before:]


def mark(daemon: Daemon, plugin: str) -> Path:
    """The plugin's log, after everything that its calls have written so far."""
    log, word = Path(daemon.state) / "logs" / f"{plugin}.log", f"mark {next(MARKS)}."
    daemon.invoke(plugin, "onActionExecute", {"action": "mark", "context": {"word": word}}, deadline_ms=60_000)
    wait_for(lambda: log.exists() and word in log.read_text(), 60, "the log")
    return log


def lines_of(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if SAID in line]


def invoke(daemon: Daemon, plugin: str, action: str, *, fails: bool = False) -> None:
    try:
        daemon.invoke(plugin, "onActionExecute", {"action": action, "context": {}}, deadline_ms=60_000)
    except CallError:
        assert fails, action


def test_what_is_rejected_while_a_plugin_loads_is_told_once_with_its_place(daemon: Daemon) -> None:
    (line,) = [line for line in lines_of(mark(daemon, "acts")) if "while loading" in line]
    assert "RangeError: while loading" in line and re.search(r"acts/index\.js:2:\d+", line) and "WARN" in line.upper()


@pytest.mark.parametrize("plugin", ["acts", "fresh"])
def test_a_promise_that_a_hook_forgets_is_told_once_for_each_call(daemon: Daemon, plugin: str) -> None:
    for _ in range(2):
        (line,) = told(daemon, plugin, "forgotten")
        assert "TypeError: cannot read" in line and f"{plugin}/index.js:1:" in line and "apex:" not in line


@pytest.mark.parametrize(("action", "words"), [
    ("many", ["the first of 5)", "Error: n0"]), ("flood", ["the first of 64 or more)", "Error: f0"]),
    ("refused", ["PermissionDenied", "acts/index.js:"]), ("no error", ["{ a: 1 }", "this is not an Error"]),
    ("failed too", ["TypeError"])])
def test_one_line_tells_of_all_and_shows_the_first(daemon: Daemon, action: str, words: list[str]) -> None:
    (line,) = told(daemon, "acts", action, fails=action == "failed too")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("action", ["quiet", "handled", "handled late", "all"])
def test_what_is_handled_in_time_is_not_told(daemon: Daemon, action: str) -> None:
    assert told(daemon, "acts", action) == []


def test_the_place_is_that_of_the_authors_source(daemon: Daemon) -> None:
    (line,) = told(daemon, "mapped", "forgotten")
    assert "mapped/src/plugin.ts:71:" in line and "index.js" not in line, line


@pytest.mark.parametrize("action", ["hostile", "full"])
def test_whatever_is_rejected_the_call_is_answered_and_the_worker_serves_on(daemon: Daemon, action: str) -> None:
    pids = daemon.pids("acts")
    told(daemon, "acts", action, fails=action == "full")
    assert daemon.pids("acts") == pids
    (line,) = told(daemon, "acts", "many")
    assert "n0" in line
