"""Layer ``namespaces``: no network, no shared IPC, no host name, and an empty read-only root.

Root needs no user namespace (mapping an id that is not its own would fail); an unprivileged daemon gets one that maps
its own uid alone. Some systems let a user namespace be created and then refuse the mounts in it, so only the
whole sequence tells whether it works. A PID namespace is not needed: seccomp forbids fork.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke, syscall

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_ALL = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
HOST_NAME = b"sandbox"


class Namespaces:
    """unshare, private mounts, pivot into an empty tmpfs, the old root gone."""

    name = "namespaces"

    def __init__(self, _plan: dict[str, Any]) -> None:
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._pivot_root = _PIVOT_ROOT.get(platform.machine(), -1)

    def apply(self, child: Child) -> Outcome:
        """About a millisecond, most of it the kernel's for the network namespace. Raises OSError."""
        if self._uid == 0:
            invoke("unshare", _ALL)
        else:
            invoke("unshare", CLONE_NEWUSER | _ALL)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{self._uid} {self._uid} 1")
            _write("/proc/self/gid_map", f"{self._gid} {self._gid} 1")
        invoke("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        where = b"/tmp" if os.path.isdir("/tmp") else b"/proc"  # any folder will do; nothing is written there
        invoke("mount", b"none", where, b"tmpfs", flags, b"size=4k,nr_inodes=1,mode=0555")
        os.chdir(where)
        syscall(self._pivot_root, b".", b".")  # the old root now lies over the new one
        invoke("umount2", b".", MNT_DETACH)
        invoke("mount", None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None)
        os.chdir("/")
        invoke("sethostname", HOST_NAME, len(HOST_NAME))
        return ACTIVE

    def check(self, child: Child) -> str:
        """Tries to see a file, to write one, and to reach a TCP port."""
        if os.listdir("/"):
            return "the root is not empty"
        try:
            os.close(os.open("/x", os.O_CREAT | os.O_WRONLY, 0o600))
            return "the root can be written"
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.ENOSPC):
                return f"writing the root: {error.strerror}"
        if os.uname().nodename != HOST_NAME.decode():
            return "the host's name shows"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            if probe.connect_ex(("127.0.0.1", 9)) != errno.ENETUNREACH:
                return "a network is reachable"
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
