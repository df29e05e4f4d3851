"""The workloads of ``python -m benchmarks ab``: what one client asks of two daemons."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from apex_exec.testing.postgres import missing
from benchmarks.bench_gateway import PERMISSIONS, PLUGIN
from benchmarks.daemon import Host, context_of, write_bundle, write_echo
from benchmarks.lab import Lab
from benchmarks.notes_database import fill, rows_of, server_with

CALLS = 300
BATCH = 1
"""API calls of one invocation: on a busy machine, more of the slowest that we compare would exceed its deadline."""
WARM_SECONDS = 60
SIZES = {"100": 100, "100,000": 100_000}
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "created", "text"]}}
QUERIES = {"by key": ("SELECT id, text FROM notes WHERE id = $1", [7]),
           "latest ten": ("SELECT id, created, text FROM notes ORDER BY created DESC LIMIT 10", [])}
EFFECTS = {"echo": 0, "emit1": 1, "emit3": 3}
"""Effects of one call, with IN_FLIGHT calls at a time."""
IN_FLIGHT = 64
AT_ONCE = {"gather8": 8, "gather16": 16}
"""Fetches that one async hook makes at once, of a server that takes SERVER_MS for each."""
SERVER_MS = 50
EFFECT_CALLS, GATHER_CALLS = 10, 20
"""The calls of a workload of effects, as a multiple of ``--calls``, and those of one of fetches, in all."""
GATHER = '''
import asyncio

from workers import Plugin

plugin = Plugin(id="gatherer", version="1.0.0", permissions=["network:fetch"])


@plugin.hook("onActionExecute")
async def run(context, params):
    """Fetches one address many times, all at once."""
    given = params["context"]
    await asyncio.gather(*(context.api.fetch(given["url"]) for _ in range(given["count"])))
    return {"result": None, "metadata": {}}
'''
NAMES = [*EFFECTS, *AT_ONCE, *(f"{database}, {size} rows" for database in ("SQLite", "PostgreSQL") for size in SIZES)]


class Case(Struct):
    """One question. ``run`` asks it ``calls`` times and returns how long each took, in µs."""

    name: str
    text: str
    params: list[Any]

    def _asked(self, host: Host, count: int) -> dict[str, Any]:
        arguments = {"sql": self.text, "params": self.params}
        return host.invoke("caller", {"api": "query", "args": arguments, "count": count})

    def warm(self, host: Host) -> None:
        """Asks until it is answered: the process that compiles SQL takes seconds to start on a busy machine."""
        until = time.monotonic() + WARM_SECONDS
        while (reply := self._asked(host, 1))["type"] == "error":
            if time.monotonic() > until:
                raise SystemExit(f"no call is answered: {reply}")

    def run(self, host: Host, calls: int) -> list[float]:
        """Raises SystemExit if a call fails."""
        took: list[float] = []
        while len(took) < calls:
            reply = self._asked(host, BATCH)
            if reply["type"] == "error":
                raise SystemExit(f"a call failed: {reply}")
            took += [ns / 1000 for ns in reply["result"]["result"]]
        return took


class Effects(Struct):
    """Calls of a hook that emits, IN_FLIGHT at a time."""

    name: str
    plugin: str

    def warm(self, host: Host) -> None:
        """Starts the worker."""
        host.rounds([self.plugin], 500, IN_FLIGHT, context_of(100))

    def run(self, host: Host, calls: int) -> list[float]:
        """How long each of the calls took, in µs."""
        return host.rounds([self.plugin], calls * EFFECT_CALLS, IN_FLIGHT, context_of(100)).latencies_us


class Gather(Struct):
    """Calls of a hook that fetches ``count`` times at once, one call at a time."""

    name: str
    url: str
    count: int

    def _asked(self, host: Host, calls: int) -> list[float]:
        return host.rounds(["gatherer"], calls, 1, {"url": self.url, "count": self.count}).latencies_us

    def warm(self, host: Host) -> None:
        """Starts the worker and the gateway's client."""
        self._asked(host, 2)

    def run(self, host: Host, calls: int) -> list[float]:
        """How long each call took, in µs. There are GATHER_CALLS at most."""
        return self._asked(host, min(calls, GATHER_CALLS))


class Workload(Struct):
    """What a daemon is to serve, and what is asked of it."""

    plugins: Path
    config: dict[str, Any]
    cases: Sequence[Case | Effects | Gather]


@contextmanager
def prepared(lab: Lab, name: str) -> Iterator[Workload | None]:
    """The workload ``name``; None if it cannot run here, which a note says."""
    if name in EFFECTS or name in AT_ONCE:
        with _hooks(name) as workload:
            yield workload
        return
    database, _, size = name.partition(", ")
    rows = SIZES[size.removesuffix(" rows")]
    with tempfile.TemporaryDirectory(prefix="apxw") as folder:
        plugins = Path(folder) / "plugins"
        write_bundle(plugins, "caller", PLUGIN.format(id="caller", permissions=PERMISSIONS), permissions=PERMISSIONS,
                     data={"tables": ["notes"]})
        cases = [Case(word, *query) for word, query in QUERIES.items()]
        config: dict[str, Any] = {"data.tables": TABLES, "limits.cpu_percent": 100,
                                  "limits.api_calls_per_second": 1_000_000}
        if database == "SQLite":
            path = Path(folder) / "data.db"
            with closing(sqlite3.connect(path)) as made:
                insert = "INSERT INTO notes VALUES (?, ?, ?, ?)"
                fill(made.execute, rows, lambda: made.executemany(insert, rows_of(rows)))
                made.commit()
            yield Workload(plugins, {**config, "data.url": f"sqlite:///{path}"}, cases)
        elif why := missing():
            lab.note(f"{name} is left out: {why}")
            yield None
        else:
            with server_with(rows) as url:
                yield Workload(plugins, {**config, "data.url": url}, cases)


@contextmanager
def _hooks(name: str) -> Iterator[Workload]:
    config: dict[str, Any] = {"limits.cpu_percent": 100, "limits.api_calls_per_second": 1_000_000}
    with tempfile.TemporaryDirectory(prefix="apxw") as folder:
        if name in EFFECTS:
            write_echo(Path(folder), name, api_calls=EFFECTS[name])
            yield Workload(Path(folder), config, [Effects(f"{IN_FLIGHT} in flight", name)])
            return
        write_bundle(Path(folder), "gatherer", GATHER, permissions=["network:fetch"],
                     network={"allow": ["app.localhost"]})
        with _slow_server() as port:
            config |= {"fetch.allow": [f"app.localhost:{port}"], "fetch.allow_private": True,
                       "limits.network_per_minute": 1_000_000}
            yield Workload(Path(folder), config, [Gather(f"{AT_ONCE[name]} at once, {SERVER_MS} ms each",
                                                         f"http://app.localhost:{port}/", AT_ONCE[name])])


@contextmanager
def _slow_server() -> Iterator[int]:
    """The port of a server that answers each request after SERVER_MS."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(SERVER_MS / 1000)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result(10)
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
