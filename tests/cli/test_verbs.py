"""The verbs against a real daemon: what they print, and what their exit status says."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apex_exec.errors import Code
from apex_exec.wire import messages
from tests.cli.test_framework import COMMAND, run
from tests.support.daemon import USER, Daemon, wait_for


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def at(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, "--runtime-dir", str(daemon.runtime))


def test_invoke_prints_the_reply_and_an_error_reply_is_status_1(daemon: Daemon, tmp_path: Path) -> None:
    payload = tmp_path / "p.json"
    payload.write_text('{"dashboardId": "main"}')
    good = at(daemon, "invoke", "hello-world", "onDashboardLoad", "--user", USER, "--payload", f"@{payload}")
    assert good.returncode == 0 and json.loads(good.stdout)["result"]["customWidgets"][0]["component"] == "HelloWorld"
    bad = at(daemon, "invoke", "spinner", "onActionExecute", "--user", USER, "--payload",
             '{"action": "x", "context": {}}')
    assert bad.returncode == 1 and json.loads(bad.stdout)["code"] == "TIMEOUT" and bad.stderr == ""
    nobody = at(daemon, "invoke", "nobody", "onDashboardLoad", "--user", USER)
    assert nobody.returncode == 1 and json.loads(nobody.stdout)["code"] == "PLUGIN_NOT_FOUND"


@pytest.mark.slow
def test_a_name_that_is_none_is_answered_with_those_there_are(daemon: Daemon) -> None:
    near = at(daemon, "invoke", "helo-world", "onDashboardLoad", "--user", USER)
    assert near.returncode == 1 and json.loads(near.stdout)["code"] == "PLUGIN_NOT_FOUND"
    assert near.stderr == "did you mean hello-world?\n"
    far = at(daemon, "invoke", "zzz", "onDashboardLoad", "--user", USER)
    assert "apex-exec plugin list" in far.stderr and far.stderr.count("\n") == 1
    hook = json.loads(at(daemon, "invoke", "hello-world", "onDashbordLoad", "--user", USER).stdout)
    assert hook["code"] == "HOOK_NOT_DECLARED" and "it declares onDashboardLoad" in hook["message"]
    folder = at(daemon, "plugin", "disable", "crasher")
    assert folder.returncode == 1 and "plugins_dir" in folder.stderr and "move it away" in folder.stderr


def test_dispatch_prints_every_outcome(daemon: Daemon) -> None:
    done = at(daemon, "dispatch", "onDashboardLoad", "--user", USER, "--payload", '{"dashboardId": "main"}')
    reply = json.loads(done.stdout)
    assert done.returncode == 0 and reply["partial"]
    assert [o["plugin"] for o in reply["outcomes"] if not o["ok"]] == ["liar"]


@pytest.mark.slow
def test_status_and_top_show_each_plugin_and_sort(daemon: Daemon) -> None:
    for _ in range(3):
        at(daemon, "invoke", "action-router", "onActionExecute", "--user", USER, "--payload",
           '{"action": "echo", "context": {}}')
    at(daemon, "invoke", "crasher", "onActionExecute", "--user", USER, "--payload", '{"action": "x", "context": {}}')
    whole = json.loads(at(daemon, "status", "--json").stdout)
    shown = {plugin["id"]: plugin for plugin in whole["plugins"]}
    router = shown["action-router"]
    assert router["calls"] == 3 and router["failed"] == 0 and 0 <= router["p50Ms"] <= router["p99Ms"]
    assert shown["crasher"]["failed"] == 1 and shown["crasher"]["restarts"] == 1
    lines = at(daemon, "status", "--sort", "restarts").stdout.splitlines()
    assert lines[0].startswith("apex-exec/") and lines[1].split()[:2] == ["plugin", "state"]
    assert lines[2].startswith("crasher")
    once = at(daemon, "top", "--seconds", "0.2", "--sort", "id")
    assert "top needs a terminal to be live" in once.stderr and "apex-exec top --json" in once.stderr
    assert once.returncode == 0 and once.stdout.splitlines()[2].startswith("action-router")
    rows = json.loads(at(daemon, "top", "--seconds", "0.2", "--json").stdout)
    assert {row["id"] for row in rows} == set(shown) and all(row["calls"] == 0 for row in rows)
    assert at(daemon, "top", "--sort", "colour").returncode == 2


def test_top_on_a_terminal_refreshes_sorts_at_a_key_and_gives_the_terminal_back(daemon: Daemon) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "top", "--seconds", "0.3", "--runtime-dir", str(daemon.runtime)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = _read_until(ours, b"*calls/s")
        os.write(ours, b"m")
        seen = _read_until(ours, b"*mem MB")
        os.write(ours, b"\r")
        seen = _read_until(ours, b"esc back")
        os.write(ours, b"\x1b")
        seen = _read_until(ours, b"*mem MB")
        os.write(ours, b"q")
        seen = _read_until(ours, b"\x1b[?1049l")  # the screen that was there before
        process.wait(10)
    os.close(ours)
    assert process.returncode == 0 and seen


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen, due = b"", time.monotonic() + 15
    while wanted not in seen:
        assert time.monotonic() < due, seen[-2000:]
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536)
    return seen


@pytest.mark.slow
def test_schema_has_every_message_hook_operation_and_code() -> None:
    document = json.loads(run("schema").stdout)
    for way, base in (("requests", messages.Request), ("answers", messages.Answer)):
        assert set(document[way]) == {kind.__struct_config__.tag for kind in base.__subclasses__()}
    assert set(document["codes"]) == set(Code) and "daemon.status" in document["operations"]
    invoke = json.loads(run("schema", "invoke").stdout)["$defs"]["Invoke"]
    assert invoke["properties"]["action"] == {"type": "string", "maxLength": 100}
    assert invoke["properties"]["payload"]["type"] == "object" and "payload" not in invoke["required"]
    unknown = run("schema", "frob")
    assert unknown.returncode == 2 and "hello" in unknown.stderr


@pytest.mark.slow
def test_a_second_daemon_on_the_same_folders_says_so(daemon: Daemon, tmp_path: Path) -> None:
    for flags in (["--runtime-dir", str(daemon.runtime), "--state-dir", str(tmp_path)],
                  ["--runtime-dir", str(tmp_path), "--state-dir", str(daemon.state)]):
        done = run("serve", "--http-address", "127.0.0.1:0", *flags)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and last.startswith("apex-exec: a daemon is already running on"), done.stderr
        assert f"pid {daemon.pid}" in last and "choose another" in last


def leftovers() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("apex-exec-demo-*")}


def test_the_demo_shows_it_all_and_leaves_nothing(tmp_path: Path) -> None:
    before = leftovers()
    done = run("demo", "--json", HOME=str(tmp_path))
    shown = json.loads(done.stdout)
    assert done.returncode == 0 and all(step["asExpected"] for step in shown["steps"]), done.stdout
    assert {step["outcome"] for step in shown["steps"]} == {
        "ok", "TIMEOUT", "MEMORY_LIMIT", "WORKER_CRASHED", "INVALID_OUTPUT"}
    assert shown["dispatch"]["failed"] == ["liar"] and len(shown["dispatch"]["widgets"]) == 4
    assert leftovers() == before and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_in_the_demo_leaves_neither_process_nor_folder() -> None:
    before = leftovers()
    with subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 2)
    assert leftovers() == before
