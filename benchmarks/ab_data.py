"""More workloads of ``python -m benchmarks ab``: point queries, also of many users, and writes with a database for each
side."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from apex_exec.testing.postgres import missing
from benchmarks.bench_gateway import PERMISSIONS, PLUGIN
from benchmarks.daemon import USER, Host, invocation, write_bundle
from benchmarks.lab import Lab
from benchmarks.notes_database import fill, rows_of, server_with

CALLS = 300
WARM_SECONDS = 60
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "created", "text"]}}
WRITABLE = {"notes": {**TABLES["notes"], "write": True}}
BY_KEY = {"sql": "SELECT id, text FROM notes WHERE id = $1", "params": [7]}
PLUGINS = [f"caller{number}" for number in range(8)]
DEADLINE_MS = 10_000


class Case(Struct):
    """One question, asked by ``count`` API calls of each invocation, with ``in_flight`` invocations at once, of the
    first ``plugins`` plugins in turn. ``run`` returns how long each API call took, in µs."""

    name: str
    api: str
    arguments: dict[str, Any]
    in_flight: int = 1
    count: int = 1
    plugins: int = 1
    numbers: Any = field(default_factory=lambda: itertools.count(10_000_000, 1000))
    """Where the keys of each invocation's rows begin."""

    def _asked(self) -> dict[str, Any]:
        asked = {"api": self.api, "args": self.arguments, "count": self.count}
        return {**asked, "first": next(self.numbers)} if self.api == "insert" else asked

    def warm(self, host: Host) -> None:
        """Asks until it is answered: the process that compiles SQL takes seconds to start on a busy machine."""
        until = time.monotonic() + WARM_SECONDS
        for plugin in PLUGINS[: self.plugins]:
            while (reply := host.invoke(plugin, self._asked()))["type"] == "error":
                if time.monotonic() > until:
                    raise SystemExit(f"no call is answered: {reply}")

    def run(self, host: Host, calls: int) -> list[float]:
        """Raises SystemExit if a call fails."""
        took: list[float] = []
        asked = itertools.cycle(PLUGINS[: self.plugins])
        contexts = ((next(asked), self._asked()) for _ in range(-(-calls // self.count)))
        for reply in host.answers(contexts, self.in_flight, DEADLINE_MS):
            if reply["type"] == "error":
                raise SystemExit(f"a call failed: {reply}")
            took += [ns / 1000 for ns in reply["result"]["result"]]
        return took


class Users(Struct):
    """One plugin with USERS users, each of whom calls its hook, which makes one query, again and again."""

    name: str
    plugins: int = 0

    def _rounds(self, host: Host, calls: int) -> list[float]:
        numbers = itertools.count()

        def ask(plugin: str, context: dict[str, Any]) -> dict[str, Any]:
            return invocation(plugin, context, userId=f"{USER[:-2]}{next(numbers) % USERS:02x}", deadlineMs=DEADLINE_MS)

        return host.rounds([SHARED], calls, USERS, {}, ask).latencies_us

    def warm(self, host: Host) -> None:
        """Asks until it is answered: the process that compiles SQL takes seconds to start on a busy machine."""
        until = time.monotonic() + WARM_SECONDS
        while (reply := host.invoke(SHARED))["type"] == "error":
            if time.monotonic() > until:
                raise SystemExit(f"no call is answered: {reply}")
        self._rounds(host, 2 * USERS)

    def run(self, host: Host, calls: int) -> list[float]:
        """How long each call took, in µs. Raises SystemExit if a call fails."""
        return self._rounds(host, calls)


class Workload(Struct):
    """A database that is filled, and what is asked of it. ``urls`` are those of each side, if both write; ``folders``
    are the plugins of a side that has others."""

    plugins: Path
    config: dict[str, Any]
    cases: list[Any]
    urls: dict[str, str] = {}
    folders: dict[str, Path] = {}


POINTS = [Case("1 in flight", "query", BY_KEY, count=10), Case("64 in flight", "query", BY_KEY, in_flight=64)]
INSERTS = [Case("one plugin", "insert", {}, count=10),
           Case("eight plugins, 32 in flight", "insert", {}, in_flight=32, count=5, plugins=8)]
SHARED, USERS, AT_ONCE = "shared", 64, 8
SHARES = [Users(f"{USERS} users, {AT_ONCE} at once")]
"""A commit that can do so has AT_ONCE calls at once in the worker (``limits.concurrency`` of the manifest)."""
SHARED_CODE = '''
from workers import Plugin

plugin = Plugin(id="shared", version="1.0.0", permissions=["data:read"])


@plugin.hook("onActionExecute")
async def run(context, params):
    """Makes one query."""
    await context.api.query("SELECT id, text FROM notes WHERE id = $1", [7])
    return {"result": None, "metadata": {}}
'''
WORKLOADS: dict[str, tuple[str, int, list[Any]]] = {
    **{f"{database}, point query": (database, 100, POINTS) for database in ("SQLite", "PostgreSQL")},
    **{f"{database}, one plugin's users": (database, 100, SHARES) for database in ("SQLite", "PostgreSQL")},
    "SQLite, writes": ("SQLite", 100, INSERTS), "SQLite, writes, log": ("SQLite", 100, INSERTS),
    "PostgreSQL, writes": ("PostgreSQL", 100, INSERTS)}
"""Each workload's database, the rows of the user in it, and what is asked. With "log", a commit that can do so has
SQLite keep a write-ahead log (``data.write_ahead_log``)."""
NAMES = list(WORKLOADS)


@contextmanager
def prepared(lab: Lab, name: str) -> Iterator[Workload | None]:
    """The workload ``name``; None if it cannot run here, which a note says."""
    database, rows, cases = WORKLOADS[name]
    writes = cases is INSERTS
    with tempfile.TemporaryDirectory(prefix="apxw") as folder:
        plugins = Path(folder) / "plugins"
        for plugin in PLUGINS[: max(case.plugins for case in cases)]:
            write_bundle(plugins, plugin, PLUGIN.format(id=plugin, permissions=PERMISSIONS), permissions=PERMISSIONS,
                         data={"tables": ["notes"]})
        folders = dict(_shared(Path(folder))) if cases is SHARES else {}
        config: dict[str, Any] = {"data.tables": WRITABLE if writes else TABLES, "limits.cpu_percent": 100,
                                  "limits.api_calls_per_second": 1_000_000, "limits.timeout_ms": DEADLINE_MS}
        if name.endswith(", log"):
            config["data.write_ahead_log"] = True
        if database == "SQLite":
            path = Path(folder) / "data.db"
            with closing(sqlite3.connect(path)) as made:
                insert = "INSERT INTO notes VALUES (?, ?, ?, ?)"
                fill(made.execute, rows, lambda: made.executemany(insert, rows_of(rows)))
                made.commit()
            urls = {label: f"sqlite:///{shutil.copy(path, Path(folder) / f'{label}.db')}" for label in ("old", "new")}
            yield Workload(plugins, config, cases, urls, folders)
        elif why := missing():
            lab.note(f"{name} is left out: {why}")
            yield None
        else:
            with server_with(rows) as url:
                yield Workload(plugins, {**config, "data.url": url}, cases, folders=folders)


def _shared(folder: Path) -> Iterator[tuple[str, Path]]:
    """The folder of plugins for each side: the old one knows of no calls at once."""
    limits: dict[str, dict[str, int]] = {"old": {}, "new": {"concurrency": AT_ONCE}}
    for side, limited in limits.items():
        write_bundle(folder / side, SHARED, SHARED_CODE, permissions=["data:read"], data={"tables": ["notes"]},
                     limits=limited)
        yield side, folder / side
