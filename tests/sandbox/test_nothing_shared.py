"""No two workers hold one object: what the kernel says of their open files, and what two of them can tell each other.

The second is tried as two accomplices would: each has the whole of libc, one sets what can be set on every descriptor
that it was born with, the other looks at all that can be asked of its own. Timing is not among it: see the README.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Client
from tests.support import need
from tests.support.daemon import ECHO, USER, Daemon, write_plugin

USERS = {"root": None, "unprivileged": 65532}
INHERITED = 8
"""Descriptors 0 to 7: all that a worker was ever born with."""
ROUNDS = 100
LEARNT = ROUNDS // 2
"""The rounds that show the receiver what a bit looks like; on the others it is tried."""
RIGHT_MIN = 46
"""Of the 50 bits that are tried: by luck that is one of 60,000 pairs in 100,000 runs."""
TRIES_MIN = 10_000
KCMP = {"x86_64": 312, "aarch64": 272}
KCMP_FILE = 0

TALK = '''
import ctypes, errno, struct

libc = ctypes.CDLL(None, use_errno=True)
for number in (10, 29):
    libc.signal(number, ctypes.c_void_p(1))  # SIGUSR1 and SIGIO are ignored: an own signal ends nobody
NONBLOCK, APPEND, ASYNC, DIRECT, NOATIME = 0o4000, 0o2000, 0o20000, 0o40000, 0o1000000


def number(value):
    return ctypes.c_long(value) if isinstance(value, int) else value


def ask(name, *arguments):
    """What libc's function returns, or minus the errno."""
    result = getattr(libc, name)(*map(number, arguments))
    return -ctypes.get_errno() if result == -1 else result


def flag(which):
    def way(fd, bit):
        had = ask("fcntl", fd, 3)
        return ask("fcntl", fd, 4, had | which if bit else had & ~which)
    return way


def fcntl(command, off, on):
    return lambda fd, bit: ask("fcntl", fd, command, on if bit else off)


def lock(kind):
    return struct.pack("=hh4xqqi4x", kind, 0, 0, 0, 0)


def option(which, off, on):
    return lambda fd, bit: ask("setsockopt", fd, 1, which, struct.pack("=i", on if bit else off), 4)


SET = {
    "O_NONBLOCK": flag(NONBLOCK), "O_APPEND": flag(APPEND), "O_ASYNC": flag(ASYNC), "O_DIRECT": flag(DIRECT),
    "O_NOATIME": flag(NOATIME),
    "FIONBIO": lambda fd, bit: ask("ioctl", fd, 0x5421, struct.pack("=i", bit)),
    "FIOASYNC": lambda fd, bit: ask("ioctl", fd, 0x5452, struct.pack("=i", bit)),
    "FIOSETOWN": lambda fd, bit: ask("ioctl", fd, 0x8901, struct.pack("=i", libc.getpid() if bit else 0)),
    "F_SETOWN": lambda fd, bit: ask("fcntl", fd, 8, libc.getpid() if bit else 0),
    "F_SETOWN_EX": lambda fd, bit: ask("fcntl", fd, 15, struct.pack("=ii", 1, libc.getpid() if bit else 0)),
    "F_SETSIG": fcntl(10, 0, 10), "F_SETLEASE": fcntl(1024, 2, 0), "F_NOTIFY": fcntl(1026, 0, 2),
    "F_SETPIPE_SZ": fcntl(1031, 4096, 16384), "F_ADD_SEALS": fcntl(1033, 0, 4),
    "F_SET_RW_HINT": lambda fd, bit: ask("fcntl", fd, 1036, struct.pack("=Q", 2 + bit)),
    "F_SET_FILE_RW_HINT": lambda fd, bit: ask("fcntl", fd, 1038, struct.pack("=Q", 2 + bit)),
    "F_SETLK": lambda fd, bit: ask("fcntl", fd, 6, lock(1 if bit else 2)),
    "F_OFD_SETLK": lambda fd, bit: ask("fcntl", fd, 37, lock(1 if bit else 2)),
    "flock": lambda fd, bit: ask("flock", fd, 6 if bit else 8),
    "lseek": lambda fd, bit: ask("lseek", fd, 7 * bit, 0),
    "futimens": lambda fd, bit: ask("futimens", fd, struct.pack("=qqqq", bit, 0, bit, 0)),
    "fchmod": lambda fd, bit: ask("fchmod", fd, 0o644 if bit else 0o666),
    "fchown": lambda fd, bit: ask("fchown", fd, -1, libc.getgid() if bit else -1),
    "fsetxattr": lambda fd, bit: ask("fsetxattr", fd, b"user.bit", b"1" if bit else b"0", 1, 0),
    "posix_fadvise": lambda fd, bit: ask("posix_fadvise", fd, 0, 0, bit),
    "SO_PASSCRED": option(16, 0, 1), "SO_RCVLOWAT": option(18, 1, 2), "SO_PRIORITY": option(12, 0, 1),
    "SO_RCVBUF": option(8, 8192, 16384), "SO_SNDBUF": option(7, 8192, 16384), "SO_KEEPALIVE": option(9, 0, 1),
}
'''
SEND = TALK + '''

