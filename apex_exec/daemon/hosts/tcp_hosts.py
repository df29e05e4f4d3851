"""Hosts over ``tcp://``: libzmq's ROUTER with CURVE, for clients whose keys are known. Nothing else needs libzmq.

It is imported only if an endpoint is ``tcp://``: with what it brings along it takes a fifth of the daemon's start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from apex_exec.config import Settings
from apex_exec.daemon.hosts.connections import REFUSED_FACTOR, Connections, Events
from apex_exec.daemon.hosts.zmq_peers import ZmqPeers
from apex_exec.errors import ConfigError

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"apex-exec"
SERVER_KEY = "server.key_secret"
HEARTBEAT_MS, HEARTBEAT_LOST_MS = 300, 900
"""On tcp a host whose machine or network has gone sends no end of its connection; libzmq asks it, and gives it up."""


class Curve:
    """Our key pair and the clients' public keys, from ``host.curve_keys_dir``. Raises ConfigError."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        if not folder or not self._folder.is_dir():
            raise ConfigError("host.endpoint: tcp needs host.curve_keys_dir with server.key_secret and one "
                              "<client>.key for each client; make them with `apex-exec keys curve NAME`")
        secret = self._folder / SERVER_KEY
        try:
            if secret.stat().st_mode & 0o077:
                raise ConfigError(f"host.curve_keys_dir: other users can read {secret}; run: chmod 600 {secret}")
            self.public, self.secret = load_certificate(secret)
        except (OSError, ValueError) as error:
            raise ConfigError(f"host.curve_keys_dir: {secret} cannot be read: {error}") from None
        if not self.secret:
            raise ConfigError(f"host.curve_keys_dir: {secret} contains no secret key; make one with "
                              "`apex-exec keys curve server`")
        self.clients: dict[bytes, str] = {}
        self.read_clients()

    def secure(self, router: zmq.Socket[bytes]) -> None:
        """Makes ``router`` speak CURVE only, to clients whose keys are known. Before it is bound."""
        router.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self.secret or b"")

    def read_clients(self) -> None:
        """Reads the clients' keys anew. Raises ConfigError, and then keeps those it had."""
        clients: dict[bytes, str] = {}
        for path in sorted(self._folder.glob("*.key")):
            try:
                public, _ = load_certificate(path)
            except (OSError, ValueError) as error:
                raise ConfigError(f"host.curve_keys_dir: {path} cannot be read: {error}") from None
            if public != self.public:
                clients[public] = path.stem
        if not clients:
            raise ConfigError(f"host.curve_keys_dir: {self._folder} contains no client's key, so nobody could "
                              "connect; make one with `apex-exec keys curve NAME`")
        self.clients = clients


class Zap:
    """Answers libzmq's question whether a CURVE key may connect (ZAP, rfc.zeromq.org/spec/27), in the loop.

    ``known`` gives the name that belongs to a key (z85), "" if none does; it becomes the ``user`` of the connection."""

    def __init__(self, context: zmq.Context[Any], loop: Loop, known: Callable[[bytes], str],
                 on_denied: Callable[[str], None]) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)  # before the ROUTER binds: libzmq asks nobody who comes later
        self._known = known
        self._on_denied = on_denied
        loop.add(int(self._socket.getsockopt(zmq.FD)), self._ready)

    def _ready(self, _mask: int) -> None:
        while True:  # the FD is edge-triggered: until nothing is left
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            version, request, _, address, _, mechanism, *keys = frames
            known = ""
            if mechanism == b"CURVE" and keys:
                known = self._known(z85.encode(keys[0]))
            if not known:
                self._on_denied(address.decode(errors="replace"))
            answer = (b"200", b"OK", known.encode()) if known else (b"400", b"unknown key", b"")
            self._socket.send_multipart([version, request, *answer, b""])

    def close(self) -> None:
        """Closes its socket."""
        self._socket.close()


class TcpHosts:
    """Hosts over ``tcp://``: libzmq's ROUTER with CURVE, for the clients whose keys are known. Raises ConfigError."""

    def __init__(self, settings: Settings, connections_max: int, on_denied: Callable[[str], None]) -> None:
        self._connections_max = connections_max
        self.curve = Curve(settings.host.curve_keys_dir)
        self._message_bytes_max = REFUSED_FACTOR * settings.host.max_message_bytes
        self._on_denied = on_denied
        self._context: zmq.Context[Any] = zmq.Context()
        self._zap: Zap | None = None

    def open(self, loop: Loop, events: Events) -> Connections:
        """The connections, secured and not bound yet."""
        self._zap = Zap(self._context, loop, lambda key: self.curve.clients.get(key, ""), self._on_denied)
        router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self.curve.secure(router)
        router.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_LOST_MS)
        return ZmqPeers(loop, events, router, self._message_bytes_max, self._connections_max)

    def close(self) -> None:
        """Lets the last replies leave, for a second at most."""
        if self._zap is not None:
            self._zap.close()
        self._context.destroy(linger=1000)  # the monitor would keep ``term`` waiting
