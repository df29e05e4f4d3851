"""A report or a closing may take longer than its caller waits: it has an id, a state, a progress and a true outcome."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import AdminClient, AdminRefused, CallError, ConnectionLost
from apex_exec.daemon.administration.registrar import CRASH_VARIABLE
from apex_exec.errors import Refusal
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.market import long_operations
from tests.market.shops import USER, Market, at
from tests.support.daemon import Daemon, wait_for

BATCH = 5000


def fill(state: Path, month: str, events: int) -> None:
    """A ledger with ``events`` calls on the tenth of ``month``."""
    state.mkdir(parents=True, exist_ok=True)
    store = AuditStore(state / "audit.db", state)
    begin_ns = at(f"{month}-10")
    for start in range(0, events, BATCH):
        store.append([AuditRecord(begin_ns + number * 1_000_000, "plugin.execution", USER, "sums", "onDataFetch",
                                  "success", {"executionTimeMs": 5.0, "cpuMs": 1.0})
                      for number in range(start, min(start + BATCH, events))])
    store.write_head()
    store.close()


@pytest.fixture
def market(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    monkeypatch.setattr(long_operations, "ANSWER_SECONDS", 0.0)
    made = Market(tmp_path, url)
    made.now_ns = at("2026-11-02")
    yield made
    made.close()


def ended(ask: Callable[[str], Any], operation: str, seconds: float = 60.0) -> tuple[dict[str, Any], list[Any]]:
    """The outcome of an operation, and the progress that was seen on the way."""
    seen: list[Any] = []
    due = time.monotonic() + seconds
    while (found := ask(operation))["state"] == "running":
        seen.append(found["progress"])
        assert time.monotonic() < due, f"still {found}"
        time.sleep(0.01)
    return found, seen


def test_what_takes_longer_answers_with_an_id_by_which_its_progress_and_its_outcome_are_told(market: Market) -> None:
    fill(market.settings.state_path, "2026-10", 30_000)

    def status(operation: str) -> Any:
        return market("billing.status", operation=operation)

    asked = market("billing.close", month="2026-10")
    assert asked["state"] == "running" and asked["op"] == "billing.close" and asked["month"] == "2026-10"
    assert market("billing.close", month="2026-10", author="somebody")["operation"] == asked["operation"]
    report = market("billing.report", month="2026-10")
    assert report["operation"] != asked["operation"]
    done, seen = ended(status, asked["operation"])
    assert done["state"] == "done" and done["refusal"] is None and done["result"]["status"] == "closed"
    assert [row["calls"] for row in done["result"]["usage"]] == [30_000]
    step = ("verifying the ledger", 30_000)
    assert step in {(one["step"], one["of"]) for one in seen}, seen
    counts = [one["events"] for one in seen if one["step"] == step[0]]
    assert counts == sorted(counts) and counts[-1] > 0
    assert done["progress"]["step"] == "writing"
    with pytest.raises(Refusal) as caught:
        market("billing.close", month="2026-10")
    assert caught.value.reason == "month_closed"
    assert market("billing.report", month="2026-10") == done["result"], "a closed month is answered at once"
    assert ended(status, report["operation"])[0]["state"] == "done"
    assert {one["op"] for one in market("billing.status")} == {"billing.close", "billing.report"}
    assert [action for _, action, _ in market.audited] == ["billing.close.committed"]

    closing = market.operations.lasting._again["billing.close"]
    again = long_operations.Lasting(market.shop, {}, {"billing.close": closing})
    assert again.status(asked["operation"])["result"]["lines"] == done["result"]["lines"], "another process knows it"


def test_what_cannot_be_done_is_told_as_failed_with_its_reason_and_closes_nothing(market: Market) -> None:
    fill(market.settings.state_path, "2026-10", 2_000)
    (market.settings.state_path / "audit.head").unlink()
    asked = market("billing.close", month="2026-10")
    failed, _ = ended(lambda number: market("billing.status", operation=number), asked["operation"])
    assert (failed["state"], failed["refusal"]["reason"], failed["result"]) == ("failed", "ledger_damaged", None)
    assert "audit verify" in failed["refusal"]["hint"]
    report = market("billing.report", month="2026-10")
    assert ended(lambda number: market("billing.status", operation=number), report["operation"])[0]["result"][
        "status"] == "open"
    with pytest.raises(Refusal) as caught:
        market("billing.status", operation="close-2026-10-00000000")
    assert caught.value.reason == "operation_unknown"


def test_no_more_than_so_many_wait_and_the_store_keeps_the_latest(market: Market,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_operations, "OPEN_MAX", 3)
    monkeypatch.setattr(long_operations, "ROWS_MAX", 5)
    go = threading.Event()
    works = {"billing.report": lambda _running: go.wait(20)}
    few = long_operations.Lasting(market.shop, works, {})
    args = [long_operations.Month(month=f"2026-0{number}") for number in range(1, 9)]
    first = [few.ask(market.context, "billing.report", one)["operation"] for one in args[:3]]
    with pytest.raises(Refusal) as caught:
        few.ask(market.context, "billing.report", args[3])
    assert caught.value.reason == "billing_busy"
    assert few.ask(market.context, "billing.report", args[2])["operation"] == first[2]
    go.set()
    for one in args[3:]:
        wait_for(lambda: not few._open, 10, "the end of those before")
        few.ask(market.context, "billing.report", one)
    wait_for(lambda: not few._open, 10, "the end of all")
    assert len(few.status("")) == 5


# ---------------------------------------------------------------- real daemons
LAST = f"{datetime.now(UTC).replace(day=1) - timedelta(days=1):%Y-%m}"
EVENTS = 300_000


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("d")
    fill(folder / "state", LAST, EVENTS)
    with Daemon(folder, None) as running:
        yield running


def registrar(daemon: Daemon) -> psutil.Process:
    """The process that has the market's store open."""
    (found,) = (one for one in daemon.family()
                if any(file.path.endswith("/market.db") for file in one.open_files()))
    return found


