"""The plugin's API: calls per second and latency per method, beside the same work without us; and whether the loop
stays quick while the database is slow and an HTTP peer drips a byte a second."""

from __future__ import annotations

import http.client
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from apex_exec.testing.postgres import Postgres, missing
from benchmarks.daemon import USER, Daemon, Host, serving, write_bundle
from benchmarks.lab import Lab, Round

TITLE = "The plugin's API"
CALLS = 1500
BATCH = 100
WRITES = 200
WRITE_BATCH = 10
"""API calls of one invocation: far below its bound of 1,000, and of five seconds where each waits for a busy disk."""
LAG_SECONDS = 10
LAG_TARGET_SECONDS = 0.005
PERMISSIONS = ["data:read", "data:write", "ui:render", "events:emit", "network:fetch", "admin:users"]
SCHEMA = ["CREATE TABLE notes (id bigint PRIMARY KEY, user_id text NOT NULL, text text)",
          "CREATE INDEX notes_owner ON notes (user_id)"]
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "text"], "write": True}}
SELECT = "SELECT id, text FROM notes WHERE id = $1"
SLOW = "SELECT count(*) FROM " + ", ".join(f"notes a{n}" for n in range(9))

PLUGIN = '''
import time
from workers import ApiError, Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions={permissions})


@plugin.hook("onActionExecute")
def run(context, params):
    """Makes one API call many times and says how long each took, in ns."""
    asked = params["context"]
    call, arguments, first = getattr(context.api, asked["api"]), asked["args"], asked.get("first")
    took = []
    for number in range(asked["count"]):
        if first is not None:
            arguments = {{"table": "notes", "values": {{"id": first + number, "text": "x"}}}}
        begun = time.perf_counter_ns()
        try:
            call(**arguments)
        except ApiError as error:
            if not asked.get("mayFail"):
                raise
        took.append(time.perf_counter_ns() - begun)
    return {{"result": took, "metadata": {{}}}}
'''

SERVER = r'''
import asyncio, sys
async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"/slow" not in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
'''