@plugin.hook("onActionExecute")
def act(params):
    bits = iter(params["context"]["bits"])
    went = [[way, fd, set_(fd, next(bits))] for fd in range(params["context"]["fds"]) for way, set_ in SET.items()]
    return {"result": {"went": went, "seen": look(params["context"]["fds"])}, "metadata": {}}
'''
LOOK = '''

def filled(size, name, *arguments):
    """The result and what was written into the buffer that takes the place of ``...``."""
    buffer = ctypes.create_string_buffer(size)
    result = ask(name, *(buffer if argument is ... else argument for argument in arguments))
    return f"{result} {buffer.raw.hex()}"


def option_of(fd, which):
    value, size = ctypes.create_string_buffer(4), ctypes.c_int(4)
    return f"{ask('getsockopt', fd, 1, which, value, ctypes.byref(size))} {value.raw.hex()}"


def could_lock(fd):
    got = ask("flock", fd, 6)
    return got if got else ask("flock", fd, 8)


def questions(fd):
    yield from (ask("fcntl", fd, command, 0) for command in (1, 3, 9, 11, 1025, 1032, 1034))
    yield from (filled(8, "fcntl", fd, command, ...) for command in (16, 1035, 1037))
    for command in (5, 36):
        wanted = ctypes.create_string_buffer(lock(1), 32)
        yield f"{ask('fcntl', fd, command, wanted)} {wanted.raw[:2].hex()}"
    yield could_lock(fd)
    yield ask("lseek", fd, 0, 1)
    yield filled(144, "fstat", fd, ...)
    yield filled(8, "ioctl", fd, 0x541B, ...)
    yield filled(8, "ioctl", fd, 0x8903, ...)
    yield filled(2, "fgetxattr", fd, b"user.bit", ..., 2)
    poll = ctypes.create_string_buffer(struct.pack("=ihh", fd, 0x3FF, 0), 8)
    yield f"{ask('poll', poll, 1, 0)} {poll.raw.hex()}"
    yield from (option_of(fd, which) for which in (7, 8, 9, 12, 16, 18, 42))


def look(fds):
    return [str(answer) for fd in range(fds) for answer in questions(fd)]
'''
SEND = TALK + LOOK + SEND.removeprefix(TALK)
RECEIVE = TALK + LOOK + '''

@plugin.hook("onActionExecute")
def act(params):
    return {"result": look(params["context"]["fds"]), "metadata": {}}
