"""The name of a process, as ``ps`` and ``top`` show it."""

from __future__ import annotations

import contextlib


def name_process(name: str) -> None:
    """Names this process ``name``, of which the kernel keeps 15 bytes. It is a help only: a refusal is passed over."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name)
