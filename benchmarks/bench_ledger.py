"""The audit ledger: events committed and verified per second, and what recording every call costs the loop."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.ledger import messages
from apex_exec.ledger.reading import Filter, read_events
from apex_exec.ledger.records import Execution
from apex_exec.ledger.verify import verify
from benchmarks.daemon import USER, Daemon, Host, serving, write_echo
from benchmarks.lab import Lab

TITLE = "Audit ledger"
BATCH = 64
EVENTS = 200_000
STRICT_COMMITS = 500
CALLS = 12_000
UNCOMMITTED_MAX = 50_000
WITHOUT = ("-c", "from apex_exec.daemon import absent, build; "
                 "build.AuditTrail = lambda *given, **more: absent.NoTrail(); "
                 "from apex_exec.__main__ import main; main()")
"""The same daemon with its ledger left unused, for comparison: no configuration does that."""


def run(lab: Lab) -> None:
    """Adds the rows."""
    lab.interleave({"the ledger alone": lambda: _alone(lab)})
    _in_the_daemon(lab)


def _record(number: int) -> Execution:
    """What the loop records for one invocation."""
    return (time.time_ns(), USER, "custom-analytics", "onDataFetch", "", 123_456 + number % 7 * 1_000_000, 14.5, "",
            98_765, 0)


def _alone(lab: Lab) -> None:
    events = lab.scaled(EVENTS)
    with tempfile.TemporaryDirectory(prefix="apx") as name:
        folder = Path(name)
        lab.add("ledger process, group", "events/s", "1/s", _process_rate(folder, "group", events, BATCH))
        commits = lab.scaled(STRICT_COMMITS)
        lab.add("ledger process, strict, one event a commit", "events/s", "1/s",
                _process_rate(folder, "strict", commits, 1))
        begun = time.perf_counter()
        result = verify(folder / "audit.db", folder)
        if result.finding is not None:
            raise SystemExit(f"the chain is broken: {result.finding.message}")
        lab.add("audit verify", "events/s", "1/s", result.last / (time.perf_counter() - begun))
        begun = time.perf_counter()
        count = sum(1 for _ in read_events(folder / "audit.db", Filter(plugin="custom-analytics")))
        lab.add("read_events, every event matches", "events/s", "1/s", count / (time.perf_counter() - begun))
        lab.add("the database", "bytes/event", "B", (folder / "audit.db").stat().st_size / result.last)
    begun = time.perf_counter()
    for _ in range(events // BATCH):
        msgspec.msgpack.encode([_record(n) for n in range(BATCH)])
    lab.add("recording and encoding", "µs/event", "µs", (time.perf_counter() - begun) / (events // BATCH * BATCH) * 1e6)


def _process_rate(folder: Path, durability: str, events: int, batch: int) -> float:
    """Events per second, from the first batch that is sent to the last commit that is reported."""
    committed = 0

    def on_index(message: messages.Ready | messages.Committed) -> None:
        nonlocal committed
        committed = message.last_index

    def on_failing(message: messages.Failing) -> None:
        raise SystemExit(f"the ledger fails: {message.reason}")

    side = SideProcess("ledger", "apex_exec.ledger.process:main", {
        "state_dir": str(folder), "url": "sqlite:///<state_dir>/audit.db", "durability": durability,
        "retention_days": 400, "min_free_bytes": 0, "trail": durability}, handlers={
            messages.Ready: on_index, messages.Committed: on_index, messages.Failing: on_failing,
            messages.Recovered: lambda _: None, messages.Warned: lambda _: None, messages.Stats: lambda _: None})
    side.start(time.monotonic_ns())
    sent = 0

    def hand_over() -> None:
        nonlocal sent
        sent += batch
        side.send(messages.Batch(sent, [_record(n) for n in range(batch)], []))

    hand_over()
    while committed < sent:  # it has started
        side.receive(time.monotonic_ns())
        time.sleep(0.001)
    begun = time.perf_counter()
    target = sent + events // batch * batch
    while committed < target:
        if sent < target and (sent - committed < UNCOMMITTED_MAX if durability == "group" else sent == committed):
            hand_over()
        else:
            time.sleep(0.0005)
        side.flush()
        side.receive(time.monotonic_ns())
    took = time.perf_counter() - begun
    side.close(10)
    return (target - batch) / took


def _in_the_daemon(lab: Lab) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apxp")))
        write_echo(folder, "echo-one")
        write_echo(folder, "echo-two")
        daemons = {
            "no record (to compare)": stack.enter_context(serving(folder, command=WITHOUT, limits__cpu_percent=100)),
            "group": stack.enter_context(serving(folder, limits__cpu_percent=100)),
            "strict": stack.enter_context(serving(folder, limits__cpu_percent=100, audit__durability="strict")),
        }
        hosts = {name: Host(daemon.endpoint) for name, daemon in daemons.items()}
        for host in hosts.values():
            stack.callback(host.close)
            host.rounds(["echo-one", "echo-two"], 1000, 8, {})
        lab.note("loop: CPU time of the supervisor's thread a call; the three daemons are measured in turn")
        for in_flight in (1, 64):
            calls = lab.scaled(CALLS if in_flight > 1 else CALLS // 6)
            lab.interleave({f"{name}, {in_flight} in flight": _round(lab, name, daemons[name], hosts[name], calls,
                                                                     in_flight) for name in daemons})
        lab.interleave({"a slow disk": lambda: _slow_disk(lab, daemons["group"], hosts["group"])})


def _round(lab: Lab, name: str, daemon: Daemon, host: Host, calls: int, in_flight: int) -> Callable[[], None]:
    def measure() -> None:
        begun_us = _cpu_us(daemon.pid)
        round_ = host.rounds(["echo-one", "echo-two"], calls, in_flight, {"n": 1})
        cpu_us = (_cpu_us(daemon.pid) - begun_us) / calls
        lab.add_round(f"daemon, {name}", round_, **{"in flight": in_flight})
        lab.add(f"daemon, {name}", "loop", "µs/call", cpu_us, **{"in flight": in_flight})

    return measure


def _slow_disk(lab: Lab, daemon: Daemon, host: Host) -> None:
    """The database is locked for 100 ms of every 150: the loop's lag meanwhile, by the daemon's own histogram."""
    time.sleep(1.0)
    before = _lag_buckets(daemon)
    done = threading.Event()

    def lock() -> None:
        with closing(sqlite3.connect(daemon.folder / "state" / "audit.db", isolation_level=None, timeout=5)) as db:
            while not done.wait(0.05):
                db.execute("BEGIN IMMEDIATE")
                time.sleep(0.1)
                db.execute("ROLLBACK")

    locker = threading.Thread(target=lock)
    locker.start()
    try:
        end = time.monotonic() + lab.scaled(5)
        while time.monotonic() < end:
            host.rounds(["echo-one", "echo-two"], 200, 16, {"n": 1})
    finally:
        done.set()
        locker.join()
    time.sleep(1.0)
    after = _lag_buckets(daemon)
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
    p99 = min(bound for bound, count in counts.items() if count >= 0.99 * counts[float("inf")])
    lab.add("daemon, group, its database locked 100 ms of 150", "loop lag p99 at most", "ms", p99 * 1000)


def _lag_buckets(daemon: Daemon) -> dict[float, float]:
    found = {}
    for line in daemon.metrics().splitlines():
        if line.startswith("apex_exec_loop_lag_seconds_bucket"):
            found[float(line.partition('le="')[2].partition('"')[0])] = float(line.rpartition(" ")[2])
    return found


def _cpu_us(pid: int) -> float:
    """CPU time of the process's first thread so far: the loop."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1000
