"""What an operator and an auditor do with the ledger from the command line, without a daemon."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.ledger import reading
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.reading import Filter, last_seqs, read_events
from apex_exec.ledger.records import AuditRecord

USER = "11111111-2222-4333-8444-555555555555"
NOV_NS = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * 10**9
JULY_NS = int(datetime(2026, 7, 1, tzinfo=UTC).timestamp()) * 10**9
COMMAND = [sys.executable, "-m", "apex_exec", "audit"]


def audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "APEX_EXEC_STATE_DIR": str(folder)})


def event(kind: str, plugin: str, action: str, result: str = "success", at_ns: int = NOV_NS, **metadata: object,
          ) -> AuditRecord:
    return AuditRecord(at_ns, kind, USER, plugin, action, result, metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    store.append([
        event("plugin.execution", "alpha", "onDataFetch", at_ns=JULY_NS, executionTimeMs=1.0),
        event("plugin.execution", "alpha", "onDataFetch", executionTimeMs=1500.0),
        event("plugin.execution", "alpha", "onDataFetch", "failure", executionTimeMs=5000.0, code="TIMEOUT"),
        event("plugin.execution", "beta", "onDataFetch", "failure", executionTimeMs=1.0, code="MEMORY_LIMIT"),
        event("access.denied", "beta", "query", "denied"),
        event("security.rate_limit", "beta", "fetch", "denied"),
        event("data.modification", "beta", "update"),
        event("security.anomaly", "beta", "breaker", state="open"),
        event("admin.action", "beta", "plugin.approve", uid=0, args={"id": "beta", "signature": "00"}, outcome={
            "permission": "admin:users", "version": "1.0.0", "keyId": "carol", "reason": "ticket 4711",
            "expiresNs": NOV_NS + 90 * 86_400 * 10**9}),
        event("admin.action", "=cmd()", "plugin.install"),
    ])
    store.close()
    return tmp_path


@pytest.mark.slow
def test_verify_says_that_all_is_well_and_prints_a_head_that_it_finds_again(folder: Path) -> None:
    done = audit(folder, "verify")
    assert done.returncode == 0 and "10 events are as they were written, 1 to 10" in done.stdout, done
    head = done.stdout.split("head ")[1].strip()
    assert audit(folder, "verify", "--head", head).returncode == 0
    cut = audit(folder, "verify", "--head", f"11:{head.partition(':')[2]}")
    assert cut.returncode == 1 and "truncated at event 11" in cut.stderr
    assert audit(folder, "verify", "--head", "nonsense").returncode == 2


def test_verify_says_which_event_was_changed(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "audit.db")) as db:
        db.execute("UPDATE events SET body = replace(body, 'TIMEOUT', 'TIMEIN') WHERE seq = 3")
        db.commit()
    done = audit(folder, "verify")
    assert done.returncode == 1 and "edited at event 3" in done.stderr
    found = json.loads(audit(folder, "verify", "--json").stdout)
    assert not found["ok"] and found["finding"]["seq"] == 3


@pytest.mark.slow
def test_a_folder_without_a_ledger_is_said_in_one_line(tmp_path: Path) -> None:
    for verb in (["tail"], ["export"], ["verify"], ["report", "--quarter", "2026Q4"]):
        done = audit(tmp_path, *verb)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, (verb, done)
    assert not (tmp_path / "keys").exists(), "reading makes nothing"


@pytest.mark.slow
def test_export_writes_the_events_that_were_asked_for(folder: Path) -> None:
    lines = audit(folder, "export", "--since", "2026-10-01", "--plugin", "beta").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [4, 5, 6, 7, 8, 9]
    denied = audit(folder, "export", "--type", "access.denied", "--type", "security.rate_limit").stdout.splitlines()
    assert [json.loads(line)["action"] for line in denied] == ["query", "fetch"]
    out = folder / "out.jsonl"
    assert audit(folder, "export", "--until", "2026-10-01", "-o", str(out)).returncode == 0
    assert json.loads(out.read_text())["timestamp"] == "2026-07-01T00:00:00.000000000Z"
    assert audit(folder, "export", "--type", "nonsense").returncode == 2
    assert audit(folder, "export", "--since", "yesterday").returncode == 2


@pytest.mark.slow
def test_tail_shows_the_latest_and_follows(folder: Path) -> None:
    done = audit(folder, "tail", "-n", "2")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["9", "10"]
    assert audit(folder, "tail", "-n", "1", "--plugin", "alpha").stdout.split()[0] == "3"
    follower = subprocess.Popen([*COMMAND, "tail", "-n", "1", "--follow", "--json"], stdout=subprocess.PIPE, text=True,
                                env={**os.environ, "APEX_EXEC_STATE_DIR": str(folder)})
    try:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["seq"] == 10
        store = AuditStore(folder / "audit.db", folder)
        store.append([event("plugin.execution", "alpha", "onDataFetch")])
        begun = time.monotonic()
        assert json.loads(follower.stdout.readline())["seq"] == 11 and time.monotonic() - begun < 5
        store.close()
    finally:
        follower.kill()
        follower.communicate()


@pytest.mark.slow
def test_report_is_the_quarterly_review(folder: Path) -> None:
    rows = {row["plugin"]: row for row in json.loads(audit(folder, "report", "--quarter", "2026Q4", "--json").stdout)[
        "plugins"]}
    alpha, beta = rows["alpha"], rows["beta"]
    assert (alpha["executions"], alpha["failed"], alpha["timeouts"], alpha["users"]) == (2, 1, 1, 1)
    assert alpha["executionSeconds"] == 6.5, "July is another quarter"
    assert (beta["denials"], beta["rateLimits"], beta["memoryLimits"], beta["dataChanges"]) == (1, 1, 1, 1)
    assert beta["quarantines"] == 1 and len(beta["quarantinedAt"]) == 1
    assert beta["approvals"] == [{"at": "2026-11-24T00:00:00.000000000Z", "decision": "approved", "by": USER,
                                  "permission": "admin:users", "version": "1.0.0", "key": "carol",
                                  "reason": "ticket 4711", "expiresAt": "2027-02-22T00:00:00Z"}]
    table = audit(folder, "report", "--quarter", "2026Q4").stdout
    assert "admin:users approved 2026-11-24, until 2027-02-22" in table
    as_csv = list(csv.DictReader(io.StringIO(audit(folder, "report", "--quarter", "2026q4", "--csv").stdout)))
    assert [row["plugin"] for row in as_csv] == ["'=cmd()", "alpha", "beta"], "no cell that a spreadsheet would run"
    assert audit(folder, "report", "--quarter", "2026").returncode == 2
    assert "no events" in audit(folder, "report", "--quarter", "2020Q1").stderr


@pytest.mark.slow
def test_what_is_rare_is_found_without_reading_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    rare = {3: "rare", 9_000: "rare", 12_000: "\"é\\"}
    for begin in range(1, 25_001, 1000):
        store.append([event("plugin.cpu" if seq in rare else "plugin.execution", rare.get(seq, "usual"), "x", n="rare")
                      for seq in range(begin, begin + 1000)])
    store.close()
    fetched = []
    real = reading.read_rows

    def counted(*arguments: Any, **more: Any) -> Any:
        for row in real(*arguments, **more):
            fetched.append(row[0])
            yield row
    monkeypatch.setattr(reading, "read_rows", counted)
    database = tmp_path / "audit.db"
    for wanted, found in ((Filter(plugin="rare"), [3, 9_000]), (Filter(plugin="\"é\\"), [12_000]),
                          (Filter(event_types={"plugin.cpu"}), [3, 9_000, 12_000]), (Filter(plugin="none"), []),
                          (Filter(plugin="rare", event_types={"plugin.cpu", "admin.action"}, user=USER), [3, 9_000]),
                          (Filter(plugin="rare", event_types={"admin.action"}), [])):
        for count in (1, 2, 50):
            fetched.clear()
            after, last = last_seqs(database, wanted, count)
            got = [one.seq for one in read_events(database, msgspec.structs.replace(wanted, after_seq=after))]
            assert got == found[-count:] and last == 25_000
            assert len(fetched) <= 3 * 2, fetched[:10]
    fetched.clear()
    assert last_seqs(database, Filter(), 20) == (24_980, 25_000) and len(fetched) <= 1000
    lines = audit(tmp_path, "tail", "--plugin", "rare").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "9000"]
