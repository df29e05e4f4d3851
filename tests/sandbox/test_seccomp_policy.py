"""The compiled filter answers every system call as the policy says: run here by an interpreter of the kernel's BPF."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.sandbox import bpf

MACHINES = ("x86_64", "aarch64")
PROGRAMS = {machine: bpf.compile_policy(bpf.policy(), machine) for machine in MACHINES}
"""What a plugin is left with. No filter is made of it alone: see ``test_the_two_filters_of_a_worker…``."""
FIRST = {machine: bpf.compile_policy(bpf.until_loaded(bpf.policy()), machine) for machine in MACHINES}
CLOSING = {machine: bpf.compile_closing(bpf.policy(), machine) for machine in MACHINES}
WITH_FILES = {machine: bpf.compile_policy(bpf.with_files(bpf.policy()), machine) for machine in MACHINES}
NUMBERS = {machine: bpf.numbers(machine) for machine in MACHINES}
PID = 4242
EPERM = bpf.RET_ERRNO | errno.EPERM
ENOSYS = bpf.RET_ERRNO | errno.ENOSYS


def run(machine: str, number: int, arguments: tuple[int, ...] = (), arch: int | None = None,
        programs: dict[str, bpf.Program] = PROGRAMS) -> int:
    """What the kernel would answer, by its rules for classic BPF."""
    program = programs[machine]
    data = bytearray(64)
    data[0:4] = (number & 0xFFFFFFFF).to_bytes(4, "little")
    data[4:8] = (bpf.AUDIT_ARCH[machine] if arch is None else arch).to_bytes(4, "little")
    for index, value in enumerate(arguments):
        data[16 + 8 * index : 24 + 8 * index] = (value & (2**64 - 1)).to_bytes(8, "little")
    code = [(op, jt, jf, PID if i in program.own_pid else k) for i, (op, jt, jf, k) in enumerate(program.code)]
    at = accumulator = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == 0x20:
            assert k % 4 == 0 and k <= 60
            accumulator = int.from_bytes(data[k : k + 4], "little")
        elif op == 0x15:
            at += jt if accumulator == k else jf
        elif op == 0x35:
            at += jt if accumulator >= k else jf
        elif op == 0x05:
            at += k
        elif op == 0x54:
            accumulator &= k
        else:
            assert op == 0x06
            return k


def call(name: str, *arguments: int, machine: str = "x86_64") -> int:
    return run(machine, NUMBERS[machine][name], arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_gets_the_answer_that_the_policy_gives_its_name(machine: str) -> None:
    policy = bpf.policy()
    wanted: dict[int, int] = {}
    for groups, answer in (("allow", bpf.RET_ALLOW), ("kill", bpf.RET_KILL)):
        for names in policy[groups].values():
            wanted |= {NUMBERS[machine][name]: answer for name in names if name in NUMBERS[machine]}
    if machine == "aarch64":
        wanted |= {NUMBERS[machine][name]: bpf.RET_ALLOW for name in ("ppoll", "epoll_pwait")}
    wanted[NUMBERS[machine]["clone3"]] = ENOSYS
    ruled = {NUMBERS[machine][name] for name in policy["rules"] if name in NUMBERS[machine]}
    for number in [*range(1000), 2**30 - 1]:
        if number not in ruled:
            assert run(machine, number) == wanted.get(number, EPERM), number


def test_x32_numbers_and_foreign_architectures_are_killed() -> None:
    assert run("x86_64", 0x40000000 | NUMBERS["x86_64"]["write"]) == bpf.RET_KILL
    assert run("x86_64", -1) == bpf.RET_KILL
    i386, arm = 0x40000003, 0x40000028
    assert run("x86_64", 1, arch=i386) == bpf.RET_KILL
    assert run("aarch64", 1, arch=arm) == bpf.RET_KILL
    assert run("aarch64", 1, arch=bpf.AUDIT_ARCH["x86_64"]) == bpf.RET_KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("mmap", (0, 4096, 3, 0x22), True),
        ("mmap", (0, 4096, 0, 0x4022), True),
        ("mmap", (0, 4096, 3, 0x21), False),  # shared
        ("mmap", (0, 4096, 3, 0x23), False),  # MAP_SHARED_VALIDATE
        ("mmap", (0, 4096, 3, 0x02), False),  # a file
        ("mmap", (0, 4096, 3, 0x122), False),  # grows down
        ("mmap", (0, 4096, 3, 0x40022), False),  # huge pages
        ("mmap", (0, 4096, 7, 0x22), False),  # executable
        ("mmap", (0, 4096, 3, 0x1_0000_0022), False),
        ("mprotect", (0, 4096, 1), True),
        ("mprotect", (0, 4096, 5), False),
        ("mprotect", (0, 4096, 0x01000001), False),  # PROT_GROWSDOWN
        ("mremap", (0, 1, 2, 1), True),
        ("mremap", (0, 1, 2, 3), False),
        ("madvise", (0, 1, 4), True),
        ("madvise", (0, 1, 12), False),  # MADV_MERGEABLE
        ("futex", (0, 128, 1), True),
        ("futex", (0, 129, 1), True),
        ("futex", (0, 9 | 256, 1), True),
        ("futex", (0, 6, 1), False),  # FUTEX_LOCK_PI
        ("futex", (0, 4, 1), False),  # FUTEX_CMP_REQUEUE
        ("socketpair", (1, 1, 0), True),
        ("socketpair", (1, 1 | 0o2000000, 0), True),
        ("socketpair", (1, 2, 0), False),  # DGRAM
        ("socketpair", (1, 5, 0), False),
        ("socketpair", (2, 1, 0), False),
        ("sendto", (5, 0, 1, 0, 0, 0), True),
        ("sendto", (5, 0, 1, 0x4000, 0, 0), True),
        ("sendto", (5, 0, 1, 0, 2**40, 16), False),
        ("sendto", (5, 0, 1, 0, 0, 16), False),
        ("sendto", (5, 0, 1, 1, 0, 0), False),  # MSG_OOB
        ("recvfrom", (5, 0, 1, 0), True),
        ("recvfrom", (5, 0, 1, 0x2000), False),  # MSG_ERRQUEUE
        ("fcntl", (5, 3), True),
        ("fcntl", (5, 4, 0o4000), False),  # F_SETFL
        ("fcntl", (5, 2, 1), False),  # F_SETFD
        ("fcntl", (5, 1 << 32 | 3), True),  # the kernel looks at the low half, and so does the rule
        ("fcntl", (5, 1 << 32 | 4, 0o4000), False),
        ("fcntl", (5, 8, 1), False),  # F_SETOWN
        ("fcntl", (5, 1031, 1 << 20), False),  # F_SETPIPE_SZ
        ("fcntl", (5, 0, 9), False),  # F_DUPFD
        ("ioctl", (5, 0x5421), True),
        ("ioctl", (31, 0x5421), True),
        *(("ioctl", (fd, 0x5421), False) for fd in (0, 1, 2, 3, 4, 1 << 32 | 4)),
        ("ioctl", (5, 0x5451), False),  # FIOCLEX
        ("ioctl", (5, 0x5452), False),  # FIOASYNC
        ("ioctl", (5, 0x5412), False),  # TIOCSTI
        ("prctl", (21,), False),
        ("prctl", (1, 0), False),  # PR_SET_PDEATHSIG
        ("prctl", (4, 0), False),  # PR_SET_DUMPABLE
        ("prctl", (22, 2), False),  # PR_SET_SECCOMP
        ("prlimit64", (0, 7), True),
        ("prlimit64", (PID, 7), True),
        ("prlimit64", (1, 7), False),
        ("prlimit64", (0, 7, 8), False),
        ("prlimit64", (0, 2, 1 << 32), False),  # RLIMIT_DATA, by a pointer whose low half is null
        *(((name, (clock,), 0 <= clock <= 7 or clock == 11)) for name in ("clock_gettime", "clock_getres")
          for clock in (*range(13), *(~pid << 3 | kind for pid in (0, 1, PID) for kind in (2, 6)), ~5 << 3 | 3)),
        ("clock_gettime", (1 << 32 | (~1 << 3 | 2) & 0xFFFFFFFF,), False),
        ("clock_gettime", (1 << 63 | 10,), False),
        *((("clock_nanosleep", (clock,), clock in (0, 1))) for clock in (*range(13), ~PID << 3 | 2, ~1 << 3 | 6)),
        ("sched_getaffinity", (0,), True),
        ("sched_getaffinity", (1,), False),
        ("tgkill", (PID, PID, 6), True),
        ("tgkill", (PID, PID + 1, 6), False),
        ("tgkill", (PID, PID, 19), False),  # SIGSTOP
        ("tgkill", (1, 1, 6), False),
    ],
)
def test_arguments_decide_where_a_call_has_more_than_one_use(
    machine: str, name: str, arguments: tuple[int, ...], allowed: bool
) -> None:
    assert call(name, *arguments, machine=machine) == (bpf.RET_ALLOW if allowed else EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_of_tests_adds_calls_for_ordinary_files_and_nothing_else(machine: str) -> None:
    named: set[str] = {name for group in bpf.policy()["scratch"]["allow"].values() for name in group}
    more = {NUMBERS[machine][name] for name in named if name in NUMBERS[machine]}
    scratch = bpf.policy()["scratch"]
    ruled = {NUMBERS[machine][name] for name in (*bpf.policy()["rules"], *scratch["rules"], *scratch["answers"])
             if name in NUMBERS[machine]}
    for number in range(1000):
        answer = run(machine, number, programs=WITH_FILES)
        assert answer == (bpf.RET_ALLOW if number in more else run(machine, number)) or number in ruled, number
    assert run(machine, NUMBERS[machine]["listxattr"], programs=WITH_FILES) == bpf.RET_ERRNO | errno.ENOTSUP
    number = NUMBERS[machine]["renameat2"]
    assert run(machine, number, (3, 0, 3, 0, 0), programs=WITH_FILES) == bpf.RET_ALLOW
    assert run(machine, number, (3, 0, 3, 0, 4), programs=WITH_FILES) == EPERM  # RENAME_WHITEOUT makes a device
    number = NUMBERS[machine]["fcntl"]
    for command, allowed in ((1030, True), (2, True), (3, True), (4, False), (8, False), (0, False), (1031, False),
                             (1033, False)):
        wanted = bpf.RET_ALLOW if allowed else EPERM
        assert run(machine, number, (5, command), programs=WITH_FILES) == wanted, command
    number = NUMBERS[machine]["utimensat"]
    for arguments, allowed in (((-100, 1 << 40, 0, 0), True), ((-100, 7, 0, 0x100), True), ((0, 0, 0, 0), False),
                               ((0, 1 << 40, 0, 0x1000), False), ((3, 0, 0, 0x100), False)):
        wanted = bpf.RET_ALLOW if allowed else EPERM
        assert run(machine, number, arguments, programs=WITH_FILES) == wanted, arguments
    for name in ("symlinkat", "linkat", "mknodat", "fchmod", "mmap", "socket", "memfd_create", "execve",
                 "openat2", "fchownat", "setxattr"):
        assert name not in named


@given(st.sampled_from(MACHINES), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_whatever_is_asked_the_program_ends_with_an_answer(machine: str, number: int, arguments: list[int]) -> None:
    assert run(machine, number, tuple(arguments)) in (bpf.RET_ALLOW, bpf.RET_KILL, EPERM, ENOSYS)


@pytest.mark.parametrize("name", ["openat", "execve", "clone", "socket", "connect", "bind", "sendmsg", "recvmsg",
                                  "kill", "newfstatat", "statx", "memfd_create", "pidfd_open", "setresuid", "seccomp"])
def test_what_is_not_named_is_refused_with_an_errno_that_python_reports(name: str) -> None:
    assert call(name) == EPERM


def test_a_name_that_no_table_has_is_a_mistake_that_shows() -> None:
    policy: dict[str, Any] = bpf.policy()
    policy["allow"]["typo"] = {"opne": []}
    with pytest.raises(KeyError, match="opne"):
        bpf.compile_policy(policy, "x86_64")
    policy["allow"]["typo"] = {"read": []}
    with pytest.raises(ValueError, match="twice"):
        bpf.compile_policy(policy, "x86_64")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_two_filters_of_a_worker_leave_its_plugin_what_the_policy_says_and_nothing_more(machine: str) -> None:
    odd = [(), (0, 2, 1), (0, 9, 1), (22, 2, 1), (21,), (PID, 7), (5, 0x5421), (1,)]
    for number in [*range(1000), 2**30 - 1, 2**31]:
        for arguments in odd:
            both = {run(machine, number, arguments, programs=one) for one in (FIRST, CLOSING)}
            stricter = bpf.RET_KILL if bpf.RET_KILL in both else min(both)  # the kernel's order of answers
            assert stricter == run(machine, number, arguments), (number, arguments)
    for arguments in ((0, 2, 1), (0, 9, 1)):
        assert run(machine, NUMBERS[machine]["prlimit64"], arguments, programs=FIRST) == bpf.RET_ALLOW
    assert run(machine, NUMBERS[machine]["prctl"], (22, 2, 1), programs=FIRST) == bpf.RET_ALLOW
    for arguments in ((0, 7, 1), (PID, 2, 1), (1, 2, 1)):
        assert run(machine, NUMBERS[machine]["prlimit64"], arguments, programs=FIRST) == EPERM
