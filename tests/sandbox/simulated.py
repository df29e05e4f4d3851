"""Runs a command on a kernel, or in a container, that gives less than this one: ``simulated.py JSON COMMAND…``.

``{"errno": {call: number}}``: those system calls answer so, by a seccomp filter, as a container's profile or a kernel
without them would have it. ``{"abi": n}``: Landlock says that its ABI is n and refuses rule sets that such a kernel
would not know. A filter cannot answer a call with a positive number, so this process does (user notification). The rest
of Landlock is the real kernel's: what is tried afterwards is refused or let through for real.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import struct
import sys
from typing import Any

from apex_exec.sandbox import bpf

LANDLOCK_CREATE_RULESET = 444
RET_USER_NOTIF = 0x7FC00000
SET_MODE_FILTER, NEW_LISTENER = 1, 8
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
FS_BITS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
"""Rights on files that each ABI knows (landlock(7))."""
MORE = {"x86_64": {"sethostname": 170, "landlock_add_rule": 445},
        "aarch64": {"sethostname": 161, "landlock_add_rule": 445}}
"""Numbers that the sandbox's own table does without."""
libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(answers: dict[int, int], *, listen: bool) -> int:
    """Installs the filter: number → what the filter returns. The listener's descriptor, or 0."""
    rows = [(0x20, 0, 0, 0)]
    for number, value in answers.items():
        rows += [(0x15, 0, 1, number), (0x06, 0, 0, value)]
    rows.append((0x06, 0, 0, bpf.RET_ALLOW))
    code = bpf.Program(rows, []).packed()
    buffer = ctypes.create_string_buffer(code, len(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    program = Program(len(rows), ctypes.addressof(buffer))
    number = bpf.numbers(os.uname().machine)["seccomp"]
    found = libc.syscall(number, SET_MODE_FILTER, NEW_LISTENER if listen else 0, ctypes.byref(program))
    assert found >= 0, os.strerror(ctypes.get_errno())
    return int(found)


def verdict(pid: int, arguments: tuple[int, ...], abi: int) -> tuple[int, int, int]:
    """(value, -errno, flags) for one landlock_create_ruleset(attributes, size, flags)."""
    address, size, flags = arguments[:3]
    if flags == 1:
        return abi, 0, 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        attributes = memory.read(min(size, 24)).ljust(24, b"\0")
    files, net, scoped = struct.unpack("=3Q", attributes)
    known = 8 if abi < 4 else 16
    if any(attributes[known:size]):
        return 0, -errno.E2BIG, 0
    if files & ~FS_BITS[abi] or (abi < 4 and net) or scoped:
        return 0, -errno.EINVAL, 0
    return 0, 0, CONTINUE


def answer(listener: int, abi: int) -> None:
    """Answers until nobody is left who could ask."""
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    while not any(event & select.POLLHUP for _, event in ready.poll()):
        notification = bytearray(80)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, notification)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            return
        number, pid = struct.unpack_from("=QI", notification)
        value, refusal, flags = verdict(pid, struct.unpack_from("=6Q", notification, 32), abi)
        try:
            fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", number, value, refusal, flags))
        except OSError:
            continue  # who asked is gone


def main() -> None:
    """The command line."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    numbers = {**bpf.numbers(os.uname().machine), **MORE[os.uname().machine]}
    answers = {numbers[name]: bpf.RET_ERRNO | value for name, value in asked.get("errno", {}).items()}
    abi = asked.get("abi", 0)
    if not abi:
        install(answers, listen=False)
        os.execv(sys.argv[2], sys.argv[2:])
    answers[LANDLOCK_CREATE_RULESET] = RET_USER_NOTIF
    told, tell = os.pipe()
    held, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, struct.pack("=i", install(answers, listen=True)))
        os.read(held, 1)
        os.closerange(3, 64)
        os.execv(sys.argv[2], sys.argv[2:])
    (number,) = struct.unpack("=i", os.read(told, 4))
    listener = libc.syscall(numbers["pidfd_getfd"], os.pidfd_open(pid), number, 0)
    assert listener >= 0, os.strerror(ctypes.get_errno())
    if os.fork() == 0:
        answer(listener, abi)
        os._exit(0)
    os.close(listener)
    os.write(go, b"x")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
