"""The last layer, ``selftest``: in the finished jail, before any byte of the plugin, it tries what must fail.

Each layer has tested its own work when it was applied. Here the whole jail is tested as hostile code would do it. If an
attempt succeeds, or even reaches the kernel, the first claimed layer in its list is the one that lied.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from workers.jail.base import ACTIVE, Child, JailError, Outcome, libc


def _open(_child: Child) -> None:
    os.close(os.open("/", os.O_RDONLY))


def _write(child: Child) -> None:
    os.close(os.open("/x" if child.scratch else "/tmp/x", os.O_WRONLY | os.O_CREAT, 0o600))


def _stat(_child: Child) -> None:
    os.stat("/etc")


def _parent(child: Child) -> None:
    os.close(os.open(f"/proc/{child.zygote}/environ", os.O_RDONLY))


def _socket(_child: Child) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def _connect(child: Child) -> None:
    if libc.connect(child.fds[0], b"\x01\x00/x", 5) == -1:
        raise OSError(ctypes.get_errno(), "connect")


def _fork(_child: Child) -> None:
    if os.fork() == 0:
        os._exit(0)  # the parent dies next, and the zygote or init reaps this process


def _exec(_child: Child) -> None:
    os.execv("/x", ["x"])  # the path exists nowhere, so EPERM can only come from the filter


def _kill(child: Child) -> None:
    os.kill(child.zygote, 0)


def _kill_at_all(child: Child) -> None:
    os.kill(child.zygote, 9999)  # an invalid signal: the kernel itself would answer EINVAL


def _shared(_child: Child) -> None:
    mmap.mmap(-1, 4096).close()


def _raise_limit(_child: Child) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))


def _clock(child: Child) -> None:
    time.clock_gettime(~child.zygote << 3 | 2)  # the CPU time of another process


def _mode(child: Child) -> None:
    os.set_blocking(child.fds[0], True)


def _executable(_child: Child) -> None:
    mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, _ALL_RIGHTS).close()


_ALL_RIGHTS = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC

# name, the attempt, and for each layer that must stop it the errno that shows that this layer did (0: any)
ATTEMPTS: tuple[tuple[str, Callable[[Child], None], dict[str, int]], ...] = (
    ("open a folder", _open, {"seccomp": errno.EPERM, "landlock": errno.EACCES}),
    ("create a file", _write, {"seccomp": errno.EPERM, "landlock": 0, "namespaces": 0}),
    ("stat a path", _stat, {"seccomp": errno.EPERM, "namespaces": errno.ENOENT}),
    ("read the parent's /proc", _parent, {"seccomp": errno.EPERM, "namespaces": 0, "landlock": 0}),
    ("make a socket", _socket, {"seccomp": errno.EPERM}),
    ("connect", _connect, {"seccomp": errno.EPERM}),
    ("fork", _fork, {"seccomp": errno.EPERM}),
    ("exec", _exec, {"seccomp": errno.EPERM}),
    ("signal the parent", _kill, {"seccomp": errno.EPERM, "landlock": errno.EPERM}),
    ("call kill", _kill_at_all, {"seccomp": errno.EPERM}),
    ("map shared memory", _shared, {"seccomp": errno.EPERM}),
    ("map executable memory", _executable, {"seccomp": errno.EPERM}),
    ("read another process's clock", _clock, {"seccomp": errno.EPERM}),
    ("change the link's mode", _mode, {"seccomp": errno.EPERM}),
    ("raise a limit", _raise_limit, {"seccomp": errno.EPERM, "identity": 0}),
)


_OF_FILES = (_open, _write, _stat, _parent)


class Selftest:
    """Takes about a tenth of a millisecond."""

    name = "selftest"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Raises JailError with the name of the layer that lied."""
        active = child.active
        for name, attempt, stops in ATTEMPTS:
            claimed = [layer for layer in stops if layer in active]
            if child.scratch and attempt in _OF_FILES:
                claimed = [layer for layer in claimed if layer != "seccomp"]  # it allows looking at the empty root
            if attempt is _kill and claimed == ["landlock"] and active["landlock"].state == "degraded":
                continue  # signals are scoped from ABI 6 on
            if not claimed:
                continue
            try:
                attempt(child)
            except OSError as error:
                wanted = stops[claimed[0]]
                if wanted in (0, error.errno):
                    continue
                raise JailError("selftest", claimed[0], error.errno or 0,
                                f"{name}: {error.strerror} comes from elsewhere") from None
            except ValueError:
                continue  # setrlimit's form of the error that the hard limit cannot be raised
            raise JailError("selftest", claimed[0], 0, f"could {name}")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Checks nothing: the layer itself is a check."""
        return ""
