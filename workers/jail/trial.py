"""Tries a plan in throwaway children, the whole sequence as a worker goes through it, and reports what came of it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import msgspec

from workers.jail import Jail, JailError
from workers.jail.base import fork
from workers.wire import LayerReport

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_Reports = msgspec.msgpack.Decoder(list[LayerReport])
REPLY_BYTES_MAX = 65536


def main(control: Connection) -> None:
    """Target of a spawned process: for each ``[plan, worker]`` (MessagePack) one list of reports, until EOF."""
    while True:
        try:
            plan, worker = msgspec.msgpack.decode(control.recv_bytes())
        except EOFError:
            return
        control.send_bytes(msgspec.msgpack.encode(trial(plan, worker)))


def trial(plan: dict[str, Any], worker: dict[str, Any]) -> list[LayerReport]:
    """Applies ``plan`` in a forked child. The last report of a child that could not go on is ``absent`` or ``lied``."""
    jail = Jail(plan)
    read, write = os.pipe()
    marks_read, marks_write = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            _confined(jail, worker, (write, marks_write))
        finally:
            os._exit(1)
    for fd in (write, marks_read, marks_write):
        os.close(fd)
    with os.fdopen(read, "rb") as stream:
        data = stream.read(REPLY_BYTES_MAX)
    status = os.waitpid(pid, 0)[1]
    if data:
        return _Reports.decode(data)
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
    return [LayerReport("selftest", "absent", 0, f"the child died: {how}")]


def _confined(jail: Jail, worker: dict[str, Any], fds: tuple[int, int]) -> None:
    child = jail.child(worker, fds)
    try:
        reports = jail.apply(child)
    except JailError as error:
        state = "lied" if error.stage == "selftest" else "absent"
        reports = [LayerReport(error.layer, state, error.errno, str(error).partition(": ")[2])]
    os.write(child.fds[0], msgspec.msgpack.encode(reports))
    os._exit(0)
