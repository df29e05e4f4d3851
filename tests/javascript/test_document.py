"""The document's own plugin runs as it is printed, as root and as a user without rights, and is said to be able to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import need, other_user
from tests.support.daemon import Daemon
from tests.support.host import Host
from tests.support.javascript import WIDGETS, write_document


@pytest.fixture(params=["root", "unprivileged"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    uid = None if request.param == "root" else other_user.UID
    need(uid is None or os.geteuid() == 0, "another user takes root")
    folder = other_user.new_folder() if uid else Path(tempfile.mkdtemp(prefix="apx"))
    try:
        write_document(folder / "plugins")
        with Daemon(plugins=folder / "plugins", uid=uid) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_documents_plugin_answers_unchanged_in_the_same_jail(daemon: Daemon) -> None:
    assert daemon.invoke("hello-world", "onDashboardLoad", {"dashboardId": "main"}) == WIDGETS
    with Host(daemon.endpoint) as host:
        assert host.ask({"type": "hello", "protocol": [1]})["runtimes"] == ["python", "javascript"]
    assert "sandbox_layer_active" in daemon.metrics() and not [
        line for line in daemon.metrics().splitlines()
        if line.startswith("apex_exec_sandbox_layer_active") and line.endswith(" 0.0") and "waived" in line]
    (pid,) = daemon.pids("hello-world")
    assert psutil.Process(pid).num_threads() == 1 and psutil.Process(pid).ppid() == daemon.zygote().pid
    assert psutil.Process(daemon.zygote().pid).num_threads() == 1
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status


def test_validate_loads_the_documents_plugin_and_says_what_differs(tmp_path: Path) -> None:
    target = write_document(tmp_path)

    def validate() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "apex_exec", "plugin", "validate", str(target)], text=True,
                              capture_output=True, timeout=60)

    done = validate()
    assert done.returncode == 0, done.stdout + done.stderr
    source = (target / "index.js").read_text()
    (target / "index.js").write_text(source.replace('["ui:render"]', '["ui:render", "data:read"]'))
    done = validate()
    assert done.returncode == 1 and "data:read" in done.stdout + done.stderr
