"""The forked child on its way to becoming a worker: it applies the jail, reports the results, and serves."""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec

from workers.jail import Jail, JailError
from workers.runtime import serve
from workers.wire import EXIT_JAIL, Failed
from workers.zmtp import Zmtp, encode

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal, a shell or an init sends to every process of the daemon. The supervisor handles them, and
lets running calls finish first. SIGKILL and the supervisor's own end still end a worker."""


def run(jail: Jail, worker: dict[str, Any], fds: tuple[int, int]) -> None:
    """Never returns to the zygote's code. ``fds``: the link, and the write end of the start counter."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = jail.child(worker, fds)
    try:
        reports = jail.apply(child)
    except JailError as error:
        failed = Failed(error.stage, error.layer, "JailError", str(error), "")
        os.write(child.fds[0], Zmtp(frame_bytes_max=0).greeting() + encode(msgspec.msgpack.encode(failed)))
        os._exit(EXIT_JAIL)
    try:
        status = serve.run(child, reports)
    except JailError as error:  # the last steps fail once the plugin is known, long after the greeting
        failed = Failed(error.stage, error.layer, "JailError", str(error), "")
        os.write(child.fds[0], encode(msgspec.msgpack.encode(failed)))
        status = EXIT_JAIL
    os._exit(status)
