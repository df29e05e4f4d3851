"""The supervisor's own end of ZMTP: what a libzmq DEALER or REQ sees, and what bytes of any kind can do to it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.wire.zmtp_router import RouterSession, append_message
from workers.zmtp import GREETING, ZmtpError, command


def ready(kind: bytes = b"DEALER", identity: bytes = b"") -> bytes:
    data = b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return command(b"READY", data + b"\x08Identity" + len(identity).to_bytes(4, "big") + identity)


def session() -> RouterSession:
    made = RouterSession(message_bytes_max=1000, frames_max=4)
    assert made.feed(GREETING + ready()) == [] and made.ready
    return made


def message(frames: list[bytes], body: bytes) -> bytes:
    out = bytearray()
    append_message(out, frames, body)
    return bytes(out)


@given(st.lists(st.tuples(st.lists(st.binary(max_size=80), max_size=4), st.binary(max_size=300)), max_size=6),
       st.integers(1, 50))
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
    messages: list[tuple[list[bytes], bytes]], step: int
) -> None:
    data = b"".join(message(frames, body) for frames, body in messages)
    made, got = session(), []
    for start in range(0, len(data), step):
        got += made.feed(data[start : start + step])
    assert got == messages


def test_the_empty_frame_of_a_req_belongs_to_the_body_that_arrives_after_it() -> None:
    made = session()
    assert made.feed(b"\x01\x00") == []
    assert made.feed(b"\x00\x02ab") == [([b""], b"ab")]
    assert made.feed(b"\x00\x01c") == [([], b"c")] and made.unfinished_bytes == 0


@given(st.binary(max_size=400), st.booleans())
def test_only_zmtp_errors_escape_whatever_arrives(data: bytes, greeted: bool) -> None:
    made = session() if greeted else RouterSession(message_bytes_max=1000, frames_max=4)
    try:
        made.feed(data)
    except ZmtpError:
        return
    assert len(made.answers) <= 400 * 20  # a PONG for a PING, no more


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n" + bytes(64),
    GREETING[:10] + b"\x02" + GREETING[11:],
    GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:],
    GREETING + b"\x00\x01x",
    GREETING + ready(b"PUB"),
    GREETING + ready(b"REP"),
    GREETING + command(b"READY", b"\x0bSocket-Type\x7f\xff\xff\xff"),
    GREETING + ready() + command(b"SUBSCRIBE", b""),
    GREETING + ready() + b"\x02" + (1001).to_bytes(8, "big"),
    GREETING + ready() + b"\x02" + (2**63).to_bytes(8, "big"),
    GREETING + ready() + b"\x01\x00" * 5,
    GREETING + ready() + (b"\x03" + (500).to_bytes(8, "big") + bytes(500)) * 3,
    GREETING + ready() + b"\x40\x00",
    GREETING + ready() + b"\x01\xff" + bytes(255) + b"\x02" + (900).to_bytes(8, "big"),
    GREETING + b"\x06" + (5000).to_bytes(8, "big"),
], ids=["http", "zmtp 2", "plain", "before READY", "PUB", "REP", "property beyond its command", "SUBSCRIBE",
        "frame over the bound", "endless frame", "too many frames", "too many bytes in frames", "unknown flag",
        "frames and body over the bound together", "a command over its bound, before it is there"])
def test_what_breaks_the_protocol_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ZmtpError):
        RouterSession(message_bytes_max=1000, frames_max=4).feed(data)


def test_a_ping_is_answered_with_its_context_and_a_chosen_routing_id_is_known() -> None:
    made = RouterSession(message_bytes_max=1000, frames_max=4)
    made.feed(GREETING + ready(identity=b"mine"))
    assert made.identity == b"mine"
    made.answers.clear()
    made.feed(command(b"PING", b"\x00\x0a" + b"context"))
    assert made.answers == command(b"PONG", b"context")


def test_a_frame_that_drips_in_byte_by_byte_is_not_copied_for_each() -> None:
    made = RouterSession(message_bytes_max=1_000_000, frames_max=4)
    made.feed(GREETING + ready())
    made.feed(b"\x02" + (600_000).to_bytes(8, "big") + bytes(590_000))
    begun = time.process_time()
    got = [message for _ in range(10_000) for message in made.feed(b"x")]
    assert got == [([], bytes(590_000) + b"x" * 10_000)]
    assert time.process_time() - begun < 1  # copied each time it would be six gigabytes


def test_what_is_kept_of_an_unfinished_message_is_known_to_the_byte() -> None:
    made = RouterSession(message_bytes_max=1_000_000, frames_max=4)
    assert made.feed(GREETING[:20]) == [] and made.unfinished_bytes == 20
    made.feed(GREETING[20:] + ready())
    assert made.unfinished_bytes == 0
    whole = message([b"", b"id"], b"x" * 50_000)
    for size in (1, 3, 7, 12, 30, 49_000, len(whole) - 1):
        assert made.feed(whole[:size]) == [] and 0 < made.unfinished_bytes <= size
        assert made.feed(whole[size : size + 1]) == [] or size == len(whole) - 1
        if size < len(whole) - 1:
            assert made.feed(whole[size + 1 :]) == [([b"", b"id"], b"x" * 50_000)]
        assert made.unfinished_bytes == 0
    made.feed(whole[:10_000])
    held = made.unfinished_bytes
    made.feed(bytes(5000))
    assert made.unfinished_bytes == held + 5000


def test_one_read_full_of_messages_is_given_in_bounded_parts() -> None:
    made, got, parts = session(), [], 0
    data = b"".join(message([], b"%d" % n) for n in range(3000))
    found = made.feed(data)
    while True:
        parts += 1
        assert len(found) <= 256
        got += found
        if not made.more:
            break
        assert made.unfinished_bytes > 0
        found = made.feed(b"")
    assert got == [([], b"%d" % n) for n in range(3000)] and parts == 12
    assert made.unfinished_bytes == 0 and made.feed(message([], b"next")) == [([], b"next")]
