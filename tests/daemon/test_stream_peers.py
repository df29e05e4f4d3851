"""Unix-socket connections served by the loop itself, with real libzmq peers on the other end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from apex_exec.daemon.hosts import stream_peers
from apex_exec.daemon.hosts.connections import Events, Peer, Trouble
from apex_exec.daemon.hosts.stream_peers import StreamPeers
from apex_exec.executor.loop import Loop
from tests.support import other_user
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
        self.uids: set[int] = set()
        self.message: Callable[[Peer, list[bytes], bytes], None] = self._answer
        """What is done with a message; a test may do something else."""
        self.broken: Callable[[Trouble, int], None] = self._count
        self.peers = StreamPeers(self.loop, Events(message=self._message, gone=self.gone.append, broken=self._broken),
                                 BYTES_MAX)
        self.peers.bind(self.endpoint)
        self._thread = threading.Thread(target=self.loop.run, args=(self._turn,))
        self._thread.start()

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        self.message(peer, frames, body)

    def _broken(self, trouble: Trouble, count: int) -> None:
        self.broken(trouble, count)

    def _answer(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        self.uids.add(peer.uid)
        for _ in range(self.answers):
            self.peers.reply(peer, frames, b"foreign" if peer.foreign else b"re:" + body)

    def _count(self, trouble: Trouble, count: int) -> None:
        if trouble == "unread":
            self.dropped += count

    def _turn(self) -> int:
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
@pytest.mark.slow_after(1)
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
    assert not echo.gone and echo.uids == {os.geteuid()}


def test_ten_thousand_messages_come_back_in_order(echo: Echo, context: zmq.Context[Any]) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint, sndhwm=0, rcvhwm=0)
    for number in range(10_000):
        peer.send(b"%d" % number)
    for number in range(10_000):
        assert peer.poll(5000) and peer.recv() == b"re:%d" % number


def test_a_chosen_routing_id_is_refused_with_an_answer(echo: Echo, context: zmq.Context[Any]) -> None:
    peer = connect(context, zmq.DEALER, echo.endpoint, routing_id=b"mine")
    peer.send(b"x")
    assert peer.poll(5000) and peer.recv() == b"foreign"


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

    echo.message = drop_at_first
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(echo.endpoint.removeprefix("ipc://"))
    ready = command(b"READY", b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER")
    raw.send(GREETING + ready + b"".join(b"\x00\x01%d" % n for n in range(5)))
    assert settled(lambda: echo.gone)
    assert served == [b"0"]
    raw.close()


def raw_peer(echo: Echo, data: bytes = b"") -> socket.socket:
    """A connection that speaks ZMTP by hand: the handshake, then ``data``."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(5)
    raw.connect(echo.endpoint.removeprefix("ipc://"))
    ready = command(b"READY", b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # one too many is let go at once
        raw.sendall(GREETING + ready + data)
    return raw


def half(size: int, sent: int) -> bytes:
    """A message of ``size`` bytes of which only a part is sent."""
    return b"\x02" + size.to_bytes(8, "big") + bytes(sent)


def test_all_half_sent_messages_together_have_a_bound_and_whoever_holds_longest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: zmq.Context[Any]
) -> None:
    monkeypatch.setattr(stream_peers, "UNFINISHED_BYTES_MAX", 3_000_000)
    echo = Echo(tmp_path / "s")
    kinds: list[str] = []
    echo.broken = lambda trouble, _count: kinds.append(trouble)
    try:
        honest = connect(context, zmq.DEALER, echo.endpoint)
        hoarders = []
        for _ in range(8):
            hoarders.append(raw_peer(echo, half(2_000_000, 900_000)))
            assert settled(lambda: echo.peers._unfinished.bytes >= 900_000)
            honest.send(b"x" * 1_500_000)  # arrives in pieces, beside all that is held
            assert honest.poll(3000) and len(honest.recv()) == 1_500_003
            assert echo.peers._unfinished.bytes <= 3_000_000
        assert len(echo.gone) == len(kinds) >= 5 and set(kinds) == {"held_too_much"}
        alive = len(hoarders) - len(echo.gone)
        hoarders[-1].sendall(bytes(1_100_000))  # the latest goes on and has its answer
        assert hoarders[-1].recv(len(GREETING)) == GREETING
        for raw in hoarders:
            raw.close()
        assert settled(lambda: len(echo.peers) == 1) and alive >= 1
        assert echo.peers._unfinished.bytes == 0 and not echo.peers._unfinished._totals
    finally:
        echo.stop()


def test_all_unread_replies_together_have_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: zmq.Context[Any]
) -> None:
    monkeypatch.setattr(stream_peers, "UNREAD_BYTES_MAX", 6_000_000)
    echo = Echo(tmp_path / "s")
    try:
        honest = connect(context, zmq.DEALER, echo.endpoint)
        deaf = []
        for _ in range(12):
            deaf.append(raw_peer(echo, half(1_500_000, 1_500_000)))
            honest.send(b"y" * 1_000_000)
            assert honest.poll(3000) and len(honest.recv()) == 1_000_003
            assert echo.peers._unread.bytes <= 6_000_000
        assert settled(lambda: len(echo.gone) >= 7) and echo.dropped == len(echo.gone)
        latest = deaf[-1]
        got = 0
        while got < 1_500_000:  # it reads at last: nothing of it was lost
            got += len(latest.recv(1 << 20))
        assert settled(lambda: latest not in echo.gone, 0.1)
        for raw in deaf:
            raw.close()
        assert settled(lambda: len(echo.peers) == 1 and echo.peers._unread.bytes == 0)
    finally:
        echo.stop()


