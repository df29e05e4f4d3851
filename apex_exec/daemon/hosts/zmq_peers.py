"""The connections of a libzmq ROUTER, for ``tcp://`` with CURVE: who sits on which routing id, and when each ends.

ROUTER gives no event for a peer that leaves. Each message's SRCFD names the socket it came from, and the socket
monitor says when a socket was accepted and when it ended; the kernel gives a freed fd to the next connection, so the
monitor is read before an unknown routing id is believed. The monitor is a ZeroMQ socket too: its FD is edge-triggered
and its EVENTS must be read until it is empty.
"""

from __future__ import annotations

import os
import socket as sockets
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from apex_exec.daemon.hosts.connections import (
    FRAMES_MAX,
    WAITING_BYTES_MAX,
    WAITING_MESSAGES_MAX,
    Connections,
    Events,
    Peer,
)
from apex_exec.wire.zmtp_router import ENVELOPE_BYTES_MAX

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

BATCH = 64
"""Messages taken before workers and timers get their turn."""
STRANGERS_MAX = 64
"""Connections that have not shown a known key yet; of more the oldest is shut down. A handshake takes a millisecond."""
HANDSHAKE_BYTES_MIN = 64 + 202 + 257
"""What CURVE has a client send (greeting, HELLO, INITIATE) until libzmq has asked whether its key is known.

libzmq closes a connection that sends anything else, or a key that is not; so a connection that has sent as much and is
still there is not a stranger. (The monitor's news of a handshake that succeeded does not say whose.)"""
TCP_INFO_BYTES_RECEIVED = 128
"""Where ``tcpi_bytes_received`` stands in Linux's ``struct tcp_info``."""
HANDSHAKE_MS_MAX = 10_000
SEND_MESSAGES_MAX = 256
"""ZMQ_SNDHWM: replies that libzmq holds for one connection before it says EAGAIN."""

_POLLIN = int(zmq.POLLIN)
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_SRCFD = int(zmq.SRCFD)


class ZmqPeer(Peer):
    """One connection, and the replies that libzmq did not take yet. ``user`` is whose CURVE key it has shown."""

    __slots__ = ("user", "waiting", "waiting_bytes")

    def __init__(self, host: bytes, fd: int, connections: Connections, user: str) -> None:
        super().__init__(host, fd, connections)
        self.user = user
        self.foreign = host[0] != 0  # libzmq gives those that it makes a first byte of 0
        self.waiting: deque[tuple[list[bytes], bytes]] = deque()
        self.waiting_bytes = 0


