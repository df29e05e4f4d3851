"""A fleet on one machine: what a forwarded call costs its router and its caller, and how soon a lost owner is replaced.

The nodes are real daemons on loopback with CURVE between them; the CPU time of each node is that of its whole tree. One
machine has to do everything, so calls a second by the number of nodes say something only where the cores suffice: the
document names the cores that there were.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import zmq.auth

from apex_exec.client import CallError, Client
from apex_exec.fleet.statements import CURVE_KEY, Statement, sign, write
from apex_exec.registry.database import open_database, transact
from apex_exec.registry.tables import SCHEMA, STORE
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import load_private, load_public, new_key
from apex_exec.testing import USER, Daemon, write_bundle
from benchmarks.lab import Lab

TITLE = "A fleet of daemons"
CODE = '''
from workers import Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=[])

@plugin.hook("onActionExecute")
def act(context, params):
    return {{"result": 1, "metadata": {{}}}}
'''
PLUGINS = [f"plugin-{number}" for number in range(12)]
PAYLOAD = {"action": "x", "context": {}}
IN_FLIGHT = 32


class Nodes:
    """``count`` daemons that are one fleet. A context manager."""

    def __init__(self, count: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="apf"))
        self.names = [f"n{number}" for number in range(count)]
        self.daemons: dict[str, Daemon] = {}

    def __enter__(self) -> Nodes:
        plugins, book, first_port = self.folder / "plugins", self.folder / "book", 20_000 + os.getpid() % 20_000
        for plugin in PLUGINS:
            write_bundle(plugins, plugin, CODE.format(id=plugin), ("onActionExecute",), ())
        signer, _ = new_key(self.folder / "keys", "fleet")
        engine = open_database(f"sqlite:///{self.folder}/registry.db", SCHEMA)
        public = load_public(self.folder / "keys" / "fleet.pub").hex()
        transact(engine, STORE, lambda db: keyring.register(
            db, name="fleet", role="node", owner="fleet", public_key=public, days=10, uid=0, now_ns=time.time_ns()))
        engine.dispose()
        waiting = []
        for number, name in enumerate(self.names):
            own, endpoint = self.folder / name, f"tcp://127.0.0.1:{first_port + number}"
            (own / "state").mkdir(mode=0o700, parents=True)
            (own / "fleet").mkdir(mode=0o700)
            shutil.copy(self.folder / "registry.db", own / "state" / "registry.db")
            zmq.auth.create_certificates(own / "fleet", CURVE_KEY.removesuffix(".key_secret"))
            (own / "fleet" / CURVE_KEY).chmod(0o600)
            curve, _ = zmq.auth.load_certificate(own / "fleet" / CURVE_KEY)
            write(book / f"{name}.node", sign(load_private(signer), Statement(
                name, endpoint, curve.decode(), 1.0, time.time_ns())))
            daemon = self.daemons[name] = Daemon(own, plugins_dir=plugins, config={
                "audit.min_free_bytes": 0, "fleet.engine": "static", "fleet.node": name, "fleet.members": self.names,
                "fleet.endpoint": endpoint, "fleet.book": str(book), "fleet.keys_dir": str(own / "fleet"),
                "fleet.join_seconds": 10, "limits.cpu_percent": 100})
            waiting.append((daemon, daemon.launch()))
            _wait_listening(first_port + number)  # one after another: each tries its sandbox out when it starts
        for daemon, readiness in waiting:
            with readiness:
                while not readiness.is_ready():
                    daemon.check_starting(time.monotonic() + 60)
        due = time.monotonic() + 30
        while any(row["state"] != "serving" for name in self.names for row in self.rows(name)):
            if time.monotonic() > due:
                raise RuntimeError("the nodes have not found each other")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons.values():
            if daemon.is_running():
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The fleet as a node sees it."""
        rows: list[dict[str, Any]] = self.daemons[name].operate("fleet.status")["nodes"]
        return rows

    def owned(self, by: str) -> list[str]:
        """The plugins that a node owns."""
        return [plugin for plugin in PLUGINS if self.daemons[by].operate("fleet.owner", id=plugin)["owner"] == by]

    def supervisor_seconds(self, name: str) -> float:
        """CPU seconds of a node's supervisor, its I/O threads included."""
        times = psutil.Process(self.daemons[name].pid).cpu_times()
        return float(times.user + times.system)


