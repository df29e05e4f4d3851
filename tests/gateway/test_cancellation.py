"""When an invocation ends, what it was doing ends too: at the database, and at the HTTP peer; others go on."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from apex_exec.client import Client, protocol
from tests.gateway.bundles import ALL, bundle
from tests.gateway.conftest import ROLE, TABLES, A, postgres_data
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import Postgres

SLOW = "SELECT count(*) FROM " + ", ".join(f"orders a{n}" for n in range(16))


class Dripper:
    """An HTTP peer that sends its head and then one byte a second, and notes when a client leaves."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked, self.left = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._drip, args=(peer,), daemon=True).start()

    def _drip(self, peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        self.asked.set()
        peer.settimeout(1.0)
        while True:
            try:
                if not peer.recv(1):
                    break
            except TimeoutError:
                peer.sendall(b"x")
            except OSError:
                break
        self.left.set()


@pytest.fixture
def dripper() -> Iterator[Dripper]:
    made = Dripper()
    yield made
    made.listener.close()


@pytest.fixture
def daemon(postgres: Postgres, dripper: Dripper) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    postgres_data(postgres, "cancelling").close()
    more = {"data": {"tables": ["orders"]}, "network": {"allow": ["app.localhost"]}}
    bundle(folder / "plugins", "slow", ALL, **more)
    bundle(folder / "plugins", "other", ALL, **more)
    with Daemon(folder / "d", folder / "plugins", {
            "data.url": f"postgresql+psycopg://{ROLE}@/cancelling?host={postgres.folder}", "data.tables": TABLES,
            "fetch.allow": [f"app.localhost:{dripper.port}"], "fetch.allow_private": True,
            "sandbox.min_level": "L0"}) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def steps(*made: Any) -> dict[str, Any]:
    return {"action": "x", "context": {"steps": [{"api": name, "args": args} for name, args in made]}}


def active(postgres: Postgres) -> int:
    with psycopg.connect(f"host={postgres.folder} dbname=postgres user=postgres") as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND usename = %s",
                                 (ROLE,)).fetchone()
    return int(row[0]) if row else 0


@pytest.mark.parametrize("end", ["cancel", "disconnect"])
def test_a_cancelled_call_ends_at_the_database_and_at_the_peer(
        daemon: Daemon, postgres: Postgres, dripper: Dripper, end: str) -> None:
    for name, made in (("query", ("query", {"sql": SLOW})),
                       ("fetch", ("fetch", {"url": f"http://app.localhost:{dripper.port}/"}))):
        client = Client(daemon.endpoint)
        pending = client.start(protocol.invoke("slow", "onActionExecute", A, steps(made), 5000, None))
        busy = (lambda: active(postgres) == 1) if name == "query" else dripper.asked.is_set
        wait_for(busy, 10, f"{name} being under way")
        with Client(daemon.endpoint) as other:  # the gateway has time for others
            begun = time.monotonic()
            reply = other.invoke("other", "onActionExecute", A, steps(("query", {"sql": "SELECT 1 AS one"})))
            assert reply["result"]["result"] == [[{"one": 1}]] and time.monotonic() - begun < 4
        if end == "cancel":
            client.cancel(pending)
        else:
            client.close()
        wait_for((lambda: active(postgres) == 0) if name == "query" else dripper.left.is_set, 3, f"the end of {name}")
        client.close()
