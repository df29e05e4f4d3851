"""The daemon under the soak, what is done to it, and what it may not leave behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from apex_exec import testing
from apex_exec.client import Client
from apex_exec.testing import USER
from benchmarks.soak_plugins import GOOD, SCHEMA, TABLES

HTTP_HOST = "127.0.0.1"
STOP_SECONDS = 30.0
IDLE_SECONDS = 2.0
HARM_SECONDS = 0.4
"""Mean time between two harms."""
STOPPED_SECONDS = 0.6
LEDGER_BACK_SECONDS = 5.0
"""Longer than a killed ledger takes to be there again and to have what it was sent committed."""
RSS_GROWTH_MB_MAX = 40.0
MANY_VALUES = 30_000
"""In a result that is too large to be checked in the supervisor's loop."""
CONFIG: dict[str, Any] = {
    "limits.cpu_percent": 100, "pool.idle_seconds": IDLE_SECONDS,
    "pool.boot_seconds": 5, "breaker.open_seconds": 1.0, "breaker.backoff_min_seconds": 0.02,
    "breaker.backoff_max_seconds": 0.5, "audit.min_free_bytes": 0, "log.level": "error"}
"""Idle workers leave soon, so that what is left at the end can be compared; a paused plugin is tried again soon."""


class SoakDaemon(testing.Daemon):
    """One daemon after another on one folder."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server((HTTP_HOST, 0)) as server:
            self.port: int = server.getsockname()[1]  # the log is too quiet to say which port the daemon would choose
        super().__init__(folder, config={**CONFIG, "http.address": f"{HTTP_HOST}:{self.port}", "data.tables": TABLES})
        self.earlier: list[psutil.Process] = []
        self.state.mkdir(mode=0o700)
        with closing(sqlite3.connect(self.state / "data.db")) as db:
            db.execute(SCHEMA)

    def wake(self) -> None:
        """Starts the side processes that start only when something needs them (the registrar, the exporter, and the
        process that checks large results): they run at the end, so they must run when the first count is taken."""
        self.operate("plugin.list")
        socket.create_connection((HTTP_HOST, self.port)).close()
        with Client(self.endpoint) as client:  # whose connection is not counted with those of the hosts
            client.invoke(GOOD[0], "onActionExecute", USER, {"action": "x", "context": {"echo": [0.5] * MANY_VALUES}})

    def family(self) -> list[psutil.Process]:
        """Every process below the supervisor."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def workers(self) -> list[psutil.Process]:
        """The zygote's children."""
        return [p for child in self.children() for p in _children(child)]

    def children(self) -> list[psutil.Process]:
        """The supervisor's own children: zygote and side processes."""
        return _children(psutil.Process(self.process.pid))

    def kill(self) -> None:
        """Kills the supervisor with SIGKILL; ``leaks`` looks at what it leaves behind."""
        self.earlier += self.family()
        super().kill()

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; the exit status, -9 if it did not end in time."""
        self.earlier += self.family()
        try:
            return super().stop(seconds)
        except testing.DaemonFailed:
            return -signal.SIGKILL

    def footprint(self) -> dict[str, float]:
        """What must be the same whenever nothing runs: waits until idle workers have left."""
        due = time.monotonic() + IDLE_SECONDS + 8
        last, same = -1, 0
        while time.monotonic() < due and same < 5:  # spare workers may stay: a number that no longer changes
            count = len(self.workers())
            same = same + 1 if count == last else 0
            last = count
            time.sleep(0.5)
        supervisor = psutil.Process(self.process.pid)
        return {
            "fds": supervisor.num_fds(), "threads": supervisor.num_threads(), "processes": len(self.family()),
            "zombies": sum(p.status() == psutil.STATUS_ZOMBIE for p in self.family()),
            "files": len(list((self.folder / "run").iterdir())), "rss_mb": supervisor.memory_info().rss / 1e6}

    def leaks(self, before: dict[str, float]) -> dict[str, str]:
        """What has grown since ``before``, and which processes outlived an earlier supervisor."""
        after = self.footprint()
        found = {name: f"{before[name]:g} → {after[name]:g}" for name in before
                 if name != "rss_mb" and after[name] > before[name]}
        if after["rss_mb"] > before["rss_mb"] + RSS_GROWTH_MB_MAX:
            found["rss_mb"] = f"{before['rss_mb']:.0f} → {after['rss_mb']:.0f}"
        orphans = [p for p in self.earlier if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if orphans:
            found["orphans"] = str(len(orphans))
        return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


class Chaos:
    """Harms something every ``HARM_SECONDS`` or so, by ``rng``."""

    def __init__(self, daemon: SoakDaemon, rng: random.Random, *, seconds: float, supervisor_seconds: float) -> None:
        self.daemon, self.rng = daemon, rng
        self.done: Counter[str] = Counter()
        self.supervisor_kills: list[tuple[float, float]] = []
        self._ledger_killed = self._supervisor_stopped = 0.0
        self._stopped: list[tuple[float, psutil.Process]] = []
        self._next = 0.0
        self._every = supervisor_seconds
        begun = time.monotonic()
        self._next_supervisor = begun + supervisor_seconds if supervisor_seconds else float("inf")
        self._last_supervisor = begun + 0.8 * seconds  # the last one lives long enough to leak

    def turn(self, now: float) -> bool:
        """Does the harm that is due. Returns True if it ended the supervisor, which must be started again."""
        for due, process in list(self._stopped):
            if now >= due:
                self._stopped.remove((due, process))
                _signal(process, signal.SIGCONT)
        if now >= self._next_supervisor and now < self._last_supervisor:
            self._next_supervisor = now + self._every
            self.release()
            self.daemon.kill()
            earlier = [at for at, seconds in ((self._ledger_killed, LEDGER_BACK_SECONDS),
                                              (self._supervisor_stopped, STOPPED_SECONDS + 0.1)) if now - at < seconds]
            self.supervisor_kills.append((time.monotonic(), min([now, *earlier])))
            self.done["supervisor killed"] += 1
            return True
        if now >= self._next:
            self._next = now + self.rng.expovariate(1 / HARM_SECONDS)
            self._harm(now)
        return False

    def _harm(self, now: float) -> None:
        kind = self.rng.random()
        if kind < 0.03:
            supervisor = psutil.Process(self.daemon.process.pid)
            _signal(supervisor, signal.SIGSTOP)
            self._stopped.append((now + STOPPED_SECONDS, supervisor))
            self._supervisor_stopped = now
            self.done["supervisor stopped"] += 1
            return
        if kind < 0.6:
            victims, what = self.daemon.workers(), "worker"
        else:
            victims, what = self.daemon.children(), ""
        if not victims:
            return
        victim = self.rng.choice(victims)
        try:
            what = what or _name(victim)
        except psutil.Error:
            return
        if self.rng.random() < 0.3:
            _signal(victim, signal.SIGSTOP)
            self._stopped.append((now + STOPPED_SECONDS, victim))
            self.done[f"{what} stopped"] += 1
        else:
            _signal(victim, signal.SIGKILL)
            self.done[f"{what} killed"] += 1
            if what == "ledger":
                self._ledger_killed = now

    def release(self) -> None:
        """Lets every stopped process continue."""
        for _, process in self._stopped:
            _signal(process, signal.SIGCONT)
        self._stopped.clear()


def _name(process: psutil.Process) -> str:
    if process.name().startswith("apex-"):
        return process.name().removeprefix("apex-")
    return "resource tracker" if "resource_tracker" in " ".join(process.cmdline()) else "zygote"


def _signal(process: psutil.Process, number: int) -> None:
    try:
        if process.is_running():  # not another process that has its number now
            os.kill(process.pid, number)
    except (ProcessLookupError, psutil.Error):
        return
