"""A real daemon for the benchmarks, and the host that drives it: one DEALER, many requests in flight."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from apex_exec.client.admin import AdminClient
from benchmarks import fixed_rate
from benchmarks.lab import Round

USER = "11111111-2222-4333-8444-555555555555"
START_SECONDS_MAX = 30
HOOK = "onActionExecute"

ECHO = '''
from workers import Plugin
plugin = Plugin(id="{id}", version="1.0.0", permissions={permissions})
@plugin.hook("onActionExecute")
{define} on_action(context, params):
{body}
    return {{"result": params["context"], "metadata": {{}}}}
'''

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def write_bundle(folder: Path, id_: str, code: str, permissions: list[str] | None = None,
                 hooks: list[str] | None = None, **manifest: Any) -> None:
    """One bundle below ``folder``."""
    target = folder / id_
    target.mkdir(parents=True)
    (target / "manifest.json").write_text(json.dumps({
        "id": id_, "name": id_, "version": "1.0.0", "author": "benchmarks", "permissions": permissions or [],
        "manifest": {"entrypoint": "plugin.py", "hooks": hooks or [HOOK]}, **manifest}))
    (target / "plugin.py").write_text(code)


def write_echo(folder: Path, id_: str, *, is_async: bool = False, uses_loop: bool = False, api_calls: int = 0) -> None:
    """A plugin that returns what it is given, after ``api_calls`` calls of the API."""
    wait = "await " if is_async else ""
    body = f'    for n in range({api_calls}):\n        {wait}context.api.emit("tick", {{"n": n}})\n'
    permissions = ["events:emit"] if api_calls else []
    code = ECHO.format(id=id_, permissions=permissions, define="async def" if is_async else "def", body=body)
    write_bundle(folder, id_, ("import asyncio\n" if uses_loop else "") + code, permissions)


class Daemon:
    """A running daemon. ``endpoint`` for hosts; ``pid`` of the supervisor."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/run/host.sock"
        self.process = process
        self.pid = process.pid
        self.port = port

    def workers(self, plugin: str | None = None) -> list[psutil.Process]:
        """The processes that serve ``plugin``, or any plugin; spares are not among them."""
        with AdminClient(f"ipc://{self.folder}/run/admin.sock") as admin:
            rows = admin.request("daemon.status")["plugins"]
        return [psutil.Process(pid) for row in rows if plugin in (None, row["id"]) for pid in row["pids"]]

    def scrape(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as reply:
            text: str = reply.read().decode()
        return text


@contextmanager
def serving(plugins: Path | None, *, scrape: bool = True, command: Sequence[str] = ("-m", "apex_exec"),
            state: Path | None = None, **config: Any) -> Iterator[Daemon]:
    """A daemon on a temporary folder, scraped once a second; ``config`` keys are dotted with ``__``.

    ``command`` is what Python is given to run, before ``serve``.
    """
    with tempfile.TemporaryDirectory(prefix="apxb") as name:
        folder = Path(name)
        tables: dict[str, dict[str, Any]] = {}
        top = {"runtime_dir": f"{folder}/run", "state_dir": str(state or folder / "state"),
               "plugins_dir": str(plugins or "")}
        for key, value in {"http__address": "127.0.0.1:0", "log__level": "info", **config}.items():
            section, _, inner = key.partition("__")
            if inner:
                tables.setdefault(section, {})[inner] = value
            else:
                top[section] = value
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in top.items())
        for section, values in tables.items():
            text += f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        (folder / "config.toml").write_text(text)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *command, "serve", "--config", str(folder / "config.toml")],
                                       stderr=log, stdout=log)
        try:
            port = _wait_until_ready(folder, process)
            with scraping(port) if scrape else nullcontext():
                yield Daemon(folder, process, port)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


@contextmanager
def scraping(port: int) -> Iterator[None]:
    """A process that reads the metrics once a second, as Prometheus would."""
    scraper = subprocess.Popen([sys.executable, "-c", _SCRAPER, str(port)])
    try:
        yield
    finally:
        scraper.kill()
        scraper.wait()


