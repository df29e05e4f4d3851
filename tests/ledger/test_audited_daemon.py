"""A real daemon's ledger: each admitted invocation is one event, whatever dies, and no record means no work."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.ledger.reading import Event, read_events
from apex_exec.ledger.verify import verify
from tests.support import need
from tests.support.caller import Caller, outcome
from tests.support.daemon import USER, Daemon, wait_for
from tests.support.faulty import write_steady

PLUGIN = "action-router"
LOAD_CALLS = 1500
LATE_SECONDS = 0.050


def call(caller: Caller, number: int | str, plugin: str = PLUGIN) -> int:
    return caller.send(type="invoke", plugin=plugin, action="onActionExecute", userId=USER, traceparent=f"t-{number}",
                       payload={"action": "echo", "context": {}})


def events_of(daemon: Daemon) -> list[Event]:
    assert verify(daemon.state / "audit.db", daemon.state).finding is None
    return list(read_events(daemon.state / "audit.db"))


def traces(daemon: Daemon) -> Counter[str]:
    return Counter(e.metadata["traceparent"] for e in events_of(daemon) if "traceparent" in e.metadata)


def ledger_process(daemon: Daemon) -> psutil.Process:
    """The one that holds the database's lock file open."""
    for child in psutil.Process(daemon.pid).children():
        if any(file.path.endswith("audit.db.lock") for file in child.open_files()):
            return child
    raise AssertionError("no ledger process")


def refused(caller: Caller) -> bool:
    asked = call(caller, "refused?")
    due = time.monotonic() + 1
    while not caller.replies[asked]:  # the replies to calls before it may come meanwhile
        if not caller.socket.poll(max(0, int((due - time.monotonic()) * 1000))):
            return False  # it ran before the ledger stood still, and its reply waits for its record
        caller.take()
    reply = caller.only(asked)
    assert outcome(reply) in ("ok", "AUDIT_UNAVAILABLE"), reply
    if outcome(reply) == "ok":
        return False
    assert reply["retryable"] and not reply["started"]
    return True


def test_every_outcome_is_an_event_and_the_last_one_too(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"breaker.ends": 100}) as daemon:
        with Caller(daemon.endpoint) as caller:
            ids = [call(caller, 0), call(caller, 1, "crasher"), call(caller, 2, "nobody")]
            codes = [outcome(reply) for reply in caller.collect(ids)]
            assert codes == ["ok", "WORKER_CRASHED", "PLUGIN_NOT_FOUND"]
            caller.collect([caller.send(type="dispatch", action="onDashboardLoad", userId=USER, traceparent="t-3",
                                        payload={"dashboardId": "d"})])
            daemon.operate("daemon.status")
            caller.collect([call(caller, "last")])
        assert daemon.stop() == 0
        events = events_of(daemon)
        by_trace = {e.metadata.get("traceparent"): e for e in events if e.event_type == "plugin.execution"}
        good = by_trace["t-0"]
        assert (good.user_id, good.resource, good.action, good.result) == (USER, PLUGIN, "onActionExecute", "success")
        assert set(good.metadata) - {"cpuMs", "hostCpuMs"} == {"executionTimeMs", "memoryUsedMb", "traceparent"}
        assert good.metadata["executionTimeMs"] > 0
        assert abs(datetime.fromisoformat(good.timestamp).timestamp() - time.time()) < 120
        assert (by_trace["t-1"].result, by_trace["t-1"].metadata["code"]) == ("failure", "WORKER_CRASHED")
        assert "t-2" not in by_trace, "it was not admitted"
        dispatched = {e.resource for e in events if e.action == "onDashboardLoad"}
        assert dispatched >= {"hello-world", "custom-analytics"}
        assert by_trace["t-last"].seq == max(e.seq for e in by_trace.values()), "a clean stop loses nothing"


