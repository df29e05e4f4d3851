"""Unix-socket connections served by the loop itself, with real libzmq peers on the other end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from apex_exec.daemon import stream_peers
from apex_exec.daemon.connections import Handlers, Peer
from apex_exec.daemon.loop import Loop
from apex_exec.daemon.stream_peers import StreamPeers
from workers.zmtp import GREETING, command

BYTES_MAX = 4 * 1024 * 1024


class Echo:
    """A loop in a thread that answers every message with ``re:`` and its body."""

    def __init__(self, path: Path) -> None:
        self.endpoint = f"ipc://{path}"
        self.loop = Loop()
        self.gone: list[Peer] = []
        self.dropped = 0
        self.answers = 1
        self.held = False
        self.uids: set[tuple[int, int]] = set()
        self.peers = StreamPeers(self.loop, Handlers(
            message=self._message, gone=self.gone.append, alien=lambda peer, frames: self.peers.reply(
                peer, frames, b"alien"), dropped=self._dropped), BYTES_MAX)
        self.peers.bind(self.endpoint)
        self._thread = threading.Thread(target=self.loop.run, args=(self._turn,))
        self._thread.start()

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        self.uids.add(self.peers.credentials(peer))
        for _ in range(self.answers):
            self.peers.reply(peer, frames, b"re:" + body)

    def _dropped(self, count: int) -> None:
        self.dropped += count

    def _turn(self, _: bool) -> int:
        busy = not self.held and self.peers.receive()
        self.peers.flush()
        return 0 if busy else time.monotonic_ns() + 20_000_000

    def stop(self) -> None:
        self.loop.stop()
        self._thread.join()
        self.peers.close()


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    running = Echo(tmp_path / "s")
    yield running
    running.stop()


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


def connect(context: zmq.Context[Any], kind: int, endpoint: str, **options: Any) -> Any:
    made = context.socket(kind)
    made.linger = 0
    for name, value in options.items():
        setattr(made, name, value)
    made.connect(endpoint)
    return made


def settled(true: Any, seconds: float = 10) -> bool:
    due = time.monotonic() + seconds
    while not true() and time.monotonic() < due:
        time.sleep(0.01)
    return bool(true())


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_libzmq_peers_get_their_answers_at_every_size_and_across_heartbeats(
    echo: Echo, context: zmq.Context[Any], kind: int
) -> None:
    peer = connect(context, kind, echo.endpoint, heartbeat_ivl=50, heartbeat_timeout=1500)
    for size in (0, 1, 255, 256, 40_000, BYTES_MAX - 10):
        peer.send(b"x" * size)
        assert peer.poll(5000) and peer.recv() == b"re:" + b"x" * size
    time.sleep(2)  # longer than the timeout of a heartbeat that nobody answers
    peer.send(b"still here")
    assert peer.poll(5000) and peer.recv() == b"re:still here"
    assert not echo.gone and echo.uids == {(os.geteuid(), os.getpid())}


def test_ten_thousand_messages_come_back_in_order(echo: Echo, context: zmq.Context[Any]) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint, sndhwm=0, rcvhwm=0)
    for number in range(10_000):
        peer.send(b"%d" % number)
    for number in range(10_000):
        assert peer.poll(5000) and peer.recv() == b"re:%d" % number


def test_a_chosen_routing_id_is_refused_with_an_answer(echo: Echo, context: zmq.Context[Any]) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint, routing_id=b"mine")
    peer.send(b"x")
    assert peer.poll(5000) and peer.recv() == b"alien"


def test_the_end_of_a_connection_is_seen_at_once(echo: Echo, context: zmq.Context[Any]) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint)
    peer.send(b"x")
    assert peer.poll(5000)
    peer.close()
    assert settled(lambda: len(echo.gone) == 1, 3) and len(echo.peers) == 0


def test_a_message_beyond_the_bound_ends_its_connection_and_no_other(echo: Echo, context: zmq.Context[Any]) -> None:
    other = connect(context, zmq.DEALER, echo.endpoint)
    big = connect(context, zmq.DEALER, echo.endpoint)
    big.send(b"x" * (BYTES_MAX + 1))
    assert settled(lambda: len(echo.gone) >= 1)
    other.send(b"y")
    assert other.poll(5000) and other.recv() == b"re:y"


def test_a_peer_that_does_not_read_is_dropped_at_its_bound_and_others_do_not_wait(
    echo: Echo, context: zmq.Context[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_peers, "WAITING_BYTES_MAX", 2_000_000)
    echo.answers = 4
    deaf = connect(context, zmq.DEALER, echo.endpoint, rcvhwm=1)
    other = connect(context, zmq.DEALER, echo.endpoint)
    for _ in range(12):
        deaf.send(b"x" * 500_000)
        other.send(b"y")
        for _ in range(4):
            assert other.poll(5000) and other.recv() == b"re:y"
    assert settled(lambda: echo.gone) and echo.dropped > 0


def test_hosts_that_are_held_back_are_read_later_and_cost_no_spinning(
    echo: Echo, context: zmq.Context[Any]
) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint)
    peer.send(b"first")
    assert peer.poll(5000) and peer.recv()
    echo.held = True
    time.sleep(0.05)
    begun = time.process_time()
    peer.send(b"second")
    assert not peer.poll(400)
    assert time.process_time() - begun < 0.2
    echo.held = False
    assert peer.poll(5000) and peer.recv() == b"re:second"


def test_a_silent_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_peers, "HANDSHAKE_SECONDS_MAX", 0.3)
    echo = Echo(tmp_path / "s")
    try:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(tmp_path / "s"))
            silent.settimeout(5)
            while silent.recv(64):
                pass  # the greeting; then the end
    finally:
        echo.stop()
    assert len(echo.gone) == 1


def test_a_deleted_socket_file_is_bound_again(echo: Echo, context: zmq.Context[Any]) -> None:
    os.unlink(echo.endpoint.removeprefix("ipc://"))
    echo.peers.bind(echo.endpoint)
    peer = connect(context, zmq.DEALER, echo.endpoint)
    peer.send(b"x")
    assert peer.poll(5000) and peer.recv() == b"re:x"


def test_what_a_peer_wanted_beyond_its_end_is_not_served(echo: Echo) -> None:
    served: list[bytes] = []

    def drop_at_first(peer: Peer, _frames: list[bytes], body: bytes) -> None:
        served.append(body)
        echo.peers.drop(peer)

    echo.peers._handlers = Handlers(message=drop_at_first, gone=echo.gone.append, alien=lambda *_: None,
                                    dropped=lambda _: None)
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(echo.endpoint.removeprefix("ipc://"))
    ready = command(b"READY", b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER")
    raw.send(GREETING + ready + b"".join(b"\x00\x01%d" % n for n in range(5)))
    assert settled(lambda: echo.gone)
    assert served == [b"0"]
    raw.close()
