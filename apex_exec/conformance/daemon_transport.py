"""What a daemon does with bytes: the handshake, frames, commands, and the bounds of each."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from apex_exec.conformance.cases import Case, equal, expect
from apex_exec.conformance.peers import RawHost, message_bytes, ready
from workers.zmtp import COMMAND, GREETING, LONG, MORE, command

Try = Callable[[RawHost], None]


def _ping_works(host: RawHost) -> None:
    id_ = host.new_id()
    equal(host.ask({"type": "ping", "id": id_}), {"type": "pong", "id": id_})


def _handshake(host: RawHost) -> None:
    with host.another(greets=False) as other:
        other.send_raw(GREETING)
        other.wait_for_greeting()
        other.send_raw(ready())
        said = other.next_command().lower()
        expect(said.startswith(b"\x05ready") and b"socket-type\x00\x00\x00\x06router" in said, said)
        _ping_works(other)


def _handshake_in_pieces(host: RawHost) -> None:
    with host.another(greets=False) as other:
        for byte in GREETING + ready():
            other.send_raw(bytes((byte,)))
        other.wait_until_ready()
        _ping_works(other)


def _handshake_at_once(host: RawHost) -> None:
    with host.another(greets=False) as other:
        body = msgspec.msgpack.encode({"type": "ping", "id": 7})
        other.send_raw(GREETING + ready() + message_bytes(body))
        equal(other.receive(), {"type": "pong", "id": 7})


def _closes(data: bytes) -> Try:
    """The connection on which ``data`` is sent first ends, and the one beside it works on."""
    def try_it(host: RawHost) -> None:
        with host.another(greets=False) as other:
            other.send_raw(data)
            expect(other.is_closed_within(), "the connection stays open")
        _ping_works(host)

    return try_it


def _closes_after_ready(data: bytes) -> Try:
    return _closes(GREETING + ready() + data)


def _long_form(host: RawHost) -> None:
    body = msgspec.msgpack.encode({"type": "ping", "id": 1})
    host.send_raw(bytes((LONG,)) + len(body).to_bytes(8, "big") + body)
    equal(host.receive(), {"type": "pong", "id": 1})


def _byte_by_byte(host: RawHost) -> None:
    for byte in message_bytes(msgspec.msgpack.encode({"type": "ping", "id": "slow"})):
        host.send_raw(bytes((byte,)))
    equal(host.receive(), {"type": "pong", "id": "slow"})


def _many_at_once(host: RawHost) -> None:
    host.send_raw(b"".join(message_bytes(msgspec.msgpack.encode({"type": "ping", "id": n})) for n in range(500)))
    seen = sorted(host.receive()["id"] for _ in range(500))
    equal(seen, list(range(500)))
    expect(host.says_nothing(0.3), "a message that answers nothing")


def _envelope(frames: list[bytes]) -> Try:
    def try_it(host: RawHost) -> None:
        host.send({"type": "ping", "id": 1}, frames)
        equal(host.receive_frames(), (frames, {"type": "pong", "id": 1}))

    return try_it


def _pong(host: RawHost) -> None:
    host.next_command()  # its READY
    host.send_raw(command(b"PING", b"\x00\x0a" + b"sixteen bytes ok"))
    equal(host.next_command(), b"\x04PONGsixteen bytes ok")
    _ping_works(host)


def _identity(host: RawHost) -> None:
    with host.another(greets=False) as other:
        other.send_raw(GREETING)
        other.wait_for_greeting()
        other.send_raw(ready(identity=b"mine"))
        other.wait_until_ready()
        equal(other.ask({"type": "ping", "id": 1})["code"], "PROTOCOL_ERROR")


def _limit(host: RawHost) -> int:
    found: int = host.ask({"type": "hello", "protocol": [1]})["limits"]["maxMessageBytes"]
    return found


def _padded(id_: int, size: int) -> bytes:
    """A ping with an unknown key, whose body has ``size`` bytes."""
    bare = len(msgspec.msgpack.encode({"type": "ping", "id": id_, "x": bytes(70_000)})) - 70_000
    return msgspec.msgpack.encode({"type": "ping", "id": id_, "x": bytes(size - bare)})


def _largest(host: RawHost) -> None:
    body = _padded(1, _limit(host))
    host.send(body)
    equal(host.receive(), {"type": "pong", "id": 1})


def _too_large(host: RawHost) -> None:
    host.send(_padded(2, _limit(host) + 1))
    reply = host.receive()
    equal((reply["type"], reply["id"], reply["code"], reply["started"]), ("error", 2, "PAYLOAD_TOO_LARGE", False))
    _ping_works(host)


def _far_too_large(host: RawHost) -> None:
    size = 4 * _limit(host) + 1
    with host.another() as other:
        other.send_raw(bytes((LONG,)) + size.to_bytes(8, "big") + bytes(1000))
        expect(other.is_closed_within(), "the connection stays open")
    _ping_works(host)


def _leaves(host: RawHost) -> None:
    for _ in range(20):
        with host.another() as other:
            other.send({"type": "ping", "id": 1})
    _ping_works(host)


ZMTP_2 = GREETING[:10] + b"\x01" + GREETING[11:]
PLAIN = GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:]
CASES: list[Case[RawHost]] = [
    Case("transport/handshake", "A DEALER is greeted by a ROUTER of ZMTP 3 with NULL.", _handshake),
    Case("transport/handshake-in-pieces", "Greeting and READY may arrive byte by byte.", _handshake_in_pieces),
    Case("transport/handshake-at-once", "A host need not wait between greeting, READY and its first message.",
         _handshake_at_once),
    Case("transport/older-than-3", "A peer older than ZMTP 3 is refused at once.", _closes(ZMTP_2)),
    Case("transport/not-zmtp", "What is not ZMTP is refused at once.", _closes(b"GET / HTTP/1.1\r\n" + bytes(64))),
    Case("transport/plain", "Another mechanism than NULL is refused.", _closes(PLAIN)),
    Case("transport/wrong-type", "A peer that is neither DEALER nor REQ is refused.",
         _closes(GREETING + ready(b"PUB"))),
    Case("transport/message-before-ready", "A message before READY ends the connection.",
         _closes(GREETING + b"\x00\x01x")),
    Case("transport/unknown-flag", "A reserved bit in a frame's flags ends the connection.",
         _closes_after_ready(b"\x40\x00")),
    Case("transport/unknown-command", "A command that a ROUTER does not know ends the connection.",
         _closes_after_ready(command(b"SUBSCRIBE", b""))),
    Case("transport/large-command", "A command of more than 4 KiB ends the connection.",
         _closes_after_ready(bytes((COMMAND | LONG,)) + (5000).to_bytes(8, "big"))),
    Case("transport/long-form", "A short frame may be written with a long length.", _long_form),
    Case("transport/byte-by-byte", "A message may arrive byte by byte.", _byte_by_byte),
    Case("transport/many-at-once", "Each of many messages in one write gets exactly one reply.", _many_at_once),
    Case("transport/envelope-empty", "REQ's empty delimiter comes back before the reply.", _envelope([b""])),
    Case("transport/envelope-15", "15 frames before the body come back unchanged.",
         _envelope([bytes((n,)) * n for n in range(15)])),
    Case("transport/envelope-16", "16 frames before the body end the connection.",
         _closes_after_ready(bytes((MORE, 0)) * 16 + b"\x00\x00")),
    Case("transport/envelope-bytes", "More than 4 KiB before the body end the connection.",
         _closes_after_ready((bytes((MORE, 255)) + bytes(255)) * 15
                             + bytes((MORE | LONG,)) + (300).to_bytes(8, "big") + bytes(300))),
    Case("transport/ping", "A PING is answered with a PONG that has its context.", _pong),
    Case("transport/routing-id", "A routing id of the host's own is a PROTOCOL_ERROR.", _identity),
    Case("transport/largest-body", "A body of exactly host.max_message_bytes is taken.", _largest),
    Case("transport/too-large", "A larger one is PAYLOAD_TOO_LARGE with its id, and the connection stays.", _too_large),
    Case("transport/far-too-large", "One of over four times the limit ends its connection.", _far_too_large),
    Case("transport/leaves", "Hosts that leave with requests pending disturb nobody.", _leaves),
]