@contextmanager
def unwritable(daemon: Daemon, how: str) -> Iterator[None]:
    if how == "locked":
        with closing(sqlite3.connect(daemon.state / "audit.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            yield
            blocker.execute("ROLLBACK")
        return
    if how == "slow":
        process = ledger_process(daemon)
        process.suspend()
        yield
        process.resume()
        return
    filler = daemon.state / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    yield
    filler.unlink()


def test_who_only_looks_is_answered_while_the_ledger_is_slow(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, Caller(daemon.endpoint) as caller:
        call(caller, "a record that is not committed")
        with unwritable(daemon, "slow"), AdminClient(daemon.admin) as admin:
            wait_for(lambda: refused(caller), 10, "a refusal")
            assert admin.request("daemon.status")["plugins"]
            with pytest.raises(CallError) as caught:
                admin.request("daemon.reload")
            assert caught.value.code == "AUDIT_UNAVAILABLE"


@pytest.mark.parametrize("how", ["locked", "slow", "full"])
@pytest.mark.slow
def test_without_a_record_no_work_is_done_and_it_goes_on_by_itself(tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    if how == "full":
        need(os.geteuid() == 0, "mounting a small file system needs root")
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", state], check=True)
    try:
        with Daemon(tmp_path) as daemon, Caller(daemon.endpoint) as caller:
            assert not refused(caller)
            with unwritable(daemon, how):
                wait_for(lambda: refused(caller), 10, "refusal")
                wait_for(lambda: daemon.get("/readyz")[0] == 503 and "audit" in daemon.get("/readyz")[1], 5, "readyz")
                daemon.wait_metric("audit_writable", 0)
                begun = time.monotonic()
                assert refused(caller) and time.monotonic() - begun < 1, "the answer is immediate"
            wait_for(lambda: not refused(caller), 10, "work")
            daemon.wait_metric("audit_writable", 1)
            wait_for(lambda: daemon.get("/readyz")[0] == 200, 5, "readyz")
            good = sum(outcome(reply[0]) == "ok" for reply in caller.replies.values())
            caller.settle()
            assert daemon.stop() == 0
            executed = [e for e in events_of(daemon) if e.event_type == "plugin.execution"]
            assert len(executed) == good, "a record for each execution, and none for what was refused"
    finally:
        if how == "full":
            subprocess.run(["umount", state], check=True)


class Load:
    """Calls from a thread, each with its own trace; when each reply was seen."""

    def __init__(self, endpoint: str) -> None:
        self.seen: dict[int, float] = {}
        self.codes: Counter[str] = Counter()
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        waiting: dict[int, int] = {}
        with Caller(self._endpoint) as caller:
            while not self._stop.is_set():
                while len(waiting) < 32:
                    waiting[call(caller, number)] = number
                    number += 1
                if not caller.socket.poll(50):
                    continue
                id_ = caller.take()
                self.codes[outcome(caller.only(id_))] += 1
                if outcome(caller.only(id_)) == "ok":
                    self.seen[waiting[id_]] = time.monotonic()
                del waiting[id_]

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("durability", ["strict", "group"])
@pytest.mark.slow
def test_a_killed_supervisor_loses_no_event_that_it_promised(tmp_path: Path, durability: str) -> None:
    daemon = Daemon(tmp_path, config={"audit.durability": durability, "limits.cpu_percent": 100})
    family = daemon.family()
    with Load(daemon.endpoint) as load:
        wait_for(lambda: len(load.seen) > LOAD_CALLS, 60, "load")
        killed = time.monotonic()
        daemon.kill()
        time.sleep(0.3)
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 15, "the end")
    recorded = traces(daemon)
    assert max(recorded.values()) == 1, "no event twice"
    lost = [number for number in load.seen if f"t-{number}" not in recorded]
    if durability == "strict":
        assert not lost, f"{len(lost)} replies were seen whose events are lost"
    else:  # what was seen within the last 50 ms may be lost; a reply still under way counts from when it was read
        old = [number for number in lost if load.seen[number] < killed - LATE_SECONDS]
        assert not old, f"{len(old)} events older than 50 ms are lost"
    daemon.start()  # and the next daemon goes on with the same chain
    with daemon, Caller(daemon.endpoint) as caller:
        assert not refused(caller)
        assert daemon.stop() == 0
        assert len(events_of(daemon)) > sum(recorded.values())


@pytest.mark.slow
def test_a_killed_ledger_loses_and_doubles_nothing_under_load(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        with Load(daemon.endpoint) as load:
            for _ in range(3):
                before = len(load.seen)
                wait_for(lambda before=before: len(load.seen) > before + 300, 30, "load")  # type: ignore[misc]  # bound at once
                ledger_process(daemon).send_signal(signal.SIGKILL)
            before = len(load.seen)
            wait_for(lambda: len(load.seen) > before + 300, 30, "load")
        assert set(load.codes) <= {"ok", "AUDIT_UNAVAILABLE"}, load.codes
        assert daemon.stop() == 0
        recorded = traces(daemon)
        assert max(recorded.values()) == 1
        assert not [number for number in load.seen if f"t-{number}" not in recorded]


@pytest.mark.slow
def test_an_administrator_is_recorded_with_the_uid(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.operate("daemon.reload")
        assert daemon.stop() == 0
        (event,) = [e for e in events_of(daemon) if e.event_type == "admin.action" and e.action == "daemon.reload"]
        assert event.user_id == f"uid:{os.geteuid()}" and event.result == "success"


def test_strict_replies_wait_for_the_commit(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"audit.durability": "strict"}) as daemon, Caller(daemon.endpoint) as caller:
        assert not refused(caller)
        with unwritable(daemon, "slow"):
            waiting = call(caller, "strict")
            assert not caller.socket.poll(400), "a reply went before its record was durable"
        assert outcome(caller.collect([waiting])[0]) == "ok"


@pytest.mark.slow
def test_the_call_that_a_drain_waits_for_is_the_last_event(tmp_path: Path) -> None:
    steady = write_steady(tmp_path / "plugins")
    with Daemon(tmp_path, plugins=tmp_path / "plugins") as daemon, Caller(daemon.endpoint) as caller:
        assert outcome(caller.call(steady)) == "ok"
        last = caller.send(type="invoke", plugin=steady, action="onActionExecute", userId=USER, traceparent="t-drain",
                           payload={"action": "sleep", "context": {"seconds": 0.4}})
        time.sleep(0.2)
        daemon.signal(signal.SIGTERM)
        assert outcome(caller.collect([last])[0]) == "ok"
        assert daemon.stop() == 0
        assert events_of(daemon)[-1].metadata["traceparent"] == "t-drain"
