"""A daemon that a verb runs for itself, such as the one of ``plugin call DIR``: one line if it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apex_exec.cli.root import EXIT_NO, fail
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.testing import Daemon


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Starts ``daemon`` and yields it; stops it when the body ends. Ends the command if the daemon does not start, or
    does not end in order: the message has the last line of its log."""
    from apex_exec.testing import DaemonFailed

    try:
        with daemon:
            yield daemon
    except DaemonFailed as error:
        lines = error.log_tail.splitlines()
        fail(f"{error.what}: {clean(lines[-1]) if lines else 'its log is empty'}", EXIT_NO)
