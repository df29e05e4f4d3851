"""Random streams of a ROUTER, with one odd part at most, and what each reader of them is given."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from apex_exec.wire.zmtp_router import RouterSession
from workers.zmtp import COMMAND, GREETING, LONG, MORE, ZmtpError, command

BODY_BYTES_MAX = 70_000
PIECES_MAX = 8
SECONDS = 30.0
GREETING_SECONDS = 0.5
OLDER = ("version 2", "no signature")
"""libzmq does not send its whole greeting to what may be an older peer, so that nobody waits for it there."""
TAIL = b"the end"
"""The last message of every stream: a reader that has it has taken all before it."""


class Stream(NamedTuple):
    """``after``: what a ROUTER sends after its greeting. ``odd`` names what is unusual in it, "" if nothing is."""

    odd: str
    greeting: bytes
    after: bytes
    cuts: tuple[int, ...]

    def pieces(self) -> Iterator[bytes]:
        """``after``, as it is written."""
        for start, stop in zip((0, *self.cuts), (*self.cuts, len(self.after)), strict=True):
            yield self.after[start:stop]


def frame(flags: int, body: bytes, *, long: bool = False) -> bytes:
    """One frame; one of more than 255 bytes is long."""
    if long or len(body) > 255:
        return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


def ready(*properties: tuple[bytes, bytes]) -> bytes:
    """A READY command, of any size."""
    body = b"\x05READY" + b"".join(bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
                                   for name, value in properties)
    return frame(COMMAND, body)


ROUTER = (b"Socket-Type", b"ROUTER")
READY = ready(ROUTER, (b"Identity", b""))
Odd = Callable[[random.Random], bytes]
AFTER_READY: dict[str, Odd] = {
    "PING": lambda dice: command(b"PING", b"\x00\x0a" + dice.randbytes(dice.randrange(17))),
    "PONG": lambda dice: command(b"PONG", dice.randbytes(dice.randrange(17))),
    "PING without a time to live": lambda _: command(b"PING", b""),
    "PING with more context than 16 bytes": lambda _: command(b"PING", b"\x00\x0a" + bytes(40)),
    "second READY": lambda _: READY,
    "ERROR": lambda _: command(b"ERROR", b"\x03why"),
    "SUBSCRIBE": lambda _: command(b"SUBSCRIBE", b"x"),
    "unknown command": lambda dice: command(b"X" + dice.randbytes(3).hex().encode(), dice.randbytes(9)),
    "command without a name": lambda _: frame(COMMAND, b""),
    "command whose name is cut": lambda _: frame(COMMAND, b"\x09PI"),
    "command in the long form": lambda _: frame(COMMAND, b"\x04PING\x00\x0actx", long=True),
    "command of 5 kB": lambda _: frame(COMMAND, b"\x01X" + bytes(5000)),
    "command with MORE": lambda _: frame(COMMAND | MORE, b"\x04PING\x00\x0actx"),
    "reserved flag": lambda dice: bytes((1 << dice.randrange(3, 8), 1, 65)),
    "length of 2^63": lambda _: bytes((LONG,)) + (2**63).to_bytes(8, "big"),
    "length of 1 GiB": lambda _: bytes((LONG,)) + (2**30).to_bytes(8, "big") + bytes(100),
    "cut": lambda dice: frame(0, bytes(300))[: dice.randrange(1, 300)],
    "noise": lambda dice: dice.randbytes(dice.randrange(1, 40)),
    "frames before the body": lambda dice: b"".join(frame(MORE, dice.randbytes(dice.randrange(4)))
                                                    for _ in range(dice.randrange(1, 5))) + frame(0, b"with more"),
}
INSTEAD_OF_READY: dict[str, Odd] = {
    "message before READY": lambda _: frame(0, b"x") + READY,
    "PING before READY": lambda _: command(b"PING", b"\x00\x0a") + READY,
    "ERROR instead of READY": lambda _: command(b"ERROR", b"\x03why"),
    "READY without a type": lambda _: ready((b"Identity", b"")),
    "READY of a PUB": lambda _: ready((b"Socket-Type", b"PUB")),
    "READY with names in lower case": lambda _: ready((b"socket-type", b"ROUTER")),
    "READY with 200 bytes of metadata": lambda _: ready(ROUTER, (b"X-Note", bytes(150))),
    "READY with 5 kB of metadata": lambda _: ready(ROUTER, (b"X-Note", bytes(5000))),
    "READY whose property is cut": lambda _: frame(COMMAND, b"\x05READY\x0bSocket-Type\x7f\xff\xff\xff"),
    "READY with a routing id": lambda _: ready(ROUTER, (b"Identity", b"router-1")),
}
GREETINGS: dict[str, bytes] = {
    "version 3.0": GREETING[:11] + b"\x00" + GREETING[12:],
    "version 3.2": GREETING[:11] + b"\x02" + GREETING[12:],
    "version 4.0": GREETING[:10] + b"\x04\x00" + GREETING[12:],
    "version 2": GREETING[:10] + b"\x01" + GREETING[11:],
    "mechanism PLAIN": GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:],
    "as-server set": GREETING[:32] + b"\x01" + GREETING[33:],
    "filler not zero": GREETING[:33] + b"\xaa" * 31,
    "padding not zero": GREETING[:1] + b"\xaa" * 8 + GREETING[9:],
    "no signature": b"GET / HTTP/1.1\r\n".ljust(64, b"x"),
}


def _message(dice: random.Random) -> bytes:
    size = dice.choice((0, 1, 2, 254, 255, 256, 257, dice.randrange(2000), dice.randrange(BODY_BYTES_MAX)))
    return frame(0, dice.randbytes(size), long=dice.random() < 0.1)


def streams(seed: int, count: int) -> Iterator[Stream]:
    """``count`` random streams; half of them have one odd part."""
    dice = random.Random(seed)
    for _ in range(count):
        yield _stream(dice)


def _stream(dice: random.Random) -> Stream:
    greeting, begun, odd = GREETING, READY, ""
    parts = [_message(dice) for _ in range(dice.randrange(4))]
    kind = dice.randrange(8)
    if kind == 0:
        odd = dice.choice(list(GREETINGS))
        greeting = GREETINGS[odd]
    elif kind == 1:
        odd = dice.choice(list(INSTEAD_OF_READY))
        begun = INSTEAD_OF_READY[odd](dice)
    elif kind < 5:
        odd = dice.choice(list(AFTER_READY))
        parts.insert(dice.randint(0, len(parts)), AFTER_READY[odd](dice))
    after = begun + b"".join(parts) + frame(0, TAIL)
    cuts = sorted(dice.randrange(len(after)) for _ in range(dice.randrange(PIECES_MAX)))
    return Stream(odd, greeting, after, tuple(cuts))


# ------------------------------------------------------------------ three readers
def by_our_codec(stream: Stream) -> list[bytes]:
    """What the daemon's codec makes of it."""
    session = RouterSession(message_bytes_max=2**31, frames_max=15)
    found: list[bytes] = []
    with contextlib.suppress(ZmtpError):
        for piece in (stream.greeting, *stream.pieces()):
            found += [body for _, body in session.feed(piece)]
            while session.more:
                found += [body for _, body in session.feed(b"")]
    return found


