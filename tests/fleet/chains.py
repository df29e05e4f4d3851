"""Ledgers of several daemons without the daemons, and a process that ships one of them until it is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.records import AuditRecord
from tests.market.shops import at

USERS = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(1, 9)]
SHIPS = """
import sys, time
from pathlib import Path
from apex_exec.errors import Refusal
from apex_exec.market.money import shipping
from apex_exec.market.store import open_market
shipping.SEGMENT_EVENTS_MAX = int(sys.argv[4])
while True:
    try:
        engine = open_market(sys.argv[1])
        one = shipping.Shipper(engine, Path(sys.argv[2]), Path(sys.argv[2]) / "audit.db", sys.argv[3], time.time_ns)
        while True:
            one.ship()
            print("shipped", flush=True)
            time.sleep(0.02)
    except Refusal as error:
        if error.reason != "store_unusable":
            print(error.reason, error.message, flush=True)
            raise
        time.sleep(0.05)
"""


class Ledger:
    """One daemon's ledger, and the sums of what was written into it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.state = name, folder / name
        self.calls: Counter[tuple[str, str]] = Counter()
        """(user, month) → calls that count."""
        self.cpu_us = 0
        self.length = 0
        """How many events it has."""

    @property
    def database(self) -> Path:
        return self.state / "audit.db"

    def write(self, count: int, day: str = "2026-10-05", seed: int = 0, users: Sequence[str] = USERS) -> None:
        """Adds events of ``day``."""
        chance = random.Random(f"{self.name}{seed}")
        records = []
        for _ in range(count):
            user, ran, cpu_ms = chance.choice(users), chance.random() < 0.8, chance.randrange(1, 50)
            records.append(AuditRecord(
                at(day) + chance.randrange(10**9), "plugin.execution", user, "sums", "onDataFetch",
                "success" if ran else "failure",
                {"executionTimeMs": 5.0, "cpuMs": float(cpu_ms)} if ran else {"code": "OVERLOADED"}))
            if ran:
                self.calls[user, day[:7]] += 1
                self.cpu_us += cpu_ms * 1000
        store = AuditStore(self.database, self.state)
        store.append(records)
        store.close()
        self.length += count

    def ships(self, url: str, segment: int = 50) -> subprocess.Popen[str]:
        """A process that ships it."""
        return subprocess.Popen([sys.executable, "-c", SHIPS, url, str(self.state), self.name, str(segment)],
                                stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9, wherever it is."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
