"""An operator finds out which plugin fails, and why: in the log, in the plugin's, in `status` and the metrics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from tests.support.daemon import ECHO, ROOT, USER, Daemon, wait_for, write_plugin

ACT = "\n@plugin.hook('onActionExecute')\ndef act(context, params):\n"
PLUGINS = {
    "raises": (ACT + "    raise KeyError('no\\nsuch\\x1b[31m column')\n", "PLUGIN_ERROR", "KeyError"),
    "spins": (ACT + "    while True:\n        pass\n", "TIMEOUT", "deadline"),
    "exits": ("import os\n" + ACT + "    os._exit(9)\n", "WORKER_CRASHED", "exited with 9"),
    "kills-itself": ("import os\n" + ACT + "    os.kill(os.getpid(), 9)\n", "", ""),
    "lies": (ACT + "    return 7\n", "INVALID_OUTPUT", ""),
    "eats": (ACT + "    return {'result': len(bytearray(200 << 20)), 'metadata': {}}\n", "MEMORY_LIMIT", ""),
    "no-load": ("1 / 0\n" + ACT + "    pass\n", "BOOT_FAILED", "ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo", ECHO)
    for name, (code, _, _) in PLUGINS.items():
        write_plugin(plugins, name, code)
    with Daemon(plugins=plugins, config={"limits.timeout_ms": 2000, "limits.cpu_percent": 100}) as running:
        yield running


def call(client: Client, plugin: str, **context: Any) -> str:
    try:
        client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": context})
    except CallError as error:
        return error.code
    return ""


def lines_of(daemon: Daemon, plugin: str) -> list[str]:
    return [line for line in daemon.log.splitlines() if f" plugin {plugin}: " in line]


@pytest.mark.parametrize("plugin", [name for name, (_, code, _) in PLUGINS.items() if code])
def test_every_way_to_fail_leaves_its_code_and_reason(daemon: Daemon, plugin: str) -> None:
    _, code, reason = PLUGINS[plugin]
    with Client(daemon.endpoint) as client:
        assert call(client, plugin) == code
        wait_for(lambda: any(code in line and reason in line for line in lines_of(daemon, plugin)), 5, code)
    logged = "\n".join(lines_of(daemon, plugin))
    done = subprocess.run([sys.executable, "-m", "apex_exec", "plugin", "logs", plugin, "--config",
                           str(daemon.config_file)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and code in done.stdout and reason in done.stdout
    assert "\x1b" not in logged + done.stdout
    if plugin in ("raises", "no-load"):
        assert "plugin.py" in logged and "line" in logged, "the traceback"
        assert "Traceback" not in {line.split(" ")[0] for line in daemon.log.splitlines()}, "on one line"
    row = daemon.plugin(plugin)
    assert row["failedRecently"] >= 1 and row["lastFailure"] == code
    wait_for(lambda: daemon.metric(f'recent_failures{{plugin="{plugin}"}}') >= 1, 5, "the gauge")


def test_a_worker_that_is_killed_between_calls_is_told_and_an_idle_one_is_not(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        assert call(client, "echo") == ""
        (pid,) = daemon.pids("echo")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: any(f"(pid {pid}) ended, crashed" in line and "SIGKILL" in line
                             for line in lines_of(daemon, "echo")), 5, "the line")
        assert call(client, "echo") == "" and daemon.plugin("echo")["failedRecently"] == 0


def test_a_flood_of_failures_is_counted_and_not_written(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        before = len(lines_of(daemon, "raises"))
        for _ in range(200):
            assert call(client, "raises") in ("PLUGIN_ERROR", "QUARANTINED")
    wait_for(lambda: any("failures were not logged" in line for line in lines_of(daemon, "raises")), 10, "the count")
    told = [line for line in lines_of(daemon, "raises")[before:] if "failed: PLUGIN_ERROR" in line]
    assert len(told) < 60
