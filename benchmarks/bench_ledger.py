"""The ledger alone: events committed per second through its process, and events verified per second."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from apex_exec.daemon.side_process import SideProcess
from apex_exec.ledger.process import main as ledger_main
from apex_exec.ledger.reading import Filter, read_events
from apex_exec.ledger.records import AuditRecord, ExecutionMetadata, encode_lines
from apex_exec.ledger.verify import verify

USER = "11111111-2222-4333-8444-555555555555"
BATCH = 64


def record(number: int) -> AuditRecord:
    """What the loop records for one invocation."""
    return AuditRecord(time.time_ns(), "plugin.execution", USER, "custom-analytics", "onDataFetch", "success",
                       ExecutionMetadata(0.123 + number % 7, 14.5))


def process_rate(folder: Path, durability: str, events: int, batch: int) -> tuple[float, float]:
    """(events per second handed over in batches until the last is committed, CPU µs of the ledger per event)."""
    committed = 0

    def on_message(message: list[object]) -> None:
        nonlocal committed
        if message[0] == "committed":
            committed = message[1]  # type: ignore[assignment]  # an int, by the link's protocol
        elif message[0] == "failing":
            raise SystemExit(f"the ledger fails: {message[1]}")

    side = SideProcess("ledger", ledger_main, {
        "state_dir": str(folder), "url": "sqlite:///<state_dir>/audit.db", "durability": durability,
        "retention_days": 400, "min_free_bytes": 0, "trail": "bench"}, on_message=on_message)
    side.start(time.monotonic_ns())
    sent = 0

    def hand_over() -> None:
        nonlocal sent
        lines = encode_lines([record(sent + n) for n in range(batch)])
        sent += batch
        while not side.send(["batch", sent, lines, []]):
            side.receive(time.monotonic_ns())

    hand_over()
    while committed < sent:
        side.receive(time.monotonic_ns())
        time.sleep(0.001)
    ticks = _ticks(side.pid)
    begun = time.perf_counter()
    target = sent + events
    while committed < target:
        if sent < target and sent - committed < 50_000 and (durability == "group" or sent == committed):
            hand_over()
        else:
            time.sleep(0.0005)
        side.flush()
        side.receive(time.monotonic_ns())
    took = time.perf_counter() - begun
    cpu = (_ticks(side.pid) - ticks) / os.sysconf("SC_CLK_TCK")
    side.close(10)
    return (target - batch) / took, cpu / events * 1e6


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def recording_cost(events: int) -> float:
    """µs of the loop per event: the record made, and its share of the encoding."""
    best = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(events // BATCH):
            encode_lines([record(n) for n in range(BATCH)])
        best.append((time.perf_counter() - begun) / (events // BATCH * BATCH) * 1e6)
    return statistics.median(best)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, float] = {"loop_us_per_event": recording_cost(arguments.events // 4)}
    with tempfile.TemporaryDirectory(prefix="apx") as name:
        folder = Path(name)
        figures["group_events_per_s"], figures["ledger_us_per_event"] = process_rate(
            folder, "group", arguments.events, BATCH)
        figures["strict_commits_per_s"], _ = process_rate(folder, "strict", min(500, arguments.events), 1)
        begun = time.perf_counter()
        result = verify(folder / "audit.db", folder)
        if result.finding is not None:
            raise SystemExit(f"the chain is broken: {result.finding.message}")
        figures["verify_events_per_s"] = result.last / (time.perf_counter() - begun)
        begun = time.perf_counter()
        count = sum(1 for _ in read_events(folder / "audit.db", Filter(plugin="custom-analytics")))
        figures["read_events_per_s"] = count / (time.perf_counter() - begun)
        figures["bytes_per_event"] = (folder / "audit.db").stat().st_size / result.last
    if arguments.json:
        print(json.dumps(figures))
        return
    for key, figure in figures.items():
        print(f"{key:<24}{figure:>14,.2f}")


if __name__ == "__main__":
    main()
