"""Layer ``namespaces``: no network, no shared IPC, no host name, and an empty read-only root.

The zygote has one such place made, by a child that exits at once, and every worker enters it: it has no interface that
is up, no file, and nothing that can be written. A place per worker would cost two milliseconds for each start
(measured: unshare 0.8, most of it for the network; detaching the old root 1.3, an RCU grace period) and kernel memory.
It would only separate workers that seccomp already keeps from every socket and IPC call. With ``scratch`` in the plan
(a bundle's tests), each run additionally has its own mount namespace, with a temporary folder that is bounded in bytes
and inodes and disappears with the run.

Root needs no user namespace (mapping an id other than its own would fail); an unprivileged daemon has one that maps
only its own uid. Some systems allow creating a user namespace and then refuse the mounts in it, so only the whole
sequence shows whether it works. A PID namespace is not needed: seccomp forbids fork.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
from typing import Any

from workers.jail.base import ACTIVE, PLACE_FDS, SCRATCH, Child, Outcome, fork, invoke, syscall

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_ALL = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
_ENTERED = {"user": CLONE_NEWUSER, "net": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS, "mnt": CLONE_NEWNS}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
HOST_NAME = b"sandbox"


class Namespaces:
    """Enters the place that the zygote has had made; with ``scratch`` in the plan, with a private folder in it."""

    name = "namespaces"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._uid = os.geteuid()
        self._entries: list[tuple[int, int]] = []
        self._refused: tuple[int, str] = (0, "")
        if plan["layers"][self.name][0] in ("try", "required"):
            self._prepare(bool(plan.get("scratch")))

    def _prepare(self, with_folder: bool) -> None:
        told, tell = os.pipe2(os.O_CLOEXEC)
        held, hold = os.pipe2(os.O_CLOEXEC)
        pid = fork()
        if pid == 0:
            os.close(hold)
            try:
                make_empty_place(self._uid, os.getegid(), with_folder)
                os.write(tell, b"0")
            except OSError as error:
                os.write(tell, f"{error.errno or errno.EINVAL} {error.strerror}".encode())
            finally:
                os.read(held, 1)  # until the zygote has opened what was made, or has died
                os._exit(0)
        os.close(tell)
        answer = os.read(told, 4096).decode() or f"{errno.EIO} the maker of the empty root died"
        if answer == "0":
            kinds = [kind for kind in _ENTERED if kind != "user" or self._uid != 0]
            try:
                for fd, kind in zip(PLACE_FDS, kinds, strict=False):
                    opened = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                    os.dup2(opened, fd, inheritable=False)
                    os.close(opened)
                    self._entries.append((fd, _ENTERED[kind]))
            except OSError as error:
                self._refused = error.errno or errno.EIO, error.strerror or "its namespaces cannot be opened"
        else:
            number, _, said = answer.partition(" ")
            self._refused = int(number), said
        for fd in (told, held, hold):
            os.close(fd)
        os.waitpid(pid, 0)

    def apply(self, child: Child) -> Outcome:
        """Enters the user namespace first, which gives the right to enter the others. Raises OSError."""
        if self._refused[0]:
            raise OSError(*self._refused)
        for fd, kind in self._entries:
            invoke("setns", fd, kind)
        for fd, _ in self._entries:
            os.close(fd)
        if scratch := child.plan.get("scratch"):
            invoke("unshare", CLONE_NEWNS)
            bounds = f"size={scratch['bytes']},nr_inodes={scratch['inodes']},mode=0777"
            invoke("mount", b"none", SCRATCH.encode(), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, bounds.encode())
        os.chdir("/")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Tries to see a file, to write one, and to reach a TCP port."""
        if os.listdir("/") != ([SCRATCH[1:]] if child.plan.get("scratch") else []):
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


def make_empty_place(uid: int, gid: int, with_folder: bool = False) -> None:
    """Moves the calling process into new namespaces with an empty read-only root. With ``with_folder`` the root has an
    empty folder ``/tmp`` to mount something on. Raises OSError."""
    if uid == 0:
        invoke("unshare", _ALL)
    else:
        invoke("unshare", CLONE_NEWUSER | _ALL)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    invoke("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    where = b"/tmp" if os.path.isdir("/tmp") else b"/proc"  # any folder will do
    invoke("mount", b"none", where, b"tmpfs", flags, b"size=4k,nr_inodes=%d,mode=0555" % (2 if with_folder else 1))
    os.chdir(where)
    if with_folder:
        os.mkdir(SCRATCH[1:])
    pivot_root = _PIVOT_ROOT.get(platform.machine(), -1)
    syscall(pivot_root, ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))  # the old root is now mounted over the new one
    invoke("umount2", b".", MNT_DETACH)
    invoke("mount", None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None)
    os.chdir("/")
    invoke("sethostname", HOST_NAME, len(HOST_NAME))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
