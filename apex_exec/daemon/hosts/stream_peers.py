"""A ROUTER on a unix socket without libzmq: the connections of hosts on this machine, served by the loop itself.

We do not use libzmq here for two reasons. It hands every message to an I/O thread, twice for each call, and these two
wake-ups are most of the time of a call on an idle daemon. And its queues hide a peer that does not read or has left.
Here a connection is a file descriptor of the loop: its end is seen at once, the kernel says which uid its peer has, and
the bytes that wait for it are counted. The protocol is the same (``wire/zmtp_router.py``), so hosts go on using libzmq;
``tcp://`` with CURVE stays with libzmq (``zmq_peers.py``), behind the same interface.

Each connection gets one bounded read and a bounded number of messages in its turn, and all connections together get a
few milliseconds before workers and deadlines are looked at again.

Connections are registered edge-triggered and read in ``receive``. So a supervisor that leaves requests unread, because
the ledger is late, does not spin on what hosts have sent.
"""

from __future__ import annotations

import select
import socket as sockets
import struct
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from apex_exec.daemon.hosts.connection_quota import ConnectionQuota
from apex_exec.daemon.hosts.connections import (
    FRAMES_MAX,
    UCRED,
    WAITING_BYTES_MAX,
    WAITING_MESSAGES_MAX,
    Connections,
    Events,
    Peer,
)
from apex_exec.wire.zmtp_router import RouterSession, append_message
from workers.zmtp import GREETING, ZmtpError

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

READ_BYTES = 32_768
"""How much is read of one connection before other connections, workers and timers have their turn; more only to
complete a larger frame."""
READ_BYTES_SHARED = 4096
"""The same if other connections send too; this is about a dozen calls. Beside a flood another host's p99 was 4.5 ms
with this value, and 5.8 ms with 8 KiB. Smaller reads cost calls per second."""
SHARED_NS = 100_000_000
"""How long after a change of turn between two connections both count as sending."""
RECEIVE_NS_MAX = 5_000_000
"""How long ready connections are read in one turn of the loop; those that are left come first in the next turn."""
CONNECTIONS_MAX = 1024
"""How many hosts may be connected at once; one more is accepted and closed. This is far above what a platform's
processes need. At most half of them may be of one uid, so that no local user that ``host.socket_group`` lets in takes
them all."""
UNFINISHED_BYTES_MAX = 128 * 1024 * 1024
"""The bytes of all messages that have begun to arrive. One message alone is bounded first, by the largest message."""
UNREAD_BYTES_MAX = 256 * 1024 * 1024
"""The bytes of all replies that wait for peers that do not read. One peer is bounded first, by WAITING_BYTES_MAX."""
HANDSHAKE_SECONDS_MAX = 10.0
"""A connection that has not sent READY after this time is closed, at the next of the looks that come as often."""
ACCEPT_PAUSE_SECONDS = 0.5
"""How long no connection is accepted after accepting one has failed (EMFILE)."""
BACKLOG = 256
SO_PEERGROUPS = 59
"""Linux 4.13: the supplementary groups of the peer, noted with SO_PEERCRED. Python has no name for it."""
GROUPS_MAX = 256
"""How many groups Python's ``getsockopt`` can return. If a peer has more, only its primary group counts."""
GID = struct.Struct("I")
_OUT = select.EPOLLOUT
_NEWS = ~select.EPOLLOUT
_END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class StreamPeer(Peer):
    """One connection. ``out`` has the encoded bytes that wait to be sent. The connection is ``blocked`` until the
    kernel takes more of them; ``ended`` once the peer writes no more (it is then read to its end); ``queued`` while it
    waits to be read; ``unfinished`` while one of its messages has arrived in part."""

    __slots__ = ("blocked", "born_ns", "ended", "out", "queued", "replies", "session", "socket", "uid", "unfinished")

    def __init__(self, host: bytes, socket: sockets.socket, uid: int, connections: Connections,
                 message_bytes_max: int, now_ns: int) -> None:
        super().__init__(host, socket.fileno(), connections)
        self.socket = socket
        self.uid = uid
        self.ended = False
        self.queued = False
        self.unfinished = False
        self.session = RouterSession(message_bytes_max=message_bytes_max, frames_max=FRAMES_MAX)
        self.out = bytearray(GREETING)
        self.replies = 0
        self.blocked = False
        self.born_ns = now_ns