def _play(listener: socket.socket, stream: Stream) -> None:
    """Accepts one connection, sends the stream as a ROUTER would, and reads until the peer has closed."""
    peer, _ = listener.accept()
    with peer, contextlib.suppress(OSError):
        peer.settimeout(GREETING_SECONDS if stream.odd in OLDER else SECONDS)
        peer.sendall(stream.greeting)
        got = b""
        with contextlib.suppress(TimeoutError):
            while len(got) < len(GREETING):  # it refuses a READY that comes in one read with the greeting
                part = peer.recv(1024)
                if not part:
                    return
                got += part
        peer.settimeout(SECONDS)
        for piece in stream.pieces():
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(SECONDS)
        yield listener


def by_libzmq(folder: Path, wanted: list[Stream]) -> list[list[bytes]]:
    """What libzmq's DEALER gives its user."""
    context: zmq.Context[Any] = zmq.Context()
    results = []
    try:
        with _listening(folder / "z") as listener:
            for stream in wanted:
                with context.socket(zmq.DEALER) as dealer:
                    dealer.setsockopt(zmq.LINGER, 0)
                    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
                    dealer.setsockopt(zmq.RCVHWM, 0)
                    dealer.connect(f"ipc://{folder / 'z'}")
                    _play(listener, stream)
                    found: list[bytes] = []
                    with contextlib.suppress(zmq.Again):
                        while True:
                            found.append(dealer.recv_multipart(zmq.NOBLOCK)[-1])
                    results.append(found)
    finally:
        context.destroy(linger=0)
    return results


def by_typescript(folder: Path, wanted: list[Stream], command: list[str]) -> list[list[bytes]]:
    """What the TypeScript client's DEALER gives its user; ``command`` runs ``dealer.mts``."""
    with _listening(folder / "t") as listener, subprocess.Popen(
            [*command, str(folder / "t"), str(len(wanted))], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        results = []
        for stream in wanted:
            _play(listener, stream)
            results.append([bytes.fromhex(body) for body in json.loads(program.stdout.readline())])
        assert program.wait(SECONDS) == 0
    return results
