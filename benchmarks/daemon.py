"""A real daemon for the benchmarks, and the host that drives it: one DEALER, many requests in flight."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from apex_exec import testing
from apex_exec.testing import USER, write_bundle
from benchmarks import fixed_rate
from benchmarks.lab import Round

__all__ = ["HOOK", "USER", "Daemon", "Host", "context_of", "invocation", "scraping", "serving", "write_bundle",
           "write_echo"]
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


def write_echo(folder: Path, id_: str, *, is_async: bool = False, uses_loop: bool = False, api_calls: int = 0) -> None:
    """A plugin that returns what it is given, after ``api_calls`` calls of the API."""
    wait = "await " if is_async else ""
    body = f'    for n in range({api_calls}):\n        {wait}context.api.emit("tick", {{"n": n}})\n'
    permissions = ["events:emit"] if api_calls else []
    code = ECHO.format(id=id_, permissions=permissions, define="async def" if is_async else "def", body=body)
    write_bundle(folder, id_, ("import asyncio\n" if uses_loop else "") + code, permissions=permissions)


class Daemon(testing.Daemon):
    """``apex_exec.testing.Daemon`` for one measurement. ``program`` is what Python is given to run before ``serve``."""

    def __init__(self, plugins: Path | None, program: Sequence[str], config: dict[str, Any]) -> None:
        super().__init__(plugins_dir=plugins, config=config)
        self._program = program

    def command(self) -> list[str]:
        """The program instead of ``-m apex_exec``."""
        command = super().command()
        return [command[0], *self._program, *command[3:]]

    @property
    def port(self) -> int:
        """Where the metrics are."""
        return int(self.http.rpartition(":")[2])

    def workers(self, plugin: str | None = None) -> list[psutil.Process]:
        """The processes that serve ``plugin``, or any plugin; spares are not among them."""
        rows = self.operate("daemon.status")["plugins"]
        return [psutil.Process(pid) for row in rows if plugin in (None, row["id"]) for pid in row["pids"]]


@contextmanager
def serving(plugins: Path | None, *, scrape: bool = True, command: Sequence[str] = ("-m", "apex_exec"),
            state: Path | None = None, **config: Any) -> Iterator[Daemon]:
    """A daemon on a temporary folder, scraped once a second; ``config`` keys are dotted with ``__``.

    ``command`` is what Python is given to run, before ``serve``.
    """
    keys = {key.replace("__", "."): value for key, value in config.items()}
    if state is not None:
        keys["state_dir"] = str(state)
    with Daemon(plugins, command, keys) as daemon, scraping(daemon.port) if scrape else nullcontext():
        yield daemon


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
        cpus_us: list[float] = []
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
            cpus_us.append(reply["usage"]["cpuMs"] * 1000)
        return Round(total / (clock() - begun), latencies_us, cpus_us=cpus_us)

    def answers(self, contexts: Iterable[tuple[str, dict[str, Any]]], in_flight: int, deadline_ms: int
                ) -> Iterator[dict[str, Any]]:
        """The replies to calls of (plugin, context), ``in_flight`` at once (closed loop), errors included."""
        waiting, sent = 0, iter(contexts)
        while True:
            for plugin, context in itertools.islice(sent, in_flight - waiting):
                self._id += 1
                self.socket.send(_encode({**invocation(plugin, context, deadlineMs=deadline_ms), "id": self._id}))
                waiting += 1
            if not waiting:
                return
            yield _decode(self.socket.recv())
            waiting -= 1

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
