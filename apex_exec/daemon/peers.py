"""A ROUTER socket and the connections behind it: who sits on which routing id, and when each of them ends.

ROUTER gives no event for a peer that leaves. Each message's SRCFD names the socket it came from, and the socket
monitor says when a socket was accepted and when it ended; the kernel gives a freed fd to the next connection, so the
monitor is read before an unknown routing id is believed. The monitor is a ZeroMQ socket too: its FD is edge-triggered
and its EVENTS must be read until it is empty.
"""

from __future__ import annotations

import os
import socket as sockets
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

BATCH = 64
"""Messages taken before workers and timers get their turn."""
FRAMES_MAX = 16
"""Frames of one message; REQ sends two."""
SEND_MESSAGES_MAX = 256
"""ZMQ_SNDHWM: replies that libzmq holds for one connection before it says EAGAIN."""
WAITING_BYTES_MAX = 32 * 1024 * 1024
WAITING_MESSAGES_MAX = 10_000
"""Replies held here beyond that, for a peer that reads slowly. Above either, the connection is dropped."""
UCRED = struct.Struct("3i")

_POLLIN = int(zmq.POLLIN)
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_SRCFD = int(zmq.SRCFD)


class Peer:
    """One connection. ``pending`` maps the ids of its requests without a reply to their calls."""

    __slots__ = ("fd", "gone", "host", "pending", "waiting", "waiting_bytes")

    def __init__(self, host: bytes, fd: int) -> None:
        self.host = host
        self.fd = fd
        self.pending: dict[int | str, int] = {}
        self.waiting: deque[tuple[list[bytes], bytes]] = deque()
        self.waiting_bytes = 0
        self.gone = False


Receive = Callable[[Peer, list[bytes], bytes], None]


class Peers:
    """The connections of one ROUTER. ``on_message(peer, frames between id and body, body)``; ``on_gone(peer)``.

    ``on_dropped(count)`` hears of replies that nobody will read, ``on_alien(frames, body)`` of messages under a
    routing id that the peer chose itself.
    """

    def __init__(self, router: zmq.Socket[bytes], *, on_message: Receive, on_gone: Callable[[Peer], None],
                 on_alien: Callable[[Peer, list[bytes]], None], on_dropped: Callable[[int], None],
                 on_unroutable: Callable[[], None] = lambda: None) -> None:
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a full or unknown peer is an error, not a silent loss
        router.setsockopt(zmq.SNDHWM, SEND_MESSAGES_MAX)
        self._router = router
        self._on_message = on_message
        self._on_gone = on_gone
        self._on_alien = on_alien
        self._on_dropped = on_dropped
        self._on_unroutable = on_unroutable
        self._send: Callable[[bytes, int], Any] = super(zmq.Socket, router).send  # less Python a frame
        self._peers: dict[bytes, Peer] = {}
        self._by_fd: dict[int, list[Peer]] = {}
        self._slow: set[Peer] = set()
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)

    def fds(self) -> tuple[int, int]:
        """What to poll: the router's and the monitor's FD, both edge-triggered."""
        return int(self._router.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))

    def __len__(self) -> int:
        return sum(map(len, self._by_fd.values()))

    # ------------------------------------------------------------------ receiving
    def receive(self) -> bool:
        """Takes up to BATCH messages; True where more may be waiting. Call it in every round: sends use the FD up."""
        if self._slow:
            self._retry()
        recv, more, peers, on_message = self._router.recv, self._router.getsockopt, self._peers, self._on_message
        for _ in range(BATCH):
            try:
                host = recv(_NOBLOCK)
            except zmq.Again:
                return False
            peer = peers.get(host)
            if peer is None:
                frame: Any = recv(_NOBLOCK, copy=False)
                body, fd = frame.bytes, frame.get(_SRCFD)
                peer = self._arrived(host, fd)
            else:
                body = recv(_NOBLOCK)
            frames: list[bytes] = []
            while more(_RCVMORE):
                frames.append(body)
                body = recv(_NOBLOCK)  # the rest of a message is there when its first frame is
            if peer is None:
                continue
            if host[0] != 0:
                self._on_alien(peer, frames)
            elif len(frames) <= FRAMES_MAX:
                on_message(peer, frames, body)
        return True

    def _arrived(self, host: bytes, fd: int) -> Peer | None:
        """The peer of a routing id not seen before; None where its connection has ended already.

        The monitor is read first: a reused fd's DISCONNECTED and ACCEPTED stand there before its first message.
        """
        self.follow()
        if fd not in self._by_fd:
            return None
        peer = self._peers[host] = Peer(host, fd)
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
            else:
                self._end(fd)

    def _end(self, fd: int) -> None:
        for peer in self._by_fd.pop(fd, ()):
            self._peers.pop(peer.host, None)
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        if peer.gone:
            return
        peer.gone = True
        self._slow.discard(peer)
        if peer.waiting:
            self._on_dropped(len(peer.waiting))
            peer.waiting.clear()
        self._on_gone(peer)

    # ------------------------------------------------------------------ sending
    def reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        """Sends one reply, keeps it while the peer reads slowly, drops it where the peer is gone. Never waits."""
        if peer.gone:
            self._on_dropped(1)
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
            self._on_dropped(1)
            self._on_unroutable()

    def _keep(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
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
                self._on_dropped(len(peer.waiting))
                peer.waiting.clear()
                peer.waiting_bytes = 0
                self._slow.discard(peer)

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``. libzmq has no call for it, but it sees its socket shut down."""
        fd = peer.fd
        self.follow()
        if not peer.gone and fd in self._by_fd:
            try:
                with sockets.socket(fileno=os.dup(fd)) as twin:
                    twin.shutdown(sockets.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself
        self._forget(peer)

    def credentials(self, peer: Peer) -> tuple[int, int]:
        """(uid, pid) of the process behind a unix socket, as the kernel noted them at connect; (-1, 0) if unknown."""
        try:
            with sockets.socket(fileno=os.dup(peer.fd)) as twin:
                pid, uid, _ = UCRED.unpack(twin.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, UCRED.size))
        except OSError:
            return -1, 0
        return uid, pid

    def close(self) -> None:
        """Closes the socket and its monitor; unsent replies have the context's linger."""
        self._router.disable_monitor()
        self._router.close()
