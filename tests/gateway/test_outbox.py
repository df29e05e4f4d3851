"""A write and its audit record: both or neither, and the record once, whichever process is killed and when."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from apex_exec.client import Client
from apex_exec.errors import ApexError
from apex_exec.gateway.sql.tables import OUTBOX
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import ALL, bundle, gateway_of, ledger_of
from tests.gateway.conftest import ROLE, TABLES, A, postgres_data, sqlite_data
from tests.support.daemon import Daemon, wait_for


class Site:
    """A daemon with a database behind it, and what that database holds."""

    def __init__(self, folder: Path, url: str, ask: Any) -> None:
        self.ask = ask
        bundle(folder / "plugins", "writer", ALL, data={"tables": ["notes"]})
        self.daemon = Daemon(folder / "d", folder / "plugins", {
            "data.url": url, "data.tables": TABLES, "sandbox.min_level": "L0", "breaker.ends": 1000,
            "audit.durability": "group"})

    def records(self) -> int:
        return sum(event.event_type == "data.modification" and event.result == "success"
                   for event in read_events(self.daemon.state / "audit.db"))


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    if request.param == "sqlite":
        sqlite_data(folder / "data.db").close()

        def ask(text: str) -> int:
            with contextlib.closing(sqlite3.connect(folder / "data.db", timeout=10)) as database:
                return int(database.execute(text).fetchone()[0])

        url = f"sqlite:///{folder}/data.db"
    else:
        server = request.getfixturevalue("postgres")
        postgres_data(server, "outbox").close()

        def ask(text: str) -> int:
            with psycopg.connect(f"host={server.folder} dbname=outbox user=postgres") as database:
                row = database.execute(text).fetchone()  # type: ignore[arg-type]  # the row is known to be there
                return int(row[0]) if row else 0

        url = f"postgresql+psycopg://{ROLE}@/outbox?host={server.folder}"
    made = Site(folder, url, ask)
    yield made
    made.daemon.stop()
    shutil.rmtree(folder, ignore_errors=True)


def write_until(site: Site, stop: threading.Event, lane: int, numbers: Iterator[int]) -> None:
    """Inserts notes as fast as it goes; whatever breaks, it connects again and goes on."""
    while not stop.is_set():
        with contextlib.suppress(ApexError, RuntimeError), Client(site.daemon.endpoint) as client:
            while not stop.is_set():
                steps = [{"api": "insert", "args": {"table": "notes", "values": {"id": next(numbers), "text": "w"}}}
                         for _ in range(3)]
                client.invoke("writer", "onActionExecute", A, {"action": "x", "context": {"steps": steps}}, 1500)
        time.sleep(0.05)


@pytest.mark.slow
def test_each_committed_write_is_on_record_once_across_kills(site: Site) -> None:
    stop = threading.Event()
    lanes = [threading.Thread(target=write_until, args=(site, stop, lane, iter(range(10_000 + lane * 100_000, 10**9))))
             for lane in range(3)]
    for lane in lanes:
        lane.start()
    try:
        for victim in ("gateway", "ledger", "daemon", "gateway", "daemon"):
            before = site.ask("SELECT count(*) FROM notes WHERE text = 'w'")
            wait_for(lambda before=before: site.ask("SELECT count(*) FROM notes WHERE text = 'w'") > before + 20, 40)
            if victim == "daemon":
                site.daemon.kill()
                site.daemon.start()
            else:
                (gateway_of if victim == "gateway" else ledger_of)(site.daemon).kill()
        time.sleep(0.5)
    finally:
        stop.set()
        for lane in lanes:
            lane.join(20)
    wait_for(lambda: site.ask(f"SELECT count(*) FROM {OUTBOX}") == 0, 40, "the outbox being empty")
    written = site.ask("SELECT count(*) FROM notes WHERE text = 'w'")
    wait_for(lambda: site.records() >= written, 20, "every record")
    assert site.records() == written > 100
