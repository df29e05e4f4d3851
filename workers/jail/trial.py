"""Tries a plan in short-lived children, the whole sequence as a worker goes through it, and reports the results.

Then each child is stopped, continued and killed through a pidfd, as the supervisor does with a worker. All limits and
deadlines depend on that, so we try it instead of assuming it (a container's seccomp profile may refuse it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec

from workers.jail import Jail, JailError
from workers.jail.base import fork
from workers.wire import LayerReport

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_Reports = msgspec.msgpack.Decoder(list[LayerReport])
REPLY_BYTES_MAX = 65536
STAY_SECONDS = 15.0
"""How long a child waits for its signals. If none reaches it, it exits by itself before the trial's caller gives up.
This is far longer than a busy machine keeps the parent waiting; otherwise the child would seem impossible to kill."""


def main(control: Connection) -> None:
    """The target of a spawned process: for each ``[plan, worker]`` (MessagePack) it sends one list of reports, until
    EOF."""
    while True:
        try:
            plan, worker = msgspec.msgpack.decode(control.recv_bytes())
        except (EOFError, OSError):
            return
        reports = msgspec.msgpack.encode(trial(plan, worker))
        try:
            control.send_bytes(reports)
        except OSError:  # the caller has ended meanwhile
            return


def trial(plan: dict[str, Any], worker: dict[str, Any]) -> list[LayerReport]:
    """Applies ``plan`` in a forked child. The last report of a child that could not continue is ``absent`` or ``lied``;
    after it comes the report ``kill``."""
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
    if data:
        return [*_Reports.decode(data), _try_to_kill(pid)]
    status = os.waitpid(pid, 0)[1]
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
    return [LayerReport("selftest", "absent", 0, f"the child died: {how}"),
            LayerReport("kill", "absent", 0, "the child died before it could be tried")]


def _try_to_kill(pid: int) -> LayerReport:
    """Stops, continues and kills the child through a pidfd, and observes each effect. Afterwards it is gone and reaped.
    """
    ended = 0
    try:
        what = "pidfd_open"
        pidfd = os.pidfd_open(pid)
        try:
            for number, seen in ((signal.SIGSTOP, os.WIFSTOPPED), (signal.SIGCONT, os.WIFCONTINUED),
                                 (signal.SIGKILL, os.WIFSIGNALED)):
                what = f"pidfd_send_signal with {number.name}"
                signal.pidfd_send_signal(pidfd, number)
                reaped, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
                if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                    ended = reaped
                if not seen(status):
                    return LayerReport("kill", "lied", 0, f"{what} had no effect")
        finally:
            os.close(pidfd)
    except OSError as error:
        return LayerReport("kill", "absent", error.errno or 0, f"{what}: {error.strerror}")
    finally:
        if not ended:
            with contextlib.suppress(OSError):  # it exits by itself
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return LayerReport("kill", "active")


def _confined(jail: Jail, worker: dict[str, Any], fds: tuple[int, int]) -> None:
    child = jail.child(worker, fds)
    try:
        reports = jail.apply(child)
    except JailError as error:
        state = "lied" if error.stage == "selftest" else "absent"
        reports = [LayerReport(error.layer, state, error.errno, str(error).partition(": ")[2])]
    os.write(child.fds[0], msgspec.msgpack.encode(reports))
    os.close(child.fds[0])
    time.sleep(STAY_SECONDS)
    os._exit(0)