def _wait_listening(port: int) -> None:
    due = time.monotonic() + 60
    while time.monotonic() < due:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)


def _message(plugin: str) -> dict[str, Any]:
    return {"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER, "payload": PAYLOAD}


def flood(client: Client, plugins: list[str], calls: int) -> tuple[float, int]:
    """(calls a second of one connection, IN_FLIGHT at once, over ``plugins``; how many were answered by an error)."""
    begun = time.monotonic()
    out: list[int] = []
    errors = 0
    for number in range(calls + IN_FLIGHT):
        if len(out) >= IN_FLIGHT or number >= calls and out:
            try:
                client.wait(out.pop(0), 20_000)
            except CallError:
                errors += 1
        if number < calls:
            out.append(client.start(_message(plugins[number % len(plugins)]), 20_000))
    return calls / (time.monotonic() - begun), errors


def run(lab: Lab) -> None:
    """Adds the rows."""
    calls = lab.scaled(20_000)
    lab.note(f"{len(os.sched_getaffinity(0))} cores hold all nodes, the host and libzmq's threads")
    lab.say("forwarding")
    _forwarding(lab, calls)
    lab.say("an owner killed")
    for _ in range(lab.scaled(10)):
        _failover(lab)
    for count in (1, 3, 5):
        lab.say(f"{count} nodes")
        _at_nodes(lab, count, calls // 4)


def _forwarding(lab: Lab, calls: int) -> None:
    """CPU of the router's and the owner's supervisor a forwarded call, and what the caller waits for beside a call that
    its own node runs."""
    with Nodes(2) as nodes:
        here, there = nodes.names
        own, far = nodes.owned(here), nodes.owned(there)
        with Client(nodes.daemons[here].endpoint) as client:
            flood(client, own + far, 20 * len(PLUGINS))
            for what, plugins in (("run by the caller's node", own), ("forwarded", far)):
                before = {name: nodes.supervisor_seconds(name) for name in nodes.names}
                rate, errors = flood(client, plugins, calls)
                lab.add(what, "calls", "1/s", rate)
                lab.add(what, "errors", "", errors)
                cpu = {name: (nodes.supervisor_seconds(name) - before[name]) / calls * 1e6 for name in nodes.names}
                lab.add(what, "CPU of the caller's supervisor", "µs", cpu[here])
                lab.add(what, "CPU of the other supervisor", "µs", cpu[there])
                waits = []
                for number in range(lab.scaled(2000)):
                    begun = time.perf_counter()
                    with contextlib.suppress(CallError):  # it took as long, too
                        client.request(_message(plugins[number % len(plugins)]), 20_000)
                    waits.append((time.perf_counter() - begun) * 1e6)
                lab.add(what, "p50", "µs", statistics.median(waits))


def _failover(lab: Lab) -> None:
    """How soon after kill -9 of its owner a plugin is served, at a host of another node; the cold start included."""
    with Nodes(3) as nodes:
        here = nodes.names[0]
        victim = next(name for name in nodes.names[1:] if nodes.owned(name))
        plugin = nodes.owned(victim)[0]
        with Client(nodes.daemons[here].endpoint) as client:
            client.request(_message(plugin), 20_000)
            nodes.daemons[victim].process.kill()
            begun = time.monotonic()
            while True:
                try:
                    client.request(_message(plugin), 20_000)
                    break
                except CallError:
                    continue
            lab.add("kill -9 of an owner", "served by the next", "ms", (time.monotonic() - begun) * 1000)


def _at_nodes(lab: Lab, count: int, calls: int) -> None:
    """Calls a second of all nodes at once, each by a host of its own that calls what its node owns."""
    with Nodes(count) as nodes, ThreadPoolExecutor(count) as hosts:
        def flooded(name: str) -> tuple[float, int]:
            own = nodes.owned(name) or PLUGINS[:1]
            with Client(nodes.daemons[name].endpoint) as client:
                flood(client, own, 5 * len(own))
                return flood(client, own, calls)

        found = list(hosts.map(flooded, nodes.names))
        lab.add(f"{count} nodes", "calls", "1/s", sum(rate for rate, _ in found))
        lab.add(f"{count} nodes", "errors", "", sum(errors for _, errors in found))
