"""The three signals that the daemon knows, from its first moment to its last."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from apex_exec.executor.loop import Loop
from apex_exec.sandbox.bare import after_launch


class Ended(BaseException):
    """The daemon was asked to end before its loop could be asked."""


def _raise_ended() -> None:
    raise Ended


class Signals:
    """SIGTERM, SIGINT and SIGHUP: until ``to_loop`` the first of the former two raises ``Ended`` wherever the start is.

    PID 1 has no default action, so a container that is stopped while it starts would otherwise go on to serve. The
    signal mask of the process that started the daemon is not taken over.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, lambda *_: None)  # the configuration has just been read
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would have no exit status
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _end(self, *_: object) -> None:
        self.quiet()
        after_launch(_raise_ended)

    def quiet(self) -> None:
        """From now on none of the three does anything by itself: the end is under way."""
        for number in self.NUMBERS:
            signal.signal(number, lambda *_: None)

    def to_loop(self, loop: Loop, signalled: Callable[[bytes], None]) -> None:
        """Has the loop call ``signalled(numbers)`` from now on."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add(wake_read, lambda _: signalled(os.read(wake_read, 64)))
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.quiet()
