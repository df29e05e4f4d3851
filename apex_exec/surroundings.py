"""Repairs what we may inherit from our parent: closed standard streams, blocked or ignored signals, a umask."""

from __future__ import annotations

import os
import signal
import socket
import sys


def put_right() -> None:
    """Makes sure that descriptors 0 to 2 are open, no signal is blocked, and children have exit statuses.

    If one of the three were closed, the next file that is opened would get its number, and printed text would end up in
    that file. JVMs, Julia and thread pools start programs with SIGCHLD blocked, and some shells and launchers with
    SIGCHLD ignored; we would then never learn that a child has ended.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not Unix: only verbs that start no process work there
        return
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            _open_nowhere(fd)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            stream = os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    os.umask(os.umask(0) & 0o077)  # our files may be closed to others, but not to ourselves
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getpid() == 1:  # PID 1 has no default action for it: a container could not be stopped while it starts
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def _open_nowhere(fd: int) -> None:
    """Opens ``fd``, the lowest free one, as /dev/null or, if that is missing, as a socket without a peer."""
    try:
        found = os.open(os.devnull, os.O_RDWR)
    except OSError:
        ours, theirs = socket.socketpair()
        found = ours.detach()
        theirs.close()
    if found != fd:
        os.dup2(found, fd)
        os.close(found)
    os.set_inheritable(fd, True)
