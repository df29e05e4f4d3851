"""What takes all of ``audit.*`` away, or puts an older copy back, leaves registry and market, which know better."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.verify import verify
from apex_exec.registry.trust.heads import end_of, noted_at
from tests.support.daemon import USER, Daemon, wait_for

BASE_NS = 1_790_000_000 * 10**9
RECORD = AuditRecord(BASE_NS, "plugin.api", "u", "p", "a", "success", {})
TAKEN = ["audit.*", "all but the databases", "keys too", "older copy", "other chain"]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def call(daemon: Daemon, count: int) -> None:
    with Client(daemon.endpoint) as client:
        for _ in range(count):
            client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})


def verified(daemon: Daemon) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "apex_exec", "audit", "verify", "--json", "--config",
                           str(daemon.config_file)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    return found


def take(state: Path, copy: Path, how: str) -> None:
    """What an attacker with the state folder does while the daemon is down."""
    for path in [*state.glob("audit.*"), *([] if how == "audit.*" else state.glob("ledger.anchor"))]:
        path.unlink()
    if how == "keys too":
        for path in (state / "keys").glob("audit*"):
            path.unlink()
    if how == "older copy":
        for path in copy.iterdir():
            shutil.copy(path, state / path.name)
    if how == "other chain":
        store = AuditStore(state / "audit.db", state)
        store.append([RECORD] * 500)
        store.close()


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.slow) for how in TAKEN])
def test_a_ledger_that_was_taken_away_or_set_back_shows(daemon: Daemon, tmp_path: Path, how: str) -> None:
    daemon.start_registrar()
    call(daemon, 10)
    daemon.stop()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in [*daemon.state.glob("audit.*"), daemon.state / "ledger.anchor"]:
        shutil.copy(path, copy / path.name)
    daemon.start()
    call(daemon, 20)
    daemon.stop()
    assert verified(daemon)["ok"]
    head = end_of(daemon.state / "audit.db")
    for name in ("registry.db", "market.db"):  # what the last second brought is there too: it was a clean stop
        noted = noted_at(f"sqlite:///{daemon.state}/{name}", daemon.state)
        assert noted is not None and head is not None and head[0] - noted[0] < 5
    take(daemon.state, copy, how)
    if how == "audit.*":  # the anchor beside it refuses this one at the start
        assert not verify(daemon.state / "audit.db", daemon.state, elsewhere={"the registry": head or (0, b"")}).last
        return
    assert not verified(daemon)["ok"]
    daemon.start()
    wait_for(lambda: daemon.get("/readyz")[0] == 503, 10, "the finding")
    assert "recorded" in daemon.get("/readyz")[1] and "audit accept" in daemon.log
    assert not verified(daemon)["ok"]
    call(daemon, 60)  # going on does not hide it, nor does another start
    daemon.stop()
    assert not verified(daemon)["ok"]
    daemon.start()
    wait_for(lambda: daemon.get("/readyz")[0] == 503, 10, "the finding")
    with AdminClient(daemon.admin) as client:
        with pytest.raises(CallError):
            client.request("audit.accept", {"reason": " "})
        client.request("audit.accept", {"reason": "a drill"})
    wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "the end of it")
    assert any(event.action == "audit.accept" for event in read_events(daemon.state / "audit.db"))
    daemon.stop()
    assert verified(daemon)["ok"]


@pytest.mark.parametrize("at", [1, 40])
def test_a_head_that_two_places_tell_differently_is_a_finding(tmp_path: Path, at: int) -> None:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    store.append([RECORD] * 40)
    store.close()
    right = end_of(tmp_path / "audit.db")
    assert right is not None
    assert verify(tmp_path / "audit.db", tmp_path, elsewhere={"the registry": right}).finding is None
    for wrong in ((at, b"\x01" * 32), (41, b"\x01" * 32)):
        found = verify(tmp_path / "audit.db", tmp_path, elsewhere={"the market": wrong}).finding
        assert found is not None and "the market" in found.message
