"""``serve --background`` and ``stop``: start a daemon that outlives its shell, and end it.

These verbs serve people, tours and a container's entry script. For a service manager there is `deploy systemd`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, say
from apex_exec.cli.root import (
    EXIT_NO,
    EXIT_NO_DAEMON,
    AsJson,
    ConfigFile,
    RuntimeDir,
    app,
    examples,
    fail,
    need_linux,
    our_command,
)
from apex_exec.cli.verbs import Option
from apex_exec.common.pid_behind import pid_behind
from apex_exec.readiness import Readiness

if TYPE_CHECKING:
    from apex_exec.config import Settings

START_SECONDS_MAX = 120.0
"""A daemon with ten thousand plugins is ready after a few seconds; one that waits for its ledger says so by then."""
LOG_NAME = "serve.log"
LOG_BYTES_MAX = 10 * 1024 * 1024
"""A larger log is renamed to serve.log.1 when the next daemon starts, which replaces an older serve.log.1."""
TAIL_LINES = 5


def start(arguments: list[str], settings: Settings, config: Path | None) -> None:
    """Starts ``serve`` with ``arguments`` in a session of its own and waits until it is ready; says how to stop it.

    If the daemon does not come up, the command prints its last log lines and exits 1. Raises OSError if the log cannot
    be written.
    """
    log_path = settings.state_path / LOG_NAME
    log = _open_log(log_path)
    begin = os.fstat(log).st_size
    with Readiness() as readiness:
        process = subprocess.Popen([sys.executable, "-m", "apex_exec", "serve", *arguments], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True,
                                   env={**os.environ, "NOTIFY_SOCKET": readiness.address})
        os.close(log)
        due = time.monotonic() + START_SECONDS_MAX
        try:
            while not readiness.is_ready():
                if process.poll() is not None:
                    _say_tail(log_path, begin)
                    fail(f"the daemon ended with status {process.returncode} before it was ready; its last messages "
                         f"are above, and all of them are in {log_path}", EXIT_NO)
                if time.monotonic() > due:
                    process.terminate()
                    _say_tail(log_path, begin)
                    fail(f"the daemon was not ready within {START_SECONDS_MAX:g} s and was sent SIGTERM; its log is "
                         f"{log_path}", EXIT_NO)
        except KeyboardInterrupt:
            process.terminate()
            raise
    where = ["--config", str(config.absolute())] if config is not None else []
    stop_with = shlex.join([*our_command(), "stop", *where, "--runtime-dir", str(settings.runtime_path.absolute())])
    say(f"serving in the background on {settings.host_endpoint}\n"
        f"pid   {process.pid}\nlog   {log_path.absolute()}\nstop  {stop_with}")


def _open_log(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if path.lstat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(f"{LOG_NAME}.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _say_tail(path: Path, begin: int) -> None:
    with path.open("rb") as file:
        file.seek(begin)
        for line in file.read().decode("utf-8", "replace").splitlines()[-TAIL_LINES:]:
            say(line, file=sys.stderr)


@app.command(epilog=examples("apex-exec stop", "apex-exec stop --runtime-dir /tmp/apex-tour"))
def stop(
    seconds: Annotated[float, Option("--seconds", min=0.0, help="How long to wait until it has ended.")] = 60.0,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Ends the daemon with SIGTERM, however it was started, and waits until it is gone. Calls finish first."""
    need_linux()
    place = connect.endpoint("admin", config, runtime_dir)
    pid = pid_behind(place)
    if not pid:
        fail(f"no daemon: nothing answers on {place}", EXIT_NO_DAEMON)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        fail("no daemon: it has just ended", EXIT_NO_DAEMON)
    if pid_behind(place) != pid:  # then the pid may already belong to another process
        fail("no daemon: it has just ended", EXIT_NO_DAEMON)
    import select

    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except PermissionError:
        fail(f"the daemon, pid {pid}, belongs to another user; run this as that user", EXIT_NO)
    ended = bool(select.select([pidfd], [], [], seconds)[0])
    if as_json:
        print_json({"pid": pid, "ended": ended})
    elif ended:
        say(f"the daemon, pid {pid}, has ended")
    if not ended:
        fail(f"the daemon, pid {pid}, has not ended within {seconds:g} s; it may wait for calls to finish "
             "(drain_seconds): look with `apex-exec status`", EXIT_NO)