def begun(admin: AdminClient) -> dict[str, Any]:
    """A closing that goes on."""
    asked: dict[str, Any] = admin.request("billing.close", {"month": LAST})
    assert asked.get("state") == "running", "the ledger is too short for this test"
    return asked


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_time_out_hides_no_closing_and_nobody_else_waits_for_it(daemon: Daemon) -> None:
    with AdminClient(daemon.admin) as admin:
        with pytest.raises(ConnectionLost, match="no reply within"):
            admin.request("billing.close", {"month": LAST}, 200)
        asked = begun(admin)
        (listed,) = admin.request("billing.status")
        assert listed["operation"] == asked["operation"], "the second ask began another one"
        begin = time.monotonic()
        with pytest.raises(AdminRefused):
            admin.request("plugin.install", {"path": str(daemon.folder / "none")})  # the lane of installations
        with pytest.raises(AdminRefused):
            admin.request("plugin.disable", {"id": "none"})
        assert admin.request("billing.status", {"operation": asked["operation"]})["state"] == "running", (
            f"operations waited {time.monotonic() - begin:.1f} s for the closing")
        done, seen = ended(lambda number: admin.request("billing.status", {"operation": number}), asked["operation"])
        assert done["state"] == "done" and done["result"]["usage"][0]["calls"] == EVENTS
        assert {one["step"] for one in seen} <= {"verifying the ledger", "reading the month", "writing"}
        assert all(0 <= one["events"] <= one["of"] for one in seen) and any(one["events"] for one in seen)
        with pytest.raises(AdminRefused, match="is closed"):
            admin.request("billing.close", {"month": LAST})
        registrar(daemon).kill()
        wait_for(lambda: _answers(admin), 20, "another registrar")
        again = admin.request("billing.status", {"operation": asked["operation"]})
        assert (again["state"], again["result"]["lines"]) == ("done", done["result"]["lines"])
    daemon.stop()
    assert "billing.close.committed" in {event.action for event in read_events(daemon.state / "audit.db")
                                         if event.event_type == "admin.action"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_registrar_killed_in_the_middle_has_closed_nothing_and_says_so(daemon: Daemon) -> None:
    with AdminClient(daemon.admin) as admin:
        asked = begun(admin)
        registrar(daemon).kill()
        wait_for(lambda: _answers(admin), 20, "another registrar")
        found = admin.request("billing.status", {"operation": asked["operation"]})
        assert (found["state"], found["refusal"]["reason"]) == ("failed", "cut_off")
        assert "nothing was changed" in found["refusal"]["message"]
        waiting = subprocess.Popen(
            [sys.executable, "-m", "apex_exec", "billing", "close", "--month", LAST, "--runtime-dir",
             str(daemon.runtime)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        shown = waiting.stderr.readline()
        registrar(daemon).kill()
        said = waiting.communicate(timeout=40)[1]
        assert waiting.returncode == 1 and f"{shown.split()[0]} failed: the registrar ended in the middle" in said
        second = begun(admin)
        assert second["operation"] != asked["operation"]
        done, _ = ended(lambda number: admin.request("billing.status", {"operation": number}), second["operation"])
        assert done["state"] == "done"
        assert admin.request("billing.status", {"operation": asked["operation"]})["state"] == "failed"


@pytest.mark.slow
def test_a_registrar_that_dies_after_the_commit_has_closed_the_month_and_says_so(
        tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("d")
    fill(folder / "state", LAST, 100)
    with Daemon(folder, None, env={CRASH_VARIABLE: "month-closed"}) as daemon, AdminClient(daemon.admin) as admin:
        with pytest.raises(CallError, match="check whether it took effect"):
            admin.request("billing.close", {"month": LAST})
        wait_for(lambda: _answers(admin), 20, "another registrar")
        (listed,) = admin.request("billing.status")
        found = admin.request("billing.status", {"operation": listed["operation"]})
        assert (listed["state"], found["state"], found["result"]["status"]) == ("done", "done", "closed")
        assert found["result"]["usage"][0]["calls"] == 100


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_line_waits_with_progress_or_prints_the_id_or_says_how_to_go_on(daemon: Daemon) -> None:
    def cli(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "apex_exec", "billing", *arguments, "--runtime-dir",
                                 str(daemon.runtime)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    stopped = cli("close", "--month", LAST)
    assert stopped.stderr is not None
    line = stopped.stderr.readline()
    number = line.split()[0]
    assert re.fullmatch(rf"close-{LAST}-[0-9a-f]{{8}} …\n", line), line
    stopped.stderr.readline()
    os.kill(stopped.pid, signal.SIGINT)
    said = stopped.communicate(timeout=20)[1]
    assert f"apex-exec billing status {number}" in said and stopped.returncode == 130
    printed = cli("close", "--month", LAST, "--no-wait")
    assert printed.communicate(timeout=20)[0].strip() == number and printed.returncode == 0
    ours, theirs = pty.openpty()
    waited = subprocess.Popen([sys.executable, "-m", "apex_exec", "billing", "close", "--month", LAST, "--runtime-dir",
                               str(daemon.runtime)], stdout=subprocess.PIPE, stderr=theirs, text=True,
                              env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    out = waited.communicate(timeout=60)[0]
    progress = os.read(ours, 65536).decode()
    os.close(ours)
    assert waited.returncode == 0 and f"{LAST} (closed): platform" in out, progress
    moved = set(re.findall(rf"{number}: [a-z ]+, ([0-9,]+) of [0-9,]+ events", progress))
    assert len(moved) > 1 and "\r\x1b[K" in progress, progress
    status = cli("status", number)
    assert f"{number}: done\n{LAST} (closed): platform" in status.communicate(timeout=20)[0]


def _answers(admin: AdminClient) -> bool:
    try:
        admin.request("billing.status", {}, 2000)
    except (AdminRefused, ConnectionLost):
        return False
    except Exception as error:  # noqa: BLE001 - the registrar is being restarted
        assert "registrar" in str(error) or "registry" in str(error), error
        return False
    return True
