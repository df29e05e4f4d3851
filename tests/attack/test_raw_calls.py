"""Every system call by its bare number, and the narrowed ones by their arguments, in real workers of real daemons."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Client
from apex_exec.sandbox import bpf
from tests.support import need
from tests.support.daemon import USER, Daemon, write_plugin

NUMBERS_MAX = 480
UNFILTERED = {335, 336}
"""uretprobe and uprobe: from Linux 6.14 on the kernel looks at no filter for them (see workers/README.md)."""
CODE = '''
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
BUFFER = ctypes.create_string_buffer(4096)
own = {"pid": os.getpid(), "buffer": ctypes.addressof(BUFFER)}


def call(number, *arguments):
    """0, or the errno."""
    values = [own.get(value, value) if isinstance(value, str) else value for value in arguments]
    made = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value % 2**64) for value in values))
    return ctypes.get_errno() if made == -1 else 0


@plugin.hook("onActionExecute")
def act(params):
    return {"result": [call(*row) for row in params["context"]["calls"]], "metadata": {}}
'''
OTHER_CLOCKS = [8, 9, 10, *(~1 << 3 | kind for kind in (2, 6)), ~0 << 3 | 2, ~5 << 3 | 3]
NARROWED: list[tuple[str, tuple[Any, ...], bool]] = [
    *((name, (clock, "buffer"), False) for name in ("clock_gettime", "clock_getres") for clock in OTHER_CLOCKS),
    *((name, (1 << 32 | (~1 << 3 | 2) % 2**32, "buffer"), False) for name in ("clock_gettime", "clock_getres")),
    *((name, (clock, "buffer"), True) for name in ("clock_gettime", "clock_getres") for clock in (*range(8), 11)),
    *(("clock_nanosleep", (clock, 1, "buffer", 0), clock in (0, 1)) for clock in (0, 1, 2, 3, 7, 8, ~1 << 3 | 2)),
    *(("ioctl", (fd, 0x5421, "buffer"), False) for fd in (0, 1, 2, 3, 4, 1 << 32 | 3)),
    *(("ioctl", (3, command, "buffer"), False) for command in (0x5450, 0x5451, 0x5452, 0x541B, 0x5412)),
    *(("fcntl", (3, command, 0), command in (1, 3)) for command in (0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 1024, 1030, 1031)),
    *(("prlimit64", (pid, 0, 0, "buffer"), pid in (0, "pid")) for pid in (0, "pid", 1, 2)),
    *(("prlimit64", (pid, which, "buffer", 0), False) for pid in (0, "pid") for which in (0, 2, 7, 9)),
    *(("prctl", arguments, False) for arguments in ((21, 0), (22, 2, "buffer"), (4, 0), (1, 0), (15, "buffer"))),
    ("sched_getaffinity", (0, 128, "buffer"), True), ("sched_getaffinity", (1, 128, "buffer"), False),
    ("tgkill", ("pid", 1, 6), False), ("tgkill", (1, 1, 6), False), ("tgkill", ("pid", "pid", 19), False),
    ("madvise", ("buffer", 0, 12), False), ("madvise", ("buffer", 0, 4), None),
    ("epoll_ctl", (3, 4, 4, "buffer"), False), ("recvfrom", (3, "buffer", 1, 0x40, "buffer", "buffer"), False),
    ("futex", ("buffer", 10, 0, 0, 0, -1), False), ("futex", ("buffer", 1, 0, 0, 0, 0), True),
]
"""(call, arguments, True where it must succeed, False where the filter must refuse it, None where either will do)"""


@pytest.fixture(scope="module", params=["root", pytest.param("unprivileged", marks=pytest.mark.slow)])
def ask(request: pytest.FixtureRequest) -> Iterator[Any]:
    need(platform.machine() == "x86_64", "the numbers are those of x86_64")
    need(os.geteuid() == 0, "running daemons as root and as another user takes root")
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    folder.chmod(0o755)
    write_plugin(folder, "raw", CODE)
    config: dict[str, Any] = {"sandbox.extra_modules": ["ctypes"], "limits.cpu_percent": 100}
    with (Daemon(plugins=folder, config=config, uid=65532 if request.param == "unprivileged" else None) as daemon,
          Client(daemon.endpoint) as client):
        yield lambda calls: client.invoke("raw", "onActionExecute", USER, {
            "action": "x", "context": {"calls": calls}})["result"]["result"]
    shutil.rmtree(folder)


def test_every_number_that_is_not_allowed_is_refused(ask: Any) -> None:
    policy, table = bpf.policy(), bpf.numbers("x86_64")
    apart = {table[name] for name in bpf.allowed(policy, "x86_64")} | UNFILTERED | {
        table[name] for group in policy["kill"].values() for name in group}
    tried = [number for number in range(NUMBERS_MAX) if number not in apart]
    got = dict(zip(tried, ask([[number] for number in tried]), strict=True))
    assert got.pop(table["clone3"]) == errno.ENOSYS
    assert {number: answer for number, answer in got.items() if answer != errno.EPERM} == {}
    assert len(got) > 350


def test_narrowed_calls_do_what_is_needed_and_nothing_for_others(ask: Any) -> None:
    table = bpf.numbers("x86_64")
    got = ask([[table[name], *arguments] for name, arguments, _ in NARROWED])
    wrong = [(name, arguments, answer) for (name, arguments, works), answer in zip(NARROWED, got, strict=True)
             if works is not None and (answer != 0 if works else answer != errno.EPERM)]
    assert not wrong, wrong