'''


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    folder.chmod(0o755)
    write_plugin(folder, "sender", SEND)
    write_plugin(folder, "receiver", RECEIVE)
    for name in ("one", "two"):
        write_plugin(folder, name, ECHO)
    yield folder
    shutil.rmtree(folder)


def invoke(client: Client, plugin: str, **context: Any) -> Any:
    return client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": context})["result"]["result"]


def daemon_of(user: str, plugins: Path, *waived: str) -> Daemon:
    need(os.geteuid() == 0, "running daemons as root and as another user takes root")
    config: dict[str, Any] = {"sandbox.extra_modules": ["ctypes"], "limits.cpu_percent": 100}
    if waived:
        config |= {"sandbox.waive": list(waived), "sandbox.min_level": "L0"}
    return Daemon(plugins=plugins, config=config, uid=USERS[user])


def told(bits: list[list[int]], looks: list[list[str]]) -> list[tuple[int, int, int]]:
    """(channel, question, bits right) of each pair by which the receiver reads what the sender set."""
    asked = list(map(list, zip(*looks, strict=True)))
    changed = [[str(answers[max(0, n - 1)] == answer) for n, answer in enumerate(answers)] for answers in asked]
    found = []
    for channel, sent in enumerate(zip(*bits, strict=True)):
        for question, answers in enumerate([*asked, *changed]):
            if len(set(answers)) == 1:
                continue
            seen: dict[str, list[int]] = {}
            for bit, answer in zip(sent[:LEARNT], answers[:LEARNT], strict=True):
                seen.setdefault(answer, [0, 0])[bit] += 1
            guesses = [seen.get(answer, [1, 0]) for answer in answers[LEARNT:]]
            right = sum((ones > zeros) == bool(bit) for (zeros, ones), bit in zip(guesses, sent[LEARNT:], strict=True))
            if right >= RIGHT_MIN:
                found.append((channel, question, right))
    return found


@pytest.mark.parametrize("waived", [(), ("seccomp",)], ids=["all layers", "without seccomp"])
@pytest.mark.parametrize("user", USERS)
@pytest.mark.slow_after(1)
def test_no_bit_passes_between_two_workers_by_anything_they_were_born_with(
        user: str, waived: tuple[str, ...], plugins: Path) -> None:
    dice = random.Random(20261129)
    bits: list[list[int]] = []
    own: list[list[str]] = []
    others: list[list[str]] = []
    with daemon_of(user, plugins, *waived) as daemon, Client(daemon.endpoint) as client:
        went = invoke(client, "sender", fds=INHERITED, bits=[0] * 1000)["went"]
        for _ in range(ROUNDS):
            bits.append([dice.getrandbits(1) for _ in went])
            said = invoke(client, "sender", fds=INHERITED, bits=bits[-1])
            own.append(said["seen"])
            others.append(invoke(client, "receiver", fds=INHERITED))
        pids = daemon.pids("sender") + daemon.pids("receiver")
    assert len(pids) == 2, "a worker died meanwhile, so the two did not meet"
    assert ROUNDS * len(went) >= TRIES_MIN
    leaks = {(*went[channel][:2], question) for channel, question, _ in told(bits, others)}
    assert not leaks, f"the receiver reads what was set by (way, descriptor, question): {sorted(leaks)[:20]}"
    if waived:  # the control: where no filter refuses it, the same settings are made, and their own worker sees them
        ways = {went[channel][0] for channel, _, _ in told(bits, own)}
        assert ways >= {"O_NONBLOCK", "F_SETOWN", "F_SETSIG"} or "F_SETOWN_EX" in ways, ways


@pytest.mark.parametrize("user", USERS)
@pytest.mark.slow_after(1)
def test_the_kernel_finds_no_open_file_in_two_workers_and_no_memory_that_both_can_write(
        user: str, plugins: Path) -> None:
    number = KCMP.get(platform.machine(), -1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    with daemon_of(user, plugins) as daemon, Client(daemon.endpoint) as client:
        for name in ("one", "two"):
            invoke(client, name)
        workers = [daemon.pids(name)[-1] for name in ("one", "two")]
        processes = [*workers, daemon.zygote().pid, daemon.pid]
        files = {pid: sorted(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) for pid in processes}
        assert files[workers[0]] == files[workers[1]] == [0, 1, 2, 3, 4]

        def same(pid: int, fd: int, other: int, other_fd: int) -> bool:
            result = libc.syscall(*map(ctypes.c_long, (number, pid, other, KCMP_FILE, fd, other_fd)))
            need(result >= 0, "this kernel has no kcmp")
            return bool(result == 0)

        assert same(workers[0], 0, workers[0], 0)  # the control
        shared = [(pid, fd, other, other_fd) for pid in workers for other in processes if other != pid
                  for fd in files[pid] for other_fd in files[other] if same(pid, fd, other, other_fd)]
        assert not shared, f"one open file in two processes: {shared}"
        for pid in workers:
            flags = [set(row.split()[1:]) for row in Path(f"/proc/{pid}/smaps").read_text().splitlines()
                     if row.startswith("VmFlags:")]
            assert flags and not [of for of in flags if {"sh", "mw"} <= of], "memory is shared that may be written"
