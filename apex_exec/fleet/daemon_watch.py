"""Starts a daemon, adopts it if it runs already, and starts it again once it has ended.

The daemon is nobody's child here: `serve --background` has it in a session of its own and ends, so that neither Ray's
killing of a worker's children nor the end of its process group reaches it. This file knows nothing of Ray.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from apex_exec.common.backoff import Backoff
from apex_exec.common.pid_behind import pid_behind
from apex_exec.config import load_settings
from apex_exec.errors import ConfigError

LOOK_SECONDS = 0.5
START_SECONDS_MAX = 180.0
"""`serve --background` gives up before, and says why; this is for one that hangs itself."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
PROBLEM_CHARS_MAX = 500
RAY_ONLY = ("RAY_", "PYTHONBREAKPOINT", "PYTHONUNBUFFERED", "OMP_NUM_THREADS")
"""Variables that Ray sets for its workers: its token among them, which no daemon has a use for."""


class DaemonWatch:
    """The daemon of ``config``, which is ``node`` in its fleet. ``prepare`` is called in the thread that starts
    daemons, before each start; what it raises as OSError is a problem, and nothing is started."""

    def __init__(self, node: str, config: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self.pid = 0
        self.starts = 0
        self.adopted = 0
        self.problem = ""
        self._node = node
        self._config = config
        self._prepare = prepare
        self._ended = threading.Event()
        self._backoff = Backoff(SHORTEST_SECONDS, LONGEST_SECONDS)

    def run(self) -> None:
        """Watches until ``end``; blocks."""
        started = False
        while not self._ended.is_set():
            try:
                settings = load_settings(self._config)
                if settings.fleet.engine != "ray":
                    raise ConfigError(f'{self._config}: write engine = "ray" under [fleet]; it is '
                                      f"{settings.fleet.engine!r}")
                pid = pid_behind(settings.admin_endpoint)
                if pid:
                    self._follow(pid, started)
                    started = False
                    continue
                self.pid = 0
                self._prepare()
                self._start()
                started = True
                continue
            except (ConfigError, OSError, subprocess.SubprocessError) as error:
                self.problem = str(error)[-PROBLEM_CHARS_MAX:]
            self._ended.wait(self._backoff.take())

    def end(self) -> None:
        """Watches no longer; the daemon runs on."""
        self._ended.set()

    def _follow(self, pid: int, started: bool) -> None:
        """Waits until the process has ended: the kernel says so at once."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if pid != self.pid:
                self.adopted += not started
            self.pid, self.problem = pid, ""
            begun = time.monotonic()
            while not self._ended.is_set() and not select.select([pidfd], [], [], LOOK_SECONDS)[0]:
                if time.monotonic() - begun > LONGEST_SECONDS:
                    self._backoff.reset()
        finally:
            os.close(pidfd)
        self.pid = 0
        if not self._ended.is_set():  # one that ends again and again is started less and less often
            self._ended.wait(self._backoff.take())

    def _start(self) -> None:
        """Starts the daemon and waits until it is ready. Raises OSError or SubprocessError."""
        self.starts += 1
        command = [sys.executable, "-m", "apex_exec", "serve", "--background", "--config", str(self._config),
                   "--set", f"fleet.node={self._node}"]
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray blocks SIGINT in its workers' threads
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True, errors="replace", timeout=START_SECONDS_MAX, start_new_session=True, cwd="/",
                              env={name: word for name, word in os.environ.items() if not name.startswith(RAY_ONLY)})
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
            raise subprocess.SubprocessError(f"the daemon does not start: {'; '.join(said[-2:])}")
