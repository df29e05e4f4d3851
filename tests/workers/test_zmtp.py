"""The inner link's codec: a libzmq PAIR peer understands it, and only ZmtpError escapes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from workers.zmtp import GREETING_BYTES, Zmtp, ZmtpError, command, encode


def test_a_libzmq_pair_peer_talks_to_it_both_ways(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    context = zmq.Context()
    peer = context.socket(zmq.PAIR)
    peer.connect(f"ipc://{path}")
    ours, _ = listener.accept()
    ours.settimeout(5)
    codec = Zmtp(frame_bytes_max=100_000)
    opening = codec.greeting()
    ours.sendall(opening[:GREETING_BYTES])
    seen = b""
    while b"READY" not in seen:
        seen += ours.recv(4096)
    assert codec.feed(seen) == []
    ours.sendall(opening[GREETING_BYTES:] + encode(b"small") + encode(b"x" * 70_000))
    assert peer.poll(5000) and peer.recv() == b"small" and peer.recv() == b"x" * 70_000
    peer.send(b"back")
    peer.send(b"y" * 66_000)
    got: list[bytes] = []
    while len(got) < 2:
        got += codec.feed(ours.recv(65536))
    assert got == [b"back", b"y" * 66_000]
    context.destroy(linger=0)
    ours.close()
    listener.close()


@given(st.lists(st.binary(max_size=600), max_size=8), st.lists(st.integers(1, 700), max_size=30))
def test_any_chunking_gives_the_same_messages(bodies: list[bytes], cuts: list[int]) -> None:
    codec = Zmtp(frame_bytes_max=600)
    data = codec.greeting() + b"".join(map(encode, bodies))
    got: list[bytes] = []
    for cut in cuts:
        got += codec.feed(data[:cut])
        data = data[cut:]
    assert got + codec.feed(data) == bodies


@given(st.lists(st.binary(max_size=20), max_size=40), st.integers(1, 7))
def test_a_feed_gives_no_more_messages_at_once_than_its_owner_wants(bodies: list[bytes], at_once: int) -> None:
    codec = Zmtp(frame_bytes_max=600, frames_at_once=at_once)
    got = codec.feed(codec.greeting() + b"".join(map(encode, bodies)))
    assert len(got) <= at_once
    while codec.more:
        portion = codec.feed(b"")
        assert 0 < len(portion) <= at_once
        got += portion
    assert got == bodies


@given(st.binary(max_size=200), st.booleans())
def test_only_zmtp_errors_escape(data: bytes, greeted: bool) -> None:
    codec = Zmtp(frame_bytes_max=50)
    if greeted:
        codec.feed(codec.greeting())
    try:
        codec.feed(data)
    except ZmtpError as error:
        assert str(error)


HOSTILE = [encode(b"z" * 51), b"\x01\x01a", b"\x08\x01a", b"\x04\x05\x04EVIL", b"\x02" + b"\xff" * 8,
           command(b"PING", b"\0\0"), command(b"PONG", b""), command(b"READY", b""), command(b"ERROR", b"\0")]


@pytest.mark.parametrize("frame", HOSTILE)
def test_oversized_multipart_and_unknown_frames_are_refused(frame: bytes) -> None:
    codec = Zmtp(frame_bytes_max=50)
    codec.feed(codec.greeting())
    with pytest.raises(ZmtpError):
        codec.feed(frame)


def test_a_frame_that_drips_in_byte_by_byte_is_not_copied_for_each() -> None:
    codec = Zmtp(frame_bytes_max=1_000_000)
    codec.feed(codec.greeting())
    codec.feed(b"\x02" + (600_000).to_bytes(8, "big") + bytes(590_000))
    assert codec.missing_bytes == 10_000 and codec.unfinished_bytes == 590_009
    begun = time.process_time()
    got = [body for _ in range(10_000) for body in codec.feed(b"x")]
    assert got == [bytes(590_000) + b"x" * 10_000]
    assert time.process_time() - begun < 0.3  # copied each time it would be six gigabytes
    assert codec.feed(encode(b"next")) == [b"next"]
