"""The forked child on its way to becoming a worker: apply the jail, say what came of it, serve."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import msgspec

from workers import jail, serve
from workers.wire import Failed, LayerReport
from workers.zmtp import Zmtp, encode

EXIT_JAIL = 70
EXIT_LOAD = 71


def run(plan: dict[str, Any], worker: dict[str, Any], fds: tuple[int, int, int]) -> None:
    """Never returns to the zygote's code. ``fds``: link, marks write end, death pipe read end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    layers: list[LayerReport]
    try:
        layers, fds = jail.apply(plan, worker, fds)
    except jail.JailError as error:
        link = socket.socket(fileno=fds[0])
        failed = Failed("jail", error.layer, "JailError", str(error), "")
        link.sendall(Zmtp(frame_bytes_max=0).greeting() + encode(msgspec.msgpack.encode(failed)))
        os._exit(EXIT_JAIL)
    os._exit(serve.run(fds, layers))