class ZmqPeers:
    """The connections of one ROUTER (``connections.Connections``)."""

    unread = True  # only libzmq knows, and a send may have used its descriptor's event up
    unsent = False

    def __init__(self, loop: Loop, events: Events, router: zmq.Socket[bytes], message_bytes_max: int,
                 connections_max: int) -> None:
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX)
        router.setsockopt(zmq.LINGER, 1000)
        router.setsockopt(zmq.MAXMSGSIZE, message_bytes_max)  # beyond: libzmq drops the connection
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a full or unknown peer is an error, not a silent loss
        router.setsockopt(zmq.SNDHWM, SEND_MESSAGES_MAX)
        self._router = router
        self._events = events
        self._send: Callable[[bytes, int], Any] = super(zmq.Socket, router).send  # less Python a frame
        self._peers: dict[bytes, ZmqPeer] = {}
        self._by_fd: dict[int, list[ZmqPeer]] = {}
        self._slow: set[ZmqPeer] = set()
        self._connections_max = connections_max
        self._strangers: OrderedDict[int, None] = OrderedDict()  # fds of connections before their handshake's end
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)

        for fd in (int(router.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))):
            loop.add(fd, lambda _: self.follow())  # both FDs only say that something changed; ``receive`` looks what

    def bind(self, endpoint: str) -> None:
        """Serves ``endpoint``. Raises OSError."""
        try:
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from None

    def flush(self) -> None:
        """Nothing waits here: libzmq was given everything."""

    def __len__(self) -> int:
        return sum(map(len, self._by_fd.values()))

    # ------------------------------------------------------------------ receiving
    def receive(self) -> bool:
        """Takes up to BATCH messages; True if more may be waiting. Call it in every round: sends use the FD up."""
        if self._slow:
            self._retry()
        recv, more, peers, on_message = self._router.recv, self._router.getsockopt, self._peers, self._events.message
        for _ in range(BATCH):
            try:
                host = recv(_NOBLOCK)
            except zmq.Again:
                return False
            peer = peers.get(host)
            if peer is None:
                frame: Any = recv(_NOBLOCK, copy=False)
                body, fd = frame.bytes, frame.get(_SRCFD)
                peer = self._arrived(host, fd, _user_of(frame))
            else:
                body = recv(_NOBLOCK)
            frames: list[bytes] = []
            while more(_RCVMORE):
                frames.append(body)
                body = recv(_NOBLOCK)  # the rest of a message is there when its first frame is
            if peer is None:
                continue
            if frames and (len(frames) > FRAMES_MAX or sum(map(len, frames)) > ENVELOPE_BYTES_MAX):
                self._events.broken("unroutable", 1)
                self.drop(peer)
            else:
                on_message(peer, frames, body)
        return True

    def _arrived(self, host: bytes, fd: int, user: str) -> ZmqPeer | None:
        """The peer of a routing id not seen before; None if its connection has ended already.

        The monitor is read first: a reused fd's DISCONNECTED and ACCEPTED stand there before its first message.
        """
        self.follow()
        if fd not in self._by_fd:
            return None
        peer = self._peers[host] = ZmqPeer(host, fd, self, user)
        self._by_fd[fd].append(peer)
        return peer

    def follow(self) -> None:
        """Takes what the monitor has: connections that came and went."""
        while int(self._monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
            event = recv_monitor_message(self._monitor)
            fd = int(event["value"])  # the socket's file descriptor
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._end(fd)
                self._by_fd[fd] = []
                self._strangers[fd] = None
                self._bound(fd)
            else:
                self._end(fd)

    def _bound(self, newest: int) -> None:
        """Shuts down what is too much: a TCP connection costs its maker no key, and us a descriptor that a
        worker, a known host or an administrator then lacks."""
        while len(self._strangers) > STRANGERS_MAX:
            oldest, _ = self._strangers.popitem(last=False)
            if _received(oldest) < HANDSHAKE_BYTES_MIN:
                _shut(oldest)
                self._events.broken("too_many_connections", 1)
        if len(self._by_fd) > self._connections_max:
            self._strangers.pop(newest, None)
            _shut(newest)
            self._events.broken("too_many_connections", 1)

    def _end(self, fd: int) -> None:
        self._strangers.pop(fd, None)
        for peer in self._by_fd.pop(fd, ()):
            self._peers.pop(peer.host, None)
            self._forget(peer)

    def _forget(self, peer: ZmqPeer) -> None:
        if peer.gone:
            return
        peer.gone = True
        self._slow.discard(peer)
        if peer.waiting:
            self._events.broken("unread", len(peer.waiting))
            peer.waiting.clear()
        self._events.gone(peer)

    # ------------------------------------------------------------------ sending
    def reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        """Sends one reply, keeps it while the peer reads slowly, drops it if the peer is gone. Never waits."""
        assert isinstance(peer, ZmqPeer)
        if peer.gone:
            self._events.broken("unread", 1)
            return
        if peer.waiting:
            self._keep(peer, frames, body)
            return
        send = self._send
        try:
            send(peer.host, _MORE)  # EAGAIN and EHOSTUNREACH can only come here: libzmq decides by message
            for frame in frames:
                send(frame, _MORE)
            send(body, _NOBLOCK)
        except zmq.Again:
            self._slow.add(peer)
            self._keep(peer, frames, body)
        except zmq.ZMQError:
            self._events.broken("unread", 1)
            self._events.broken("unroutable", 1)

    def _keep(self, peer: ZmqPeer, frames: list[bytes], body: bytes) -> None:
        peer.waiting.append((frames, body))
        peer.waiting_bytes += len(body)
        if peer.waiting_bytes > WAITING_BYTES_MAX or len(peer.waiting) > WAITING_MESSAGES_MAX:
            self.drop(peer)

    def _retry(self) -> None:
        """Sends what waits, as far as libzmq takes it; it wakes the FD whenever a full peer has room again."""
        send = self._send
        for peer in list(self._slow):
            try:
                while peer.waiting:
                    frames, body = peer.waiting[0]
                    send(peer.host, _MORE)
                    for frame in frames:
                        send(frame, _MORE)
                    send(body, _NOBLOCK)
                    peer.waiting.popleft()
                    peer.waiting_bytes -= len(body)
                self._slow.discard(peer)
            except zmq.Again:
                continue
            except zmq.ZMQError:
                self._events.broken("unread", len(peer.waiting))
                peer.waiting.clear()
                peer.waiting_bytes = 0
                self._slow.discard(peer)

    def drop_users(self, is_known: Callable[[str], bool]) -> None:
        """Ends the connections of those who are known no longer."""
        for peer in [peer for peer in self._peers.values() if not is_known(peer.user)]:
            self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``. libzmq has no call for it, but it sees its socket shut down."""
        assert isinstance(peer, ZmqPeer)
        fd = peer.fd
        self.follow()
        if not peer.gone and fd in self._by_fd:
            _shut(fd)
        self._forget(peer)

    def close(self) -> None:
        """Closes the socket and its monitor; unsent replies have the context's linger."""
        self._router.disable_monitor()
        self._router.close()


def _user_of(frame: Any) -> str:
    """Whose key the connection of ``frame`` has shown; "" if it was not asked for one."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _received(fd: int) -> int:
    """How many bytes have arrived on libzmq's connection ``fd``; 0 if it has ended or the kernel does not say."""
    try:
        with sockets.socket(fileno=os.dup(fd)) as twin:
            info = twin.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, TCP_INFO_BYTES_RECEIVED + 8)
    except OSError:
        return 0
    return int.from_bytes(info[TCP_INFO_BYTES_RECEIVED:], sys.byteorder)


def _shut(fd: int) -> None:
    """Shuts libzmq's connection ``fd`` down; libzmq then sees its end and closes it."""
    try:
        with sockets.socket(fileno=os.dup(fd)) as twin:
            if twin.family != sockets.AF_UNIX:  # it has ended, and the number is a worker's or a side's now
                twin.shutdown(sockets.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself
