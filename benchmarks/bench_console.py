"""What a page of the console takes at ten thousand plugins and a million events, and what it costs the loop."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psutil

from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.records import AuditRecord
from benchmarks.bench_density import fill_registry
from benchmarks.daemon import USER, Daemon, serving
from benchmarks.lab import Lab

TITLE = "The console"
PAGES = {"overview": "/", "plugins": "/plugins", "plugins, searched": "/plugins?q=echo-09&sort=failures",
         "plugin": "/plugins/echo-00000", "audit": "/audit", "audit, words": "/audit?text=nothing-has-this",
         "doctor": "/doctor"}
LOOKS = 5
OPEN_SECONDS = 30
EVENTS_A_BATCH = 10_000
MIB = 1024 * 1024


def run(lab: Lab) -> None:
    """Adds the rows."""
    plugins, events = lab.scaled(10_000), lab.scaled(1_000_000)
    with tempfile.TemporaryDirectory(prefix="apxc") as name:
        state = Path(name) / "state"
        lab.say(f"{plugins:,} plugins, {events:,} events")
        fill_registry(state, plugins)
        _write_events(state, events)
        with serving(None, state=state, scrape=False) as daemon, _console(daemon) as (process, browser):
            while not browser.has("/plugins/echo-00000"):  # until the registry is open
                time.sleep(1)
            for page, path in PAGES.items():
                for _ in range(LOOKS):
                    begun = time.perf_counter()
                    browser.get(path)
                    lab.add(page, "time", "ms", 1000 * (time.perf_counter() - begun), plugins=plugins, events=events)
            _open(lab, daemon, process, browser, plugins)


def _open(lab: Lab, daemon: Daemon, process: psutil.Process, browser: _Browser, plugins: int) -> None:
    """The CPU of the supervisor and the console while nobody looks, and while one overview is open."""
    supervisor = psutil.Process(daemon.pid)
    for who, page in (("nobody looks", ""), ("an open overview", "/")):
        lab.say(who)
        before, due = (_seconds(supervisor), _seconds(process)), time.monotonic() + lab.scaled(OPEN_SECONDS)
        begun = time.monotonic()
        while time.monotonic() < due:
            if page:
                browser.get(page, {"X-Fragment": "1"})
            time.sleep(2)
        passed = time.monotonic() - begun
        lab.add(who, "loop", "% of a core", 100 * (_seconds(supervisor) - before[0]) / passed, registered=plugins)
        lab.add(who, "console", "% of a core", 100 * (_seconds(process) - before[1]) / passed, registered=plugins)
    lab.add("console", "memory (PSS)", "MiB", process.memory_full_info().pss / MIB, registered=plugins)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _write_events(state: Path, count: int) -> None:
    now_ns = time.time_ns() - count * 1_000_000
    store = AuditStore(state / "audit.db", state)
    for begin in range(0, count, EVENTS_A_BATCH):
        store.append([AuditRecord(now_ns + n * 1_000_000, "plugin.execution", USER, f"echo-{n % 10_000:05}",
                                  "onActionExecute", "success", {"executionTimeMs": 1.5, "memoryUsedMb": 4.0})
                      for n in range(begin, min(count, begin + EVENTS_A_BATCH))])
    store.close()


@contextmanager
def _console(daemon: Daemon) -> Iterator[tuple[psutil.Process, _Browser]]:
    command = [sys.executable, "-m", "apex_exec", "console", "--config", str(daemon.config_file), "--address",
               "127.0.0.1:0", "--open"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert running.stdout is not None
        origin = running.stdout.readline().split()[-1]
        found = re.search(r"token=(\S+)", running.stdout.readline())
        assert found
        yield psutil.Process(running.pid), _Browser(origin, found[1])
    finally:
        running.terminate()
        running.wait()


class _Browser:
    """One keep-alive connection that is signed in."""

    def __init__(self, origin: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=120)
        self._connection.request("POST", "/login", urlencode({"token": token}), {
            "Origin": origin, "Content-Type": "application/x-www-form-urlencoded"})
        answer = self._connection.getresponse()
        answer.read()
        self._cookie = answer.headers["Set-Cookie"].partition(";")[0]

    def get(self, path: str, headers: dict[str, str] | None = None) -> None:
        """One page; exits if it is not one."""
        if not self.has(path, headers):
            raise SystemExit(f"{path} is not a page")

    def has(self, path: str, headers: dict[str, str] | None = None) -> bool:
        """Whether a page is there."""
        self._connection.request("GET", path, headers={"Cookie": self._cookie, **(headers or {})})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200