def test_no_uid_takes_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    other_user.need_root()
    monkeypatch.setattr(stream_peers, "CONNECTIONS_MAX", 8)
    with tempfile.TemporaryDirectory(prefix="apxs") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "s"
        echo = Echo(path)
        os.chmod(path, 0o666)
        try:
            mine = [raw_peer(echo) for _ in range(7)]
            assert settled(lambda: len(echo.peers) == 4)
            others = subprocess.run(
                [other_user.python(), "-c",
                 "import socket, sys, time\nheld = [socket.socket(socket.AF_UNIX) for _ in range(6)]\n"
                 "for one in held:\n    one.connect(sys.argv[1])\n    one.settimeout(5)\n"
                 "print(sum(one.recv(64) != b'' for one in held))", str(path)],
                capture_output=True, text=True, timeout=20, check=True, env=other_user.environment(),
                **other_user.become())
            assert int(others.stdout) == 4, "half of all are left for it"
            assert settled(lambda: len(echo.peers) == 4), "theirs have ended"
            for raw in mine:
                raw.close()
            assert settled(lambda: len(echo.peers) == 0)
            assert raw_peer(echo).recv(64) == GREETING, "what ended is free again"
        finally:
            echo.stop()


def test_a_flood_of_the_smallest_messages_gets_a_bounded_turn_and_one_place_in_the_line(echo: Echo) -> None:
    handled: list[int] = []
    counts = [0]
    receive = echo.peers.receive
    lines: list[int] = []

    def counted() -> bool:
        counts[0] = 0
        lines.append(len(echo.peers.unread))
        more = receive()
        handled.append(counts[0])
        return more

    def count(_peer: Peer, _frames: list[bytes], _body: bytes) -> None:
        counts[0] += 1

    echo.peers.receive = counted  # type: ignore[method-assign]  # the loop's thread asks it
    echo.message = count
    raw = raw_peer(echo)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        raw.sendall(b"\0\0" * 32_768)
    raw.close()
    assert settled(lambda: echo.gone, 10)
    assert sum(handled) >= 32_768
    assert max(handled) <= 256, "messages of one connection in one round"
    assert max(lines) <= 1, "a connection stands in line once"


@pytest.mark.parametrize("others", [0, 1])
def test_where_others_send_a_connection_is_read_a_few_calls_at_a_time(echo: Echo, others: int) -> None:
    rounds: list[int] = []
    receive = echo.peers.receive

    def counted() -> bool:
        rounds.append(0)
        return receive()

    def count(_peer: Peer, _frames: list[bytes], _body: bytes) -> None:
        rounds[-1] += 1

    echo.peers.receive = counted  # type: ignore[method-assign]  # the loop's thread asks it
    echo.message = count
    beside = [raw_peer(echo) for _ in range(others)]
    raw = raw_peer(echo)
    assert settled(lambda: len(echo.peers) == 1 + others)
    time.sleep(2 * stream_peers.SHARED_NS / 1e9)
    message = b"\2" + (1000).to_bytes(8, "big") + bytes(1000)
    for one in beside:
        one.sendall(message)
    assert settled(lambda: sum(rounds) == others)
    raw.sendall(message * 100)
    assert settled(lambda: sum(rounds) == 100 + others)
    assert (max(rounds) <= 5) if others else (max(rounds) > 5)
    for one in [raw, *beside]:
        one.close()


def test_many_connections_that_flood_leave_the_loop_its_turns(echo: Echo) -> None:
    served: list[Peer] = []
    rounds: list[int] = []
    receive = echo.peers.receive

    def counted() -> bool:
        served.clear()
        more = receive()
        rounds.append(len(served))
        return more

    def slow(peer: Peer, _frames: list[bytes], _body: bytes) -> None:
        served.append(peer)
        time.sleep(0.01)

    echo.message = slow
    echo.peers.receive = counted  # type: ignore[method-assign]  # the loop's thread asks it
    raws = [raw_peer(echo) for _ in range(60)]
    assert settled(lambda: sum(peer.session.ready for peer in echo.peers._peers) == 60)
    for raw in raws:
        raw.sendall(b"\0\0")
    assert settled(lambda: sum(rounds) == 60)
    assert max(rounds) <= 8, "the clock is looked at after every fourth"
    for raw in raws:
        raw.close()


def test_an_end_that_comes_together_with_the_last_message_is_seen(echo: Echo) -> None:
    seen: list[bytes] = []

    def take(_peer: Peer, _frames: list[bytes], body: bytes) -> None:
        seen.append(body)
        if body == b"slow":
            time.sleep(0.3)

    echo.message = take
    slow, leaving = raw_peer(echo), [raw_peer(echo) for _ in range(20)]
    assert settled(lambda: sum(peer.session.ready for peer in echo.peers._peers) == 21)
    slow.sendall(b"\x00\x04slow")
    time.sleep(0.1)
    for raw in leaving:  # while the loop is busy: one event tells of both
        raw.sendall(b"\x00\x03bye")
        raw.close()
    assert settled(lambda: len(echo.gone) == 20), f"{len(echo.gone)} of 20 ends were seen"
    assert seen == [b"slow"] + [b"bye"] * 20
    slow.close()


def test_what_stands_before_a_body_is_bounded_since_it_is_kept_until_the_reply(echo: Echo) -> None:
    raw = raw_peer(echo, b"\x01\xff" + bytes(255) + b"\x00\x01x")
    assert settled(lambda: echo.uids)
    raw.sendall(b"\x03" + (100_000).to_bytes(8, "big") + bytes(100_000) + b"\x00\x01x")
    assert settled(lambda: len(echo.gone) == 1)
    raw.close()