class StreamPeers:
    """The connections of one unix socket (``connections.Connections``), at most ``connections_max`` (0: as default)."""

    def __init__(self, loop: Loop, events: Events, message_bytes_max: int, connections_max: int = 0) -> None:
        self._loop = loop
        self._events = events
        self._message_bytes_max = message_bytes_max
        self._connections_max = connections_max or CONNECTIONS_MAX
        self._per_uid = max(1, self._connections_max // 2)
        self._listener: sockets.socket | None = None
        self._peers: set[StreamPeer] = set()
        self._latest: StreamPeer | None = None
        self._shared_until_ns = 0
        self._by_uid: Counter[int] = Counter()
        self._unfinished = ConnectionQuota[StreamPeer](UNFINISHED_BYTES_MAX, self._overfull)
        self._unread = ConnectionQuota[StreamPeer](UNREAD_BYTES_MAX, self._overfull)
        self.unread: deque[StreamPeer] = deque()
        """The connections that have something for ``receive`` to read."""
        self.unsent: list[StreamPeer] = []
        """The connections for which ``flush`` has something to send."""
        self._numbers = 0
        self._paused = False
        loop.every(HANDSHAKE_SECONDS_MAX, self._sweep)
        loop.every(ACCEPT_PAUSE_SECONDS, self._resume)

    def __len__(self) -> int:
        return len(self._peers)

    # ------------------------------------------------------------------ connections
    def bind(self, endpoint: str) -> None:
        """Serves ``ipc://<path>``; a second call replaces the listener (its file was deleted). Raises OSError."""
        path = endpoint.removeprefix("ipc://")
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._unlisten()
        self._listener = listener
        self._loop.add(listener.fileno(), self._accept)

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        for _ in range(16):
            try:
                socket, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no fd is free; the listener stays readable, so it is not looked at for a while
                self._loop.modify(self._listener.fileno(), 0)
                self._paused = True
                return
            uid = _uid(socket)
            if len(self._peers) >= self._connections_max or self._by_uid[uid] >= self._per_uid:
                socket.close()
                self._events.broken("too_many_connections", 1)
                continue
            socket.setblocking(False)
            self._numbers += 1
            peer = StreamPeer(b"\0" + struct.pack(">I", self._numbers & 0xFFFFFFFF), socket, uid, self,
                              self._message_bytes_max, time.monotonic_ns())
            self._peers.add(peer)
            self._by_uid[uid] += 1
            self.unsent.append(peer)
            self._loop.add(socket.fileno(), partial(self._event, peer), _EDGE)

    def _resume(self, _: int) -> None:
        if self._paused and self._listener is not None:
            self._paused = False
            self._loop.modify(self._listener.fileno(), select.EPOLLIN)

    def _event(self, peer: StreamPeer, mask: int) -> None:
        if mask & _OUT and peer.blocked:
            peer.blocked = False
            self._unread.note(peer, 0)
            self.unsent.append(peer)
        if mask & _NEWS:
            if mask & _END:
                peer.ended = True
            if not peer.queued:
                peer.queued = True
                self.unread.append(peer)

    def _sweep(self, now_ns: int) -> None:
        """Closes connections that never finished their handshake."""
        late_ns = now_ns - int(HANDSHAKE_SECONDS_MAX * 1e9)
        for peer in [p for p in self._peers if not p.session.ready and p.born_ns < late_ns]:
            self._forget(peer)

    # ------------------------------------------------------------------ receiving
    def receive(self) -> bool:
        """Reads each connection that has something to read once, for RECEIVE_NS_MAX in all. True if more may wait."""
        unread = self.unread
        until_ns = 0
        for count in range(len(unread)):
            peer = unread.popleft()
            peer.queued = False
            if not peer.gone:
                self._read(peer)
            if count & 3 == 3:  # usually fewer connections are ready, and the clock is not read at all
                now_ns = time.monotonic_ns()
                until_ns = until_ns or now_ns + RECEIVE_NS_MAX
                if now_ns > until_ns:
                    break
        return bool(unread)

    def _read(self, peer: StreamPeer) -> None:
        session = peer.session
        if session.more:
            data, more = b"", True
        else:
            want = session.missing_bytes
            now_ns = time.monotonic_ns()
            if peer is not self._latest:
                self._latest, self._shared_until_ns = peer, now_ns + SHARED_NS
            usual = READ_BYTES if now_ns > self._shared_until_ns else READ_BYTES_SHARED
            if want < usual:
                want = usual
            try:
                data = peer.socket.recv(want)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._forget(peer)
                return
            more = len(data) == want or peer.ended
        try:
            messages = session.feed(data)
        except ZmtpError:
            self._events.broken("unroutable", 1)
            self.drop(peer)
            return
        if session.answers:
            self._queue(peer, session.answers)
            session.answers.clear()
            if peer.gone:
                return
        if more or session.more:  # edge-triggered: epoll reports no event for what is still there
            peer.queued = True
            self.unread.append(peer)
        if session.unfinished_bytes or peer.unfinished:
            if messages and peer.unfinished:  # this is another message than before, which holds bytes from now on
                self._unfinished.note(peer, 0)
            peer.unfinished = session.unfinished_bytes > 0
            self._unfinished.note(peer, session.unfinished_bytes)
        peer.foreign = bool(session.identity)
        handle = self._events.message
        for frames, body in messages:
            if peer.gone:  # dropped while this batch was answered: the rest would have nobody to answer
                return
            handle(peer, frames, body)

    # ------------------------------------------------------------------ sending
    def reply(self, peer: Any, frames: list[bytes], body: bytes) -> None:
        """Queues one reply for ``flush``. Drops the reply if the peer is gone, and drops the peer if too much waits for
        it. ``peer`` is a StreamPeer; every reply passes here, so that is not asserted."""
        if peer.gone:
            self._events.broken("unread", 1)
            return
        out = peer.out
        if not out:
            self.unsent.append(peer)
        append_message(out, frames, body)
        peer.replies += 1
        if peer.blocked:
            self._unread.note(peer, len(out))
            if peer.gone:
                return
        if len(out) > WAITING_BYTES_MAX or peer.replies > WAITING_MESSAGES_MAX:
            self._write(peer)
            if len(out) > WAITING_BYTES_MAX or peer.replies > WAITING_MESSAGES_MAX:
                self.drop(peer)

    def _queue(self, peer: StreamPeer, data: bytes | bytearray) -> None:
        if not peer.out:
            self.unsent.append(peer)
        peer.out += data
        if peer.blocked:
            self._unread.note(peer, len(peer.out))
        if len(peer.out) > WAITING_BYTES_MAX:  # the peer sends PINGs and does not read the PONGs
            self.drop(peer)

    def flush(self) -> None:
        """Writes what is queued, with one system call for each connection."""
        unsent, self.unsent = self.unsent, []
        for peer in unsent:
            self._write(peer)

    def _write(self, peer: StreamPeer) -> None:
        out = peer.out
        if peer.gone or peer.blocked or not out:
            return
        try:
            sent = peer.socket.send(out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._forget(peer)
            return
        if sent == len(out):
            out.clear()
            peer.replies = 0
        else:
            del out[:sent]
            peer.blocked = True
            self._unread.note(peer, len(out))

    # ------------------------------------------------------------------ ends
    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer`` now; replies that wait for it are lost and counted."""
        assert isinstance(peer, StreamPeer)
        self._forget(peer)

    def _overfull(self, peer: StreamPeer) -> None:
        """All connections together hold too much, and ``peer`` is the one that is closed."""
        self._events.broken("held_too_much", 1)
        self._forget(peer)

    def _forget(self, peer: StreamPeer) -> None:
        if peer.gone:
            return
        peer.gone = True
        self._peers.discard(peer)
        if self._latest is peer:
            self._latest = None
        self._by_uid[peer.uid] -= 1
        if not self._by_uid[peer.uid]:
            del self._by_uid[peer.uid]
        self._unfinished.forget(peer)
        self._unread.forget(peer)
        self._loop.remove(peer.fd)
        peer.socket.close()
        if peer.replies:
            self._events.broken("unread", peer.replies)
        peer.out.clear()
        self._events.gone(peer)

    def identity(self, peer: Peer) -> tuple[int, int, tuple[int, ...]]:
        """(uid, gid, other groups) of the process behind ``peer``, as the kernel noted them at connect; (-1, -1, ()) if
        it does not say."""
        assert isinstance(peer, StreamPeer)
        return _identity(peer.socket)

    def close(self) -> None:
        """Sends what the kernel takes at once, and ends every connection. The socket's file stays in its folder."""
        self.flush()
        self._unlisten()
        for peer in list(self._peers):
            self._forget(peer)


def _uid(socket: sockets.socket) -> int:
    """The user of the process that connected; -1 if the kernel does not say."""
    try:
        raw = socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, UCRED.size)
    except OSError:
        return -1
    _, uid, _ = UCRED.unpack(raw)
    return int(uid)


def _identity(socket: sockets.socket) -> tuple[int, int, tuple[int, ...]]:
    try:
        _, uid, gid = UCRED.unpack(socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, UCRED.size))
    except OSError:
        return -1, -1, ()
    try:
        raw = socket.getsockopt(sockets.SOL_SOCKET, SO_PEERGROUPS, GROUPS_MAX * GID.size)
    except OSError:  # ERANGE, or no such option
        return uid, gid, ()
    return uid, gid, tuple(number for (number,) in GID.iter_unpack(raw))
