"""On a system other than Linux every verb works or says in one line that it needs Linux; none ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.test_framework import VERBS
from tests.support import other_user
from tests.support.bundles import files, write_folder

DARWIN = '''
import asyncio, ctypes, getpass, multiprocessing, os, platform, select, shutil, signal, socket
import subprocess, sys, tempfile
import click, pydantic, sysconfig  # they know the other systems; what is tested is ours
sysconfig.get_config_vars()
sys.platform = "darwin"
platform.system = lambda: "Darwin"
for module, names in ((select, ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP")),
                      (os, ("pipe2", "memfd_create", "pidfd_open", "sched_setaffinity", "sched_getaffinity")),
                      (signal, ("pidfd_send_signal",)), (socket, ("SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
'''
WINDOWS = DARWIN.replace("darwin", "win32").replace("Darwin", "Windows") + '''
for name in ("fcntl", "termios", "tty", "pty", "pwd", "grp", "resource"):
    sys.modules[name] = None
for module, names in ((os, ("geteuid", "getuid", "fork", "chown", "getpriority", "O_NOFOLLOW",
                            "O_CLOEXEC", "O_NONBLOCK")),
                      (signal, ("pthread_sigmask", "SIGCHLD", "SIGHUP", "SIGKILL")), (socket, ("AF_UNIX",))):
    for name in names:
        delattr(module, name)
'''
RUN = '''
from apex_exec.__main__ import main
sys.argv = ["apex-exec", *sys.argv[1:]]
main()
'''
NEED_LINUX = ("serve", "demo", "console", "console sessions", "doctor", "plugin dev", "plugin test")
ARGUMENTS: dict[str, tuple[str, ...]] = {"plugin dev": ("bundle",), "plugin test": ("bundle",),
                                         "serve": ("--runtime-dir", "run", "--state-dir", "state")}
WORK = {"version": (), "schema": (), "completion": ("bash",), "plugin new": ("fresh",), "config check": ()}


def run_on(system: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", system + RUN, *arguments], cwd=folder, capture_output=True, text=True,
                          timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})


@pytest.mark.parametrize("verb", NEED_LINUX)
@pytest.mark.parametrize("system", [DARWIN, WINDOWS], ids=["darwin", "win32"])
@pytest.mark.slow_after(3)
def test_what_runs_plugins_says_that_it_needs_linux(system: str, verb: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "bundle", files())
    done = run_on(system, tmp_path, *verb.split(), *ARGUMENTS.get(verb, ()))
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and "Linux" in done.stderr, done.stderr


@pytest.mark.parametrize("verb", WORK)
@pytest.mark.parametrize("system", [DARWIN, WINDOWS], ids=["darwin", "win32"])
@pytest.mark.slow_after(3)
def test_what_needs_no_linux_works(system: str, verb: str, tmp_path: Path) -> None:
    if system == WINDOWS and verb == "config check":
        return  # a configuration's folders are a Unix user's
    done = run_on(system, tmp_path, *verb.split(), *WORK[verb])
    assert done.returncode == 0 and not done.stderr and done.stdout, done.stderr


EVERY = '''
import contextlib, io, json, traceback
from apex_exec.cli.run import run
for arguments in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            run(arguments)
        except BaseException:
            print("Traceback", traceback.format_exc(), file=told)
    print(json.dumps([arguments, told.getvalue()]), flush=True)
'''


@pytest.mark.slow
@pytest.mark.parametrize("system", [DARWIN, WINDOWS], ids=["darwin", "win32"])
def test_no_verb_ends_in_a_traceback_there(system: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "bundle", files())
    lines = []
    for verb, command in VERBS.items():
        given = ["bundle" if one.name in ("folder", "target", "path") else "1" for one in command.params
                 if one.param_type_name == "argument" and one.required]
        needed = [word for one in command.params if one.param_type_name == "option" and one.required
                  for word in (one.opts[0], "x")]
        lines += [[*verb.split(), *given, *needed], [*verb.split(), "-h"]]
    done = subprocess.run([sys.executable, "-c", system + EVERY, json.dumps(lines)], cwd=tmp_path, capture_output=True,
                          text=True, timeout=100, env={**os.environ, "APEX_EXEC_STATE_DIR": str(tmp_path / "state")})
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [arguments for arguments, _ in told] == lines, done.stderr
    assert not [(arguments, text) for arguments, text in told if "Traceback" in text or text.count("\n") > 4]


@pytest.mark.parametrize("arguments", [
    ("audit", "tail"), ("audit", "export"), ("audit", "verify"), ("audit", "report", "--quarter", "2026Q4"),
    ("plugin", "logs", "hello-world"), ("keys", "new", "acme"), ("plugin", "sign", "x.apx", "--key", "acme")],
    ids=" ".join)
@pytest.mark.slow_after(2)
def test_a_state_folder_of_another_user_is_one_line(arguments: tuple[str, ...]) -> None:
    other_user.need_root()
    with tempfile.TemporaryDirectory() as folder:  # 0700 and root's
        done = subprocess.run([other_user.python(), "-m", "apex_exec", *arguments, "--state-dir", f"{folder}/state"],
                              capture_output=True, text=True, timeout=60, env=other_user.environment(),
                              **other_user.become())
    assert done.returncode in (1, 2), done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    words = ("another user", "belongs to uid 0", "run this as")
    assert any(text in done.stderr for text in words), done.stderr
