"""How long a worker takes to load a JavaScript bundle: an engine as the zygote makes it, forked for each load.

Reads ``(plugin, files, rounds)`` as MessagePack from stdin and writes the milliseconds of each load to stdout, CPU
time. A process of its own, since only one without threads may fork. There is no jail, which changes nothing of a load.
"""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import msgspec

from workers import wire
from workers.javascript import runtime

MEMORY_BYTES = 50 << 20


def _load_ms(message: wire.Load) -> float:
    host: Any = SimpleNamespace(line=lambda _level, _text: None)
    begun_ns = time.thread_time_ns()
    runtime.make(host).load(message)
    return (time.thread_time_ns() - begun_ns) / 1e6


def main() -> None:
    """Measures and answers."""
    plugin, files, rounds = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=tuple[str, dict[str, bytes], int])
    runtime.prepare({})
    found: list[float] = []
    for _ in range(rounds):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, msgspec.msgpack.encode(_load_ms(
                wire.Load(plugin, "1.0.0", "index.js", files, {}, MEMORY_BYTES))))
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            found.append(msgspec.msgpack.decode(pipe.read(), type=float))
        os.wait()
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))


if __name__ == "__main__":
    main()
