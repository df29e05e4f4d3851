"""Where the other nodes connect, and hosts by tcp: a libzmq ROUTER with CURVE, for keys that are known.

A connection is a node's if its key stands in a statement that holds, and a host's if its key is in
``host.curve_keys_dir``. What comes from a node says in its first frame what it is; nothing that a host sends can make
it a node.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import zmq
from zmq.auth import create_certificates, load_certificate

from apex_exec.config import Settings
from apex_exec.daemon.hosts.connections import REFUSED_FACTOR, Connections, Events, Peer
from apex_exec.daemon.hosts.host_socket import HostSocket
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.daemon.hosts.tcp_hosts import ZAP_DOMAIN, Curve, Zap
from apex_exec.daemon.hosts.zmq_peers import ZmqPeer, ZmqPeers
from apex_exec.errors import Code, ConfigError, WireError
from apex_exec.fleet.messages import Node
from apex_exec.wire import codec, node_messages

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

log = logging.getLogger("apex_exec")

CONNECTIONS_MAX = 1024
CURVE_KEY = "node.key_secret"
NODE, HOST = "n:", "h:"
"""Before the name that a key belongs to: of a node, or of a host."""


@contextmanager
def _owners_alone() -> Iterator[None]:
    """Files that are made meanwhile are their owner's alone."""
    old = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(old)


def load_pair(settings: Settings) -> tuple[bytes, bytes]:
    """This node's own CURVE pair, made if there is none and the node signs its own statement. Raises ConfigError."""
    path = settings.fleet_keys_path / CURVE_KEY
    try:
        if settings.fleet.signing_key and not path.exists():  # who may sign its statement may make its pair
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _owners_alone():
                create_certificates(path.parent, CURVE_KEY.removesuffix(".key_secret"))
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"fleet.keys_dir: other users can read {path}; run: chmod 600 {path}")
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"fleet.keys_dir: {path}: {error}; make it with `apex-exec fleet keys`") from None
    if secret is None:
        raise ConfigError(f"fleet.keys_dir: {path} contains no secret key; make one with `apex-exec fleet keys`")
    return public, secret


class NodeEndpoint:
    """The ROUTER and who may connect to it. Raises ConfigError."""

    def __init__(self, settings: Settings) -> None:
        self.public, self._secret = load_pair(settings)
        self.context: zmq.Context[Any] = zmq.Context()
        self.connections: ZmqPeers | None = None
        self._message_bytes_max = REFUSED_FACTOR * settings.host.max_message_bytes
        self._lost_ms = int(settings.fleet.lost_seconds * 1000)
        self._hosts = Curve(settings.host.curve_keys_dir) if settings.host.curve_keys_dir else None
        self._nodes: dict[bytes, str] = {}
        self._zap: Zap | None = None
        self._told: set[str] = set()

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """This node's own."""
        return self.public, self._secret

    def open(self, loop: Loop, events: Events) -> Connections:
        """The connections, secured and not bound yet."""
        self._zap = Zap(self.context, loop, self._known, self._denied)
        router: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        router.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        router.setsockopt(zmq.HEARTBEAT_IVL, self._lost_ms // 3)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, self._lost_ms)
        router.setsockopt(zmq.RCVHWM, 10_000)
        self.connections = ZmqPeers(loop, events, router, self._message_bytes_max, CONNECTIONS_MAX)
        return self.connections

    def admit(self, nodes: list[Node], own: str) -> None:
        """Lets in these nodes and no others: who is one no longer has its connection ended."""
        self._nodes = {curve.encode(): f"{NODE}{node.name}" for node in nodes if node.name != own
                       for curve in node.curves}
        if self.connections is not None:
            known = {*self._nodes.values(), *(f"{HOST}{name}" for name in self._host_keys().values())}
            self.connections.drop_users(known.__contains__)

    def _host_keys(self) -> dict[bytes, str]:
        return self._hosts.clients if self._hosts is not None else {}

    def _known(self, key: bytes) -> str:
        if node := self._nodes.get(key):
            return node
        host = self._host_keys().get(key)
        return f"{HOST}{host}" if host else ""

    def _denied(self, address: str) -> None:
        if address not in self._told and len(self._told) < CONNECTIONS_MAX:  # it tries again, every second
            self._told.add(address)
            log.warning("a connection from %s was refused: its CURVE key belongs neither to a node with a valid "
                        "statement nor to a host; this is logged once for each address", address)

    def close(self) -> None:
        """Lets the last replies leave, for a second at most."""
        if self._zap is not None:
            self._zap.close()
        self.context.destroy(linger=1000)


class NodeSocket(HostSocket):
    """Takes what comes there. ``said(peer, message)`` takes what a node says of itself."""

    def __init__(self, loop: Loop, endpoint: NodeEndpoint, requests: Requests, *, bytes_max: int, metrics: Metrics,
                 logs: Logs, said: Callable[[Peer, node_messages.Said], None]) -> None:
        self._said = said
        super().__init__(loop, endpoint.open, requests, bytes_max=bytes_max, metrics=metrics, logs=logs)

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        if not peer.node:
            if not (isinstance(peer, ZmqPeer) and peer.user.startswith(NODE)):
                super()._message(peer, frames, body)
                return
            peer.node = peer.user[len(NODE):]
        mark = frames[0] if frames else b""
        if mark == node_messages.FORWARDED + peer.node.encode():
            super()._message(peer, frames, body)
        elif mark == node_messages.CONTROL:
            self._control(peer, body)
        else:
            self._metrics.inc("protocol_anomalies_total", ("forwarded_again",))
            sender = mark[1:].decode(errors="replace")[:63] if mark.startswith(node_messages.FORWARDED) else ""
            self._refuse(peer, frames, codec.peek_id(body), WireError(Code.PROTOCOL_ERROR, (
                f"this call was forwarded already, by the node {sender!a}; {peer.node} may not forward it again"
                if sender else f"the node {peer.node} does not say what this message is")))

    def _control(self, peer: Peer, body: bytes) -> None:
        try:
            message = node_messages.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._metrics.inc("protocol_anomalies_total", ("unreadable_node",))
            log.debug("the node %s says what cannot be read: %s", peer.node, error)
            return
        self._said(peer, message)
