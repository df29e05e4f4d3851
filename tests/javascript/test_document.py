"""The document's own plugin runs as it is printed, as root and as a user without rights, and is said to be able to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import need, other_user
from tests.support.daemon import ROOT, USER, Daemon
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


class User:
    """Somebody who types ``apex-exec``: the user that runs the tests (``uid`` None), or another one."""

    def __init__(self, uid: int | None) -> None:
        self.uid = uid
        self.folder = other_user.new_folder(uid) if uid else Path(tempfile.mkdtemp(prefix="apx"))

    def types(self, *arguments: str, status: int = 0) -> str:
        """Runs one command in the user's folder. Returns what it printed, on both streams. Checks its exit status."""
        python, become = sys.executable, {}
        environment: dict[str, str] = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.uid is not None:
            python, become, environment = other_user.python(), other_user.become(self.uid), other_user.environment()
        options: dict[str, Any] = become | {"cwd": self.folder, "env": environment | {"HOME": str(self.folder)}}
        done = subprocess.run([python, "-m", "apex_exec", *arguments], capture_output=True, text=True, timeout=300,
                              **options)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(params=["own", pytest.param("other", marks=pytest.mark.slow)])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    made = User(None if request.param == "own" else other_user.UID)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_the_documents_plugin_goes_from_file_to_answer_by_the_verbs_of_the_command_line(user: User) -> None:
    """Every verb is a process of the user's, the daemon is the user's, and only what a registered author has signed is
    installed. ``tests/versions`` runs this on the other interpreters."""
    write_document(user.folder)
    if user.uid is not None:
        shutil.chown(user.folder / "hello-world", user.uid, user.uid)
    with Daemon(plugins=None, uid=user.uid, config={"security.require_signature": "author"}) as daemon:
        daemon.start_registrar()
        there = ("--runtime-dir", str(daemon.runtime))
        keys = ("--state-dir", str(user.folder / "keys"))
        user.types("keys", "new", "acme", *keys)
        user.types("keys", "register", "acme", *keys, *there)

        assert user.types("plugin", "validate", "./hello-world").endswith(": valid\n")
        user.types("plugin", "pack", "./hello-world")
        bundle = "hello-world-1.0.0.apx"
        assert "plugin sign" in user.types("plugin", "install", bundle, *there, status=1)
        user.types("plugin", "sign", bundle, "--key", "acme", *keys)
        user.types("plugin", "install", bundle, *there)
        call = ("invoke", "hello-world", "onDashboardLoad", "--user", USER, "--payload", '{"dashboardId": "m"}', *there)
        assert "PLUGIN_DISABLED" in user.types(*call, status=1)
        user.types("plugin", "enable", "hello-world", *there)

        assert json.loads(user.types(*call))["result"] == WIDGETS
        (pid,) = daemon.pids("hello-world")
        assert psutil.Process(pid).ppid() == daemon.zygote().pid
        assert psutil.Process(daemon.pid).uids().real == (os.geteuid() if user.uid is None else user.uid)


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