def run(lab: Lab) -> None:
    """Adds the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apxp")))
        port = stack.enter_context(_http_server())
        plugins = folder / "plugins"
        for name in ("caller", "other"):
            code = PLUGIN.format(id=name, permissions=PERMISSIONS)
            write_bundle(plugins, name, code, permissions=PERMISSIONS, data={"tables": ["notes"]},
                         network={"allow": ["app.localhost"]})
        policy = folder / "policy.toml"
        policy.write_text(f"[plugin.caller]\nallow = {PERMISSIONS!r}\n")
        config = {
            "limits__cpu_percent": 100, "limits__network_per_minute": 1_000_000,
            "limits__api_calls_per_second": 1_000_000, "security__policy_file": str(policy),
            "fetch__allow": [f"app.localhost:{port}"], "fetch__allow_private": True}
        databases = {"SQLite": f"sqlite:///{folder}/data.db"}
        with closing(sqlite3.connect(folder / "data.db")) as database:
            _fill(database.execute)
            database.commit()
        postgres = stack.enter_context(_postgres(lab))
        if postgres:
            databases["PostgreSQL"] = postgres
        for name, url in databases.items():
            _measure(lab, plugins, name, folder, port, {**config, "data__url": url})


def _fill(execute: Callable[[str], Any]) -> None:
    for statement in SCHEMA:
        execute(statement)
    for number in range(200):
        execute(f"INSERT INTO notes VALUES ({number}, '{USER if number % 2 else 'another'}', 'text {number}')")


def _measure(lab: Lab, plugins: Path, name: str, folder: Path, port: int, config: dict[str, Any]) -> None:
    with serving(plugins, **config, data__tables=TABLES) as daemon, ExitStack() as stack:
        host = Host(daemon.endpoint)
        stack.callback(host.close)
        stack.enter_context(_provider(daemon))
        numbers = iter(range(1_000_000, 10**9, BATCH))
        where = {"id": 1}

        def method(label: str, api: str, arguments: dict[str, Any]) -> Callable[[], None]:
            total, batch = (WRITES, WRITE_BATCH) if api in ("insert", "update") else (CALLS, BATCH)

            def measure() -> None:
                took: list[float] = []
                begun = time.perf_counter()
                while len(took) < lab.scaled(total):
                    asked: dict[str, Any] = {"api": api, "args": arguments, "count": batch}
                    if api == "insert":
                        asked["first"] = next(numbers)
                    took += [ns / 1000 for ns in _ask(host, "caller", asked)]
                lab.add_round(label, Round(len(took) / (time.perf_counter() - begun), took), database=name)
            return measure

        contenders = {
            "query": method("query", "query", {"sql": SELECT, "params": [1]}),
            "insert": method("insert", "insert", {}),
            "update": method("update", "update", {"table": "notes", "values": {"text": "y"}, "where": where}),
        }
        if name == "SQLite":
            contenders |= {
                "emit": method("emit", "emit", {"event": "tick", "payload": 1}),
                "renderWidget": method("renderWidget", "render_widget", {"component": "Chart", "props": {"a": 1}}),
                "fetch": method("fetch", "fetch", {"url": f"http://app.localhost:{port}/"}),
                "call": method("call", "call", {"method": "admin.users.list"}),
                "(sqlite3 in this process)": lambda: _bare_sqlite(lab, folder / "data.db"),
                "(http.client in this process)": lambda: _bare_http(lab, port)}
        lab.interleave(contenders)
        _lag(lab, daemon, host, name, port)


def _ask(host: Host, plugin: str, asked: dict[str, Any]) -> list[int]:
    reply = host.invoke(plugin, asked)
    if reply["type"] == "error":
        raise SystemExit(f"a call failed: {reply}")
    took: list[int] = reply["result"]["result"]
    return took


def _bare_sqlite(lab: Lab, path: Path) -> None:
    took = []
    with closing(sqlite3.connect(path)) as database:
        begun = time.perf_counter()
        for _ in range(lab.scaled(CALLS)):
            at = time.perf_counter_ns()
            database.execute("SELECT id, text FROM notes WHERE user_id = ? AND id = ?", (USER, 1)).fetchall()
            took.append((time.perf_counter_ns() - at) / 1000)
        lab.add_round("(sqlite3 in this process)", Round(len(took) / (time.perf_counter() - begun), took),
                      database="SQLite")


def _bare_http(lab: Lab, port: int) -> None:
    took = []
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        begun = time.perf_counter()
        for _ in range(lab.scaled(CALLS)):
            at = time.perf_counter_ns()
            connection.request("GET", "/")
            connection.getresponse().read()
            took.append((time.perf_counter_ns() - at) / 1000)
        lab.add_round("(http.client in this process)", Round(len(took) / (time.perf_counter() - begun), took),
                      database="SQLite")


def _lag(lab: Lab, daemon: Daemon, host: Host, name: str, port: int) -> None:
    """Pings by another host while two plugins wait for something slow."""
    stop = threading.Event()
    slow = {"caller": {"api": "query", "args": {"sql": SLOW}, "count": 1, "mayFail": True},
            "other": {"api": "fetch", "args": {"url": f"http://app.localhost:{port}/slow"}, "count": 1,
                      "mayFail": True}}

    def keep(plugin: str) -> None:
        with closing(Host(daemon.endpoint)) as own:
            while not stop.is_set():
                own.invoke(plugin, slow[plugin], deadlineMs=3000)

    for label, busy in (("idle", False), ("database slow, peer drips", True)):
        threads = [threading.Thread(target=keep, args=(plugin,)) for plugin in slow] if busy else []
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        took, lags = [], _lag_counts(daemon)
        due = time.perf_counter() + max(2, lab.scaled(LAG_SECONDS))
        begun = time.perf_counter()
        while time.perf_counter() < due:
            at = time.perf_counter_ns()
            host.request({"type": "ping"})
            took.append((time.perf_counter_ns() - at) / 1000)
            time.sleep(0.002)
        after = _lag_counts(daemon)
        lab.add_round(f"ping, {label}", Round(len(took) / (time.perf_counter() - begun), took), database=name)
        seen = after[1] - lags[1]
        lab.note(f"{name}, {label}: {after[0] - lags[0]:.0f} of {seen:.0f} samples of loop_lag_seconds within "
                 f"{LAG_TARGET_SECONDS * 1000:.0f} ms")
        stop.set()
        for thread in threads:
            thread.join()


def _lag_counts(daemon: Daemon) -> tuple[float, float]:
    """(samples within the target, all samples)."""
    within = total = 0.0
    for line in daemon.metrics().splitlines():
        if line.startswith(f'apex_exec_loop_lag_seconds_bucket{{le="{LAG_TARGET_SECONDS}"}}'):
            within = float(line.rpartition(" ")[2])
        elif line.startswith("apex_exec_loop_lag_seconds_count"):
            total = float(line.rpartition(" ")[2])
    return within, total


@contextmanager
def _provider(daemon: Daemon) -> Iterator[None]:
    """A host that answers ``admin.users.list``."""
    from apex_exec.client import Client

    stop, ready = threading.Event(), threading.Event()

    def serve() -> None:
        with Client(daemon.endpoint) as client:
            client.provide({"admin.users.list": lambda call: []})
            ready.set()
            while not stop.is_set():
                client.serve(0.2)

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _http_server() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def _postgres(lab: Lab) -> Iterator[str]:
    """Starts a server of our own with the rows in it; "" if none can be started here."""
    if why := missing():
        lab.note(f"PostgreSQL is left out: {why}")
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="apxpg") as name:
        server = Postgres(Path(name))
        try:
            url = server.url("bench", user="plugins")
            server.execute("CREATE ROLE plugins LOGIN")
            _fill(lambda text: server.execute(text, database="bench"))
            server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO plugins",
                           "GRANT CREATE ON SCHEMA public TO plugins", database="bench")
            yield url
        finally:
            server.stop()
