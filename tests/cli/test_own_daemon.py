"""The daemon of a verb such as ``plugin call DIR``, beside the one that the same configuration is for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from apex_exec.catalogue.keys import KEYS
from apex_exec.cli.own_daemon import TAKEN, TAKEN_KEYS, taken_over
from apex_exec.registry.bundles.scaffold import write_scaffold
from apex_exec.testing import Daemon
from tests.support import need
from tests.support.daemon import ROOT

OPERATORS = """
state_dir = "/srv/daemon"
[host]
endpoint = "ipc:///run/daemon/host.sock"
max_message_bytes = 4096
[audit]
url = "postgresql://ledger@db/ledger"
[fleet]
engine = "static"
members = ["a", "b"]
[data.tables.orders]
owner = "user_id"
columns = ["id"]
[limits]
cpu_percent = 5
[hooks.onInvoiceCreated]
mode = "all"
"""


def test_it_takes_over_what_a_plugin_meets_and_nothing_that_is_the_operators(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "daemon.toml").write_text(OPERATORS)
    monkeypatch.setenv("APEX_EXEC_STORAGE__URL", "postgresql://storage@db/storage")
    monkeypatch.setenv("APEX_EXEC_LIMITS__MEMORY_MB", "20")
    assert taken_over(tmp_path / "daemon.toml") == {
        "host.max_message_bytes": 4096, "data.tables": {"orders": {"owner": "user_id", "columns": ["id"]}},
        "limits.cpu_percent": 5, "hooks.onInvoiceCreated": {"mode": "all"}}
    assert "APEX_EXEC_STORAGE__URL" not in os.environ and "APEX_EXEC_LIMITS__MEMORY_MB" in os.environ
    assert taken_over(None) == {}


def test_what_it_takes_over_are_keys_of_the_configuration() -> None:
    assert set(TAKEN_KEYS) <= set(KEYS) and set(TAKEN) <= {key.partition(".")[0] for key in KEYS}
    kept = {key for key in KEYS if key.partition(".")[0] in TAKEN or key in TAKEN_KEYS}
    assert not [key for key in kept if KEYS[key].meaning.startswith("the folder") or key.endswith(".url")
                and key != "data.url"]


@pytest.mark.slow
def test_a_call_beside_the_operators_daemon_leaves_that_one_as_it_is(tmp_path: Path) -> None:
    folder, config = write_scaffold(tmp_path, "beside", "tests"), tmp_path / "daemon.toml"
    (tmp_path / "d").mkdir()
    ledger = tmp_path / "d" / "ledger.db"
    with Daemon(config={"host.max_message_bytes": 65_536}) as daemon:
        config.write_text(f'[host]\nendpoint = "{daemon.endpoint}"\nmax_message_bytes = 65536\n'
                          f'[audit]\nurl = "sqlite:///{ledger}"\n[limits]\ncpu_percent = 5\n')
        command = [sys.executable, "-m", "apex_exec", "plugin", "call", str(folder), "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=True)
        assert json.loads(done.stdout)["type"] == "result"
        assert daemon.client.plugins() == [] and not ledger.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", [pytest.param("dev"), pytest.param("debug", marks=pytest.mark.slow)])
def test_a_verb_that_is_terminated_ends_its_daemon_and_removes_its_folder(
        verb: str, number: signal.Signals, tmp_path: Path) -> None:
    if verb == "debug":
        need(find_spec("debugpy"), "debugpy is not installed")
    folder = write_scaffold(tmp_path, "ended", "tests")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a long path would not be used for sockets
        command = [sys.executable, "-m", "apex_exec", "plugin", verb, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env={**os.environ, "TMPDIR": place})
        assert process.stdout is not None
        while "invoke ended" not in (line := process.stdout.readline()):  # how to call a hook
            assert line, "it ended before it served"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert len(children) >= 3 and not alive and "Traceback" not in said
        assert not list(Path(place).iterdir())
