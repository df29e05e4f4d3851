"""The attacks in JavaScript: every row that the language has words for, with exactly Python's system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from apex_exec.client import Client
from tests.attack import catalogue, contained
from tests.attack.campaign import DEADLINE_MS, ENFORCED, FULL, call, close_worlds, deadline_of, world
from tests.attack.javascript import ATTACKS, CONTAINED, WITHOUT
from tests.support import need
from tests.support.daemon import Daemon
from tests.support.javascript import write_files

MODULE = "const act = {code};\nexport default {{ id: '{id}', version: '1.0.0', permissions: [], hooks: {{\n" \
         "  onActionExecute: async (c) => ({{ result: await act({{ ...c, ...c.context }}), metadata: {{}} }}) }} }};\n"
ROWS = {row.name: row for row in catalogue.ATTACKS}
CONTAINED_ROWS = {row.name: row for row in contained.CONTAINED}
SIZES_APART_MAX = 256 * 1024  # bytes: one process has a few pages more than another when its jail is built
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, PTRACE_SECCOMP_GET_FILTER = 0x4206, 0x4207, 17, 0x420C


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    tried.cache_clear()
    close_worlds()


@cache
def tried(user: str) -> tuple[dict[str, tuple[str, Any, bool]], str]:
    """(row → (code, result, it came through or hurt somebody), the daemon's log) of every form, in one daemon."""
    here = world(user)
    codes = {**ATTACKS, **{name: form.code for name, form in CONTAINED.items()}}
    ids = {name: f"javascript-{number:03d}" for number, name in enumerate(codes)}
    for name, code in codes.items():
        write_files(here.plugins, ids[name], {"index.js": MODULE.format(code=code, id=ids[name])})
    found: dict[str, tuple[str, Any, bool]] = {}
    env = {"APEX_TEST_SECRET": "value-of-APEX-DAEMON-SECRET"}
    config = {**(ENFORCED if user == "root" else FULL), "limits.memory_mb": 50}
    with Daemon(plugins=here.plugins, config=config, uid=here.uid or None, env=env) as daemon:
        with Client(daemon.endpoint) as client:
            for number, name in enumerate(codes):
                before = here.snapshot()
                context = here.addresses(daemon.runtime) if name in ATTACKS else {}
                short = deadline_of(CONTAINED_ROWS[name]) if name in CONTAINED else DEADLINE_MS
                code, result = call(client, ids[name], context, short)
                bad = name in ATTACKS and here.came_through(ROWS[name].proof, code, result, before)
                well = call(client, "bystander", {"n": number}, DEADLINE_MS) == ("ok", {"n": number})
                found[name] = code, result, bad or not well or daemon.process.poll() is not None
        log = daemon.log
    return found, log


@pytest.mark.parametrize("user", ["root", pytest.param("unprivileged", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_layer_stops_does_not_come_through_in_javascript(user: str, name: str) -> None:
    code, result, bad = tried(user)[0][name]
    assert not bad and code != "BOOT_FAILED", (code, result)


@pytest.mark.parametrize("user", ["root", pytest.param("unprivileged", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CONTAINED)
def test_what_no_layer_stops_harms_nobody_else_in_javascript(user: str, name: str) -> None:
    found, log = tried(user)
    code, result, bad = found[name]
    row = CONTAINED_ROWS[name]
    assert not bad, "the daemon or another plugin suffered"
    assert code in (CONTAINED[name].codes or row.codes), (code, result)
    if code == "ok":
        assert result == "ran"
    assert not row.log or row.log not in log


def test_every_row_has_a_form_or_a_reason_why_not() -> None:
    assert ATTACKS.keys() <= ROWS.keys()
    assert CONTAINED.keys() | WITHOUT.keys() == CONTAINED_ROWS.keys() and not CONTAINED.keys() & WITHOUT.keys()


def test_a_worker_of_javascript_has_exactly_the_system_calls_of_a_python_one() -> None:
    """Reads the filters that the kernel holds for the two processes, and what else it says of their jails."""
    need(os.geteuid() == 0, "reading a process's filter is for root")
    here = world("root")
    write_files(here.plugins, "javascript-idle", {"index.js": MODULE.format(code="() => 'ran'", id="javascript-idle")})
    with Daemon(plugins=here.plugins, config=ENFORCED) as daemon, Client(daemon.endpoint) as client:
        for plugin in ("javascript-idle", "bystander"):
            assert call(client, plugin, {}, DEADLINE_MS)[0] == "ok"
        (ours,), (pythons,) = daemon.pids("javascript-idle"), daemon.pids("bystander")
        assert filters(ours) == filters(pythons) and filters(ours)
        (jail, sizes), (pythons_jail, pythons_sizes) = jail_of(ours), jail_of(pythons)
        assert jail == pythons_jail
        assert all(abs(size - other) <= SIZES_APART_MAX for size, other in zip(sizes, pythons_sizes, strict=True))


def filters(pid: int) -> list[list[tuple[int, ...]]]:
    """Every seccomp program in force in ``pid``, the newest first. The process's own pid, which some rules compare an
    argument with, stands in them as -1."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    assert libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    try:
        assert libc.ptrace(PTRACE_INTERRUPT, pid, None, None) == 0
        os.waitpid(pid, 0x40000000)  # __WALL: a child of another process
        programs: list[list[tuple[int, ...]]] = []
        while (count := libc.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(programs), None)) > 0:
            program = ctypes.create_string_buffer(8 * count)
            assert libc.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(programs), program) == count
            programs.append([(*head, -1 if k == pid else k) for *head, k in struct.iter_unpack("=HBBI", program.raw)])
        error = ctypes.get_errno()
        need(bool(programs) or error not in (errno.EINVAL, errno.EIO),
             "this kernel shows no filters (CONFIG_CHECKPOINT_RESTORE)")
        need(bool(programs) or error != errno.EACCES, "the kernel shows filters to no process that has one itself")
        return programs
    finally:
        libc.ptrace(PTRACE_DETACH, pid, None, None)
        os.kill(pid, signal.SIGCONT)


def jail_of(pid: int) -> tuple[dict[str, Any], list[int]]:
    """(What the kernel says of a process that a jail decides; its bounds of data and of address space in bytes, which
    stand on what the process had mapped when its jail was built)."""
    def lines(path: str, wanted: tuple[str, ...] = ("",)) -> list[str]:
        with open(f"/proc/{pid}/{path}", encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file if line.startswith(wanted)]

    kinds = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
    sized = ("Max data size", "Max address space")
    jail = {"status": lines("status", ("Cap", "NoNewPrivs", "Seccomp", "Threads", "Groups", "SigIgn", "SigBlk")),
            "limits": [line for line in lines("limits") if not line.startswith(sized)], "fds": kinds,
            "namespaces": [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "ipc", "uts", "user", "mnt")]}
    return jail, [int(limit) for line in lines("limits", sized) for limit in line.split()[-3:-1]]
