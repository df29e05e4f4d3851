"""A fleet of real daemons on this machine: each with its own state, keys and port, all with the same plugins."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import zmq.auth

from apex_exec.fleet.statements import CURVE_KEY, Statement, sign, write
from apex_exec.registry.database import open_database, transact
from apex_exec.registry.tables import SCHEMA, STORE
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import load_private, load_public, new_key
from tests.support.daemon import Daemon, wait_for

SIGNER = "fleet"


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalFleet:
    """``count`` nodes ``a``, ``b``, … over the plugins of ``plugins``. A context manager; the nodes start together."""

    def __init__(self, plugins: Path, count: int = 3, config: dict[str, Any] | None = None,
                 hosts: list[str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="apf"))
        self.plugins = plugins
        self.book = self.folder / "book"
        self.names = [chr(ord("a") + number) for number in range(count)]
        self.ports = {name: free_port() for name in self.names}
        self.addresses = dict(zip(self.names, hosts or ["127.0.0.1"] * count, strict=True))
        self.config = config or {}
        self.nodes: dict[str, Daemon] = {}
        self.curves: dict[str, bytes] = {}
        self.signer, self.key_id = new_key(self.folder / "keys", SIGNER)
        self.wrappers: dict[str, list[str]] = {}
        self._stack = ExitStack()
        seed = self.folder / "registry.db"
        engine = open_database(f"sqlite:///{seed}", SCHEMA)
        public = load_public(self.folder / "keys" / f"{SIGNER}.pub").hex()
        transact(engine, STORE, lambda db: keyring.register(
            db, name=SIGNER, role="node", owner=SIGNER, public_key=public, days=10, uid=0, now_ns=time.time_ns()))
        engine.dispose()
        for name in self.names:
            self.make_keys(name)
            (self.folder / name / "state").mkdir(mode=0o700, parents=True)
            shutil.copy(seed, self.folder / name / "state" / "registry.db")  # quicker than a call of each daemon

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                self.launch(name)
            for name in self.names:
                self.wait_ready(name)
            self.wait_whole()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for daemon in self.nodes.values():
            if daemon.is_running():
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ keys
    def keys_dir(self, name: str) -> Path:
        """Where the node's CURVE pair is."""
        return self.folder / name / "fleet"

    def make_keys(self, name: str, signer: Path | None = None) -> None:
        """A CURVE pair for the node, and its statement, signed."""
        folder = self.keys_dir(name)
        folder.mkdir(parents=True, exist_ok=True)
        old = os.umask(0o077)
        try:
            zmq.auth.create_certificates(folder, CURVE_KEY.removesuffix(".key_secret"))
        finally:
            os.umask(old)
        self.curves[name] = zmq.auth.load_certificate(folder / CURVE_KEY)[0]
        self.state(name, signer)

    def state(self, name: str, signer: Path | None = None, **changes: Any) -> None:
        """Writes the node's statement."""
        words = {"name": name, "endpoint": f"tcp://{self.addresses[name]}:{self.ports[name]}",
                 "curve": self.curves[name].decode(), "capacity": 1.0, "issued_ns": time.time_ns(), **changes}
        write(self.book / f"{name}.node", sign(load_private(signer or self.signer), Statement(**words)))

    # ------------------------------------------------------------------ nodes
    def settings_of(self, name: str) -> dict[str, Any]:
        """The node's configuration."""
        return {"fleet.engine": "static", "fleet.node": name, "fleet.members": self.names,
                "fleet.endpoint": f"tcp://{self.addresses[name]}:{self.ports[name]}", "fleet.book": str(self.book),
                "fleet.keys_dir": str(self.keys_dir(name)), "fleet.new_owner": "afresh",
                "fleet.join_seconds": 10, "fleet.lost_seconds": 5,
                **self.config}

    def launch(self, name: str) -> None:
        """Begins to start the node; ``wait_ready`` waits for it."""
        if name in self.nodes:
            daemon = self.nodes[name]
        else:
            daemon = self.nodes[name] = _Node(self.folder / name, self.plugins, self.settings_of(name),
                                              wrapper=self.wrappers.get(name))
        self._waiting = getattr(self, "_waiting", {})
        self._waiting[name] = daemon.launch()

    def wait_ready(self, name: str) -> None:
        """Waits until the node serves hosts."""
        with self._waiting.pop(name) as readiness:
            due = time.monotonic() + 180  # on a machine that is busy with other things
            while not readiness.is_ready():
                self.nodes[name].check_starting(due)

    def start(self, name: str) -> Daemon:
        """Starts a node, or starts it again."""
        self.launch(name)
        self.wait_ready(name)
        return self.nodes[name]

    def nodes_of(self, name: str) -> dict[str, dict[str, Any]]:
        """The rows of ``fleet.status`` at ``name``, by node."""
        return {row["node"]: row for row in self.nodes[name].operate("fleet.status")["nodes"]}

    def states(self, name: str) -> dict[str, str]:
        """What ``name`` knows of each node."""
        return {node: row["state"] for node, row in self.nodes_of(name).items()}

    def wait_whole(self, seconds: float = 120) -> None:
        """Waits until every node sees every node serve."""
        everybody = dict.fromkeys(self.names, "serving")
        running = [name for name in self.names if self.nodes[name].is_running()]
        wait_for(lambda: all(self.states(name) == everybody for name in running), seconds, "a whole fleet")

    def owner(self, plugin: str, at: str = "a") -> str:
        """Which node owns ``plugin``, as ``at`` sees it."""
        return str(self.nodes[at].operate("fleet.owner", id=plugin)["owner"])

    def owned_by(self, node: str, plugins: list[str], at: str = "a") -> list[str]:
        """Those of ``plugins`` that ``node`` owns."""
        return [plugin for plugin in plugins if self.owner(plugin, at) == node]


class _Node(Daemon):
    """A daemon that is not started at once."""

    def start(self) -> None:
        """Later: the nodes wait for each other."""


