"""``demo``: a daemon of its own, every hook, and the plugins that misbehave."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import apex_exec
from apex_exec.cli.root import EXIT_NO, app, fail
from apex_exec.client import CallError, Client

USER = "11111111-2222-4333-8444-555555555555"
START_SECONDS_MAX = 15
STEPS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("hello-world", "onDashboardLoad", {"dashboardId": "main"}, "ok"),
    ("custom-analytics", "onDataFetch", {"query": "sales", "filters": {"year": 2026}}, "ok"),
    ("action-router", "onActionExecute", {"action": "echo", "context": {"n": 1}}, "ok"),
    ("login-audit", "onAuthSuccess", {"sessionId": "s-1"}, "ok"),
    ("spinner", "onActionExecute", {"action": "spin", "context": {}}, "TIMEOUT"),
    ("hoarder", "onActionExecute", {"action": "hoard", "context": {}}, "MEMORY_LIMIT"),
    ("crasher", "onActionExecute", {"action": "crash", "context": {}}, "WORKER_CRASHED"),
    ("liar", "onDashboardLoad", {"dashboardId": "main"}, "INVALID_OUTPUT"),
    ("hello-world", "onDashboardLoad", {"dashboardId": "after"}, "ok"),
)


@app.command()
def demo() -> None:
    """Starts a daemon in a temporary folder, runs the example plugins, shows what happened."""
    plugins = Path(apex_exec.__file__).parent / "examples" / "plugins"
    with tempfile.TemporaryDirectory(prefix="apex-exec-demo-") as folder:
        command = [sys.executable, "-m", "apex_exec", "serve", "--runtime-dir", folder, "--plugins-dir", str(plugins),
                   "--http-address", "127.0.0.1:0"]
        with (Path(folder) / "log").open("w+") as log, subprocess.Popen(command, stderr=log) as daemon:
            try:
                _wait(Path(folder) / "host.sock", daemon, log.name)
                with Client(f"ipc://{folder}/host.sock") as client:
                    good = _run(client)
            finally:
                daemon.terminate()
    if not good:
        fail("an outcome is not the expected one; see the lines marked NOT EXPECTED", EXIT_NO)


def _wait(path: Path, daemon: subprocess.Popen[bytes], log: str) -> None:
    due = time.monotonic() + START_SECONDS_MAX
    while not path.exists():
        if daemon.poll() is not None or time.monotonic() > due:
            fail(f"the daemon did not start: {Path(log).read_text()[-500:].strip()}", EXIT_NO)
        time.sleep(0.02)


def _run(client: Client) -> bool:
    welcome = client.hello()
    print(f"{welcome['server']}, isolation {welcome['isolation']}")
    good = True
    for plugin, hook, payload, expected in STEPS:
        begun = time.perf_counter()
        try:
            outcome, shown = "ok", str(client.invoke(plugin, hook, USER, payload)["result"])
        except CallError as error:
            outcome, shown = error.code, error.reply["message"]
        took_ms = (time.perf_counter() - begun) * 1000
        mark = "" if outcome == expected else f"  NOT EXPECTED: {expected}"
        good = good and not mark
        print(f"{plugin:<17} {hook:<16} {outcome:<15} {took_ms:7.1f} ms  {shown[:60]}{mark}")
    return good
