"""A link to one other node: a DEALER with CURVE on which this node sends what it forwards. Nothing here waits.

One connection is one socket: libzmq does not connect again by itself, so what was sent on a link that has ended is
never sent later, and the link is what says whether the node is there. Heartbeats end it within a second if the network
or the machine has gone without a word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from apex_exec.core.limits import MS_NS
from apex_exec.fleet.messages import Node

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

log = logging.getLogger("apex_exec")

CONNECT_MS_MAX = 1000
"""A node that does not answer by then, to a connection or its handshake, is lost, and tried again."""
RETRY_MS = 200
RETRY_REFUSED_MS = 1000
BATCH = 64
"""Messages taken from one link before the others, workers and timers get their turn."""
UNSENT_MAX = 10_000
"""ZMQ_SNDHWM: what libzmq holds for a node that reads slowly; more is answered OVERLOADED."""
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_POLLIN = int(zmq.POLLIN)
_ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | (
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_EVENTS = _ENDS | zmq.EVENT_HANDSHAKE_SUCCEEDED

Sent = Literal["sent", "full", "down"]


class NodeLink:
    """``pair`` is this node's own CURVE pair. ``on_up(link)`` is called when the handshake is done, ``on_down(link,
    refused)`` when the link has ended (``lost_ms`` after the node's last sign of life at the latest, and at once if it
    sends more than ``bytes_max`` in one message), ``on_message(link, frames, body)`` for what the node says."""

    def __init__(self, loop: Loop, context: zmq.Context[Any], node: Node, pair: tuple[bytes, bytes], *,
                 lost_ms: int, bytes_max: int, on_up: Callable[[NodeLink], None],
                 on_down: Callable[[NodeLink, bool], None],
                 on_message: Callable[[NodeLink, list[bytes], bytes], None]) -> None:
        self.name = node.name
        self.node = node
        self.up = False
        self.lives = 0
        """How many connections there have been: what one of them has asked for, the next may not get."""
        self.due_ns = 0
        """When it is to be opened again, while it is closed."""
        self._loop = loop
        self._context = context
        self._pair = pair
        self._lost_ms = lost_ms
        self._bytes_max = bytes_max
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._tries = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._fds: list[int] = []
        self._send: Callable[..., Any] = _down
        self._unread = False

    @property
    def is_open(self) -> bool:
        """Whether it is up, or on its way there."""
        return self._socket is not None

    def open(self) -> None:
        """Begins to connect; with the next of the node's keys, if the last one was not its."""
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket = socket
        for option, value in ((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.RECONNECT_IVL, -1),
                              (zmq.CONNECT_TIMEOUT, CONNECT_MS_MAX), (zmq.HANDSHAKE_IVL, CONNECT_MS_MAX),
                              (zmq.HEARTBEAT_IVL, self._lost_ms // 3), (zmq.HEARTBEAT_TIMEOUT, self._lost_ms),
                              (zmq.SNDHWM, UNSENT_MAX), (zmq.RCVHWM, UNSENT_MAX),
                              (zmq.MAXMSGSIZE, self._bytes_max)):
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.node.curves[self._tries % len(self.node.curves)].encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair[0])
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair[1])
        self._tries += 1
        self.lives += 1
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._send = super(zmq.Socket, socket).send  # less Python a frame
        self._fds = [int(socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))]
        self._loop.add(self._fds[0], self._readable)
        self._loop.add(self._fds[1], lambda _: self._follow())
        try:
            socket.connect(self.node.endpoint)
        except zmq.ZMQError as error:  # a host name without an address, as of a machine that is away
            log.debug("the node %s: %s: %s", self.name, self.node.endpoint, error)
            self._end(refused=False)
            return
        self._follow()  # a pipe wakes its FD only once it was found empty

    def _readable(self, _: int) -> None:
        self._unread = True

    def _follow(self) -> None:
        """Takes what the monitor has. Its FD is edge-triggered: until nothing is left."""
        monitor = self._monitor
        while monitor is not None and monitor is self._monitor and int(monitor.getsockopt(zmq.EVENTS)) & _POLLIN:
            event = recv_monitor_message(monitor)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.up, self._unread = True, True
                self._on_up(self)
            else:
                self._end(refused=event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH)

    def receive(self) -> bool:
        """Takes a bounded number of messages; True if more may be waiting. Call it in every round."""
        socket = self._socket
        if not self._unread or socket is None:
            return False
        for _ in range(BATCH):
            try:
                body = socket.recv(_NOBLOCK)
            except zmq.Again:
                self._unread = False
                return False
            frames: list[bytes] = []
            while socket.getsockopt(_RCVMORE):
                frames.append(body)
                body = socket.recv(_NOBLOCK)
            self._on_message(self, frames, body)
            if socket is not self._socket:
                return False
        return True

    def send(self, frame: bytes, body: bytes) -> Sent:
        """Gives libzmq one message: ``sent``; or, and then nothing of it has left or will, ``full`` or ``down``."""
        if not self.up:
            return "down"
        self._unread = True  # libzmq may take the FD's word with it
        try:
            self._send(frame, _MORE)
            self._send(body, _NOBLOCK)
        except zmq.Again:
            self._follow()
            return "full" if self.up else "down"
        except zmq.ZMQError:
            return "down"
        return "sent"

    def end(self, retry_ms: int = RETRY_MS) -> None:
        """Ends the link now, without a word to ``on_down``."""
        if self._socket is None:
            return
        for fd in self._fds:
            self._loop.remove(fd)
        self._socket.disable_monitor()
        if self._monitor is not None:
            self._monitor.close(0)
        self._socket.close(0)
        self._socket = self._monitor = None
        self._send = _down
        self.up = False
        self.due_ns = time.monotonic_ns() + retry_ms * MS_NS

    def _end(self, *, refused: bool) -> None:
        self.end(RETRY_REFUSED_MS if refused else RETRY_MS)
        self._on_down(self, refused)


def _down(*_: Any) -> None:
    raise zmq.ZMQError