_SCRAPER = """
import sys, time, urllib.request
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5).read()
    except OSError:
        pass
    time.sleep(1)
"""


def _wait_until_ready(folder: Path, process: subprocess.Popen[bytes]) -> int:
    due = time.monotonic() + START_SECONDS_MAX
    while True:
        text = (folder / "log").read_text(errors="replace")
        for line in text.splitlines():
            if "http://127.0.0.1:" in line and (folder / "run" / "host.sock").exists() and "serving" in text:
                return int(line.partition("http://127.0.0.1:")[2].split("/")[0])
        if process.poll() is not None or time.monotonic() > due:
            raise SystemExit(f"the daemon did not start: {text[-800:]}")
        time.sleep(0.02)


class Host:
    """One DEALER on a daemon."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self._id = 0

    def close(self) -> None:
        """Drops the connection."""
        self._context.destroy(linger=0)

    def request(self, message: dict[str, Any], timeout_ms: int = 10_000) -> dict[str, Any]:
        """One request and its reply."""
        self._id += 1
        self.socket.send(_encode({**message, "id": self._id}))
        if not self.socket.poll(timeout_ms):
            raise SystemExit("no reply from the daemon")
        reply: dict[str, Any] = _decode(self.socket.recv())
        return reply

    def invoke(self, plugin: str, context: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """One call of the echo hook; the whole reply, errors included."""
        return self.request(invocation(plugin, context or {}, **more))

    def rounds(self, plugins: list[str], total: int, in_flight: int, context: dict[str, Any],
               message: Any = None) -> Round:
        """``total`` calls over ``plugins`` in turn, ``in_flight`` at once (closed loop). Any error ends the run."""
        make = message or invocation
        sent_at: dict[int, float] = {}
        latencies_us: list[float] = []
        clock, socket = time.perf_counter, self.socket
        sent = 0
        begun = clock()
        while len(latencies_us) < total:
            while sent < total and len(sent_at) < in_flight:
                body = make(plugins[sent % len(plugins)], context)
                body["id"] = sent
                sent_at[sent] = clock()
                socket.send(_encode(body))
                sent += 1
            reply = _decode(socket.recv())
            if reply["type"] == "error":
                raise SystemExit(f"a call failed: {reply}")
            latencies_us.append((clock() - sent_at.pop(reply["id"])) * 1e6)
        return Round(total / (clock() - begun), latencies_us)

    def for_seconds(self, plugins: list[str], seconds: float, in_flight: int, context: dict[str, Any]) -> Round:
        """Rounds until ``seconds`` have passed."""
        begun = time.perf_counter()
        latencies_us: list[float] = []
        while time.perf_counter() - begun < seconds:
            latencies_us += self.rounds(plugins, 200, in_flight, context).latencies_us
        return Round(len(latencies_us) / (time.perf_counter() - begun), latencies_us)

    def open_loop(self, plugins: list[str], rate: float, seconds: float, context: dict[str, Any], *,
                  may_fail: bool = False) -> Round:
        """Calls at a fixed ``rate``, whatever the answers do (``fixed_rate``). One that fails ends the run, unless
        ``may_fail``."""
        def body(number: int) -> bytes:
            made = invocation(plugins[number % len(plugins)], context)
            made["id"], made["userId"] = number, f"{USER[:-2]}{number % 64:02x}"  # many users, as a host has
            return _encode(made)
        round_ = fixed_rate.over_socket(self.socket, body, rate, seconds)
        if round_.failed and not may_fail:
            raise SystemExit(f"{round_.failed} calls at {rate:,.0f}/s failed")
        return round_


def invocation(plugin: str, context: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An invoke message without its id."""
    return {"type": "invoke", "plugin": plugin, "action": HOOK, "userId": USER,
            "payload": {"action": "echo", "context": context}, **more}


def context_of(size_bytes: int) -> dict[str, Any]:
    """A payload's context of about ``size_bytes``."""
    return {"text": "x" * size_bytes}
