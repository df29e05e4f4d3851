"""Whatever is killed or stopped: every request has its one outcome, it comes back, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.caller import Caller, outcome
from tests.support.daemon import MANY, ROOT, Daemon, wait_for, write_plugin
from tests.support.faulty import write_faulty, write_steady

CYCLES = 1000
STOP_SECONDS = 30
"""Longer than the longest deadline (5 s), a ping's answer, a boot, and a handshake."""
BUSY, IDLE = ("busy-0", "busy-1", "busy-2"), ("idle-0", "idle-1", "idle-2")
PATIENT = {"breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.002,
           "limits.cpu_percent": 100}


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_steady(folder)
        write_faulty(folder, "run", "exit")
        write_plugin(folder, "many", MANY)
        yield folder


def side(daemon: Daemon, name: str) -> psutil.Process | None:
    for child in psutil.Process(daemon.pid).children():
        try:
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                return child
        except psutil.Error:
            continue
    return None


def started(daemon: Daemon) -> set[str]:
    """The names of its side processes, once each has had time to take its name."""
    children = psutil.Process(daemon.pid).children()
    wait_for(lambda: len([p for p in children if p.name().startswith("apex-")]) >= 2, 5, "names")
    time.sleep(0.5)
    return {p.name() for p in children if p.is_running() and p.name().startswith("apex-")}


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Footprint:
    """What must not grow."""

    def __init__(self, daemon: Daemon) -> None:
        supervisor, zygote = psutil.Process(daemon.pid), daemon.zygote()
        self.fds = {"supervisor": supervisor.num_fds(), "zygote": zygote.num_fds()}
        self.threads = supervisor.num_threads()
        self.zombies = sum(p.status() == psutil.STATUS_ZOMBIE for p in daemon.family())
        self.processes = len(daemon.family())
        self.files = sorted(path.name for path in daemon.runtime.iterdir())
        self.series = {line.rpartition(" ")[0] for line in daemon.metrics().splitlines() if not line.startswith("#")}
        self.rss_mb = {"supervisor": supervisor.memory_info().rss / 1e6, "zygote": zygote.memory_info().rss / 1e6}


@pytest.mark.slow
def test_a_thousand_ends_and_restarts_while_scraped_leave_nothing_behind(plugins: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, plugins=plugins, config=PATIENT) as daemon, Caller(daemon.endpoint) as caller:
        def cycle(count: int) -> None:
            for _ in range(count):
                reply = caller.call("run-exit", "fault")
                assert outcome(reply) == "WORKER_CRASHED" and reply["details"] == {"exitCode": 3}, reply

        stop = threading.Event()
        scrapes = 0

        def scrape() -> None:
            nonlocal scrapes
            while not stop.is_set():
                assert "apex_exec_worker_exits_total" in daemon.metrics()
                scrapes += 1
                stop.wait(0.1)

        daemon.start_registrar()
        assert outcome(caller.call("many")) == "ok"
        cycle(150)  # caches are full, and every series is there
        scraper = threading.Thread(target=scrape)
        time.sleep(1.2)
        before = Footprint(daemon)
        while (again := Footprint(daemon)).fds != before.fds:  # a connection of ours was just closing
            before = again
        scraper.start()
        cycle(CYCLES)
        stop.set()
        scraper.join()
        wait_for(lambda: daemon.metric('worker_exits_total{plugin="run-exit",reason="crashed"}') >= CYCLES + 150, 10,
                 "the count of ends")
        due = time.monotonic() + 10  # the last worker's burial, the end of the scrapes' and our own connections
        while (after := Footprint(daemon)).zombies or after.fds != before.fds:
            assert time.monotonic() < due, f"fds {before.fds} → {after.fds}, {after.zombies} zombies"
            time.sleep(0.2)
        assert after.threads == before.threads
        assert after.processes <= before.processes + 1 and after.files == before.files
        assert len(after.series - before.series) <= 3, "a sample of a kind not yet seen, not one a worker"
        for name, rss_mb in after.rss_mb.items():
            assert rss_mb < before.rss_mb[name] + 3, f"{name} grew from {before.rss_mb[name]:.1f} to {rss_mb:.1f} MB"
        assert scrapes > 10
        assert outcome(caller.call("steady")) == "ok"
        caller.settle()


@pytest.mark.slow
def test_a_killed_zygote_is_replaced_and_every_call_in_flight_is_answered(plugins: Path, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    with Daemon(tmp_path, plugins=plugins, config=PATIENT) as daemon, Caller(daemon.endpoint) as caller:
        assert outcome(caller.call("steady")) == "ok"
        for _ in range(5):
            zygote = daemon.zygote()
            calls = [caller.invoke("steady", "sleep", seconds=0.02, echo=n) for n in range(40)]
            time.sleep(0.1)
            zygote.kill()
            for number, reply in enumerate(caller.collect(calls)):
                seen[outcome(reply)] += 1
                if outcome(reply) == "ok":
                    assert reply["result"]["result"] == number
                else:
                    assert outcome(reply) == "WORKER_CRASHED", reply
            gone = zygote.pid
            wait_for(lambda gone=gone: daemon.operate("daemon.status")["zygotePid"] not in (gone, 0), 10, "a zygote")
            assert outcome(caller.call("steady")) == "ok"
        caller.settle()
        assert seen["ok"] > 100 and 1 <= seen["WORKER_CRASHED"] <= 10, seen
        assert daemon.metric('breaker_state{plugin="steady",state="open"}') == 0, "it is charged to no plugin"


@pytest.mark.slow
def test_every_killed_side_process_comes_back_and_costs_no_call_its_outcome(plugins: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, plugins=plugins, config=PATIENT) as daemon, Caller(daemon.endpoint) as caller:
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "readiness")  # which starts the exporter
        daemon.start_registrar()
        assert outcome(caller.call("many")) == "ok"
        names = started(daemon)
        assert names >= {"apex-ledger", "apex-exporter", "apex-registrar", "apex-checks"}
        for name in 2 * sorted(names):
            victim = side(daemon, name)
            assert victim is not None
            calls = [caller.invoke("steady", "sleep", seconds=0.01, echo=n) for n in range(20)]
            victim.kill()
            calls += [caller.invoke("steady", "ok", echo=n) for n in range(20)]
            allowed = {"ok", "AUDIT_UNAVAILABLE"} if name == "apex-ledger" else {"ok"}
            assert {outcome(reply) for reply in caller.collect(calls)} <= allowed
            wait_for(lambda gone=victim.pid, name=name: (now := side(daemon, name)) is not None and now.pid != gone, 10,
                     name)
            wait_for(lambda: outcome(caller.call("steady")) == "ok", 10, "service")
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "readiness")
        for name in names:  # each death is one line of the log and one count
            process = name.removeprefix("apex-")
            daemon.wait_metric(f'side_process_restarts_total{{process="{process}"}}', 2)
            assert daemon.log.count(f"the {process} process (pid ") == 2
        caller.settle()


@pytest.mark.slow
def test_a_killed_supervisor_takes_all_with_it_and_the_next_one_starts_on_its_folder(plugins: Path,
                                                                                     tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, plugins=plugins, config=PATIENT)
    for _ in range(3):
        family = daemon.family()
        with Caller(daemon.endpoint) as caller:
            assert outcome(caller.call("steady")) == "ok"
            family = daemon.family()
            calls = [caller.invoke("steady", "sleep", seconds=0.01, echo=n) for n in range(200)]
            caller.collect(calls[:20])
            daemon.kill()
            time.sleep(0.2)
            while caller.socket.poll(0):
                caller.take()
            answered = [i for i in calls if caller.replies[i]]
            assert all(outcome(caller.only(i)) == "ok" for i in answered) and len(answered) < len(calls)
        wait_for(lambda family=family: not alive(family), 10, "the end of its processes")
        daemon.start()
    with daemon, Caller(daemon.endpoint) as caller:
        assert outcome(caller.call("steady")) == "ok"


@pytest.mark.slow
def test_a_second_daemon_on_the_same_folder_is_refused_and_harms_nothing(plugins: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, plugins=plugins) as daemon, Caller(daemon.endpoint) as caller:
        assert outcome(caller.call("steady")) == "ok"
        second = subprocess.run([sys.executable, "-m", "apex_exec", "serve", "--config", str(daemon.config_file)],
                                capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        assert second.returncode != 0 and "already running" in second.stderr, second
        assert outcome(caller.call("steady")) == "ok", "the first keeps its socket"
        with Caller(daemon.endpoint) as another:
            assert outcome(another.call("steady")) == "ok"


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_a_supervisor_that_was_stopped_for_long_kills_nobody_but_who_hangs(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    for plugin in (*BUSY, *IDLE, "hanging"):
        write_steady(folder, plugin)
    with Daemon(tmp_path / "daemon", plugins=folder, config=PATIENT) as daemon, Caller(daemon.endpoint) as caller:
        def pids() -> dict[str, list[int]]:
            return {row["id"]: row["pids"] for row in daemon.operate("daemon.status")["plugins"]}

        for plugin in (*BUSY, *IDLE, "hanging"):
            assert outcome(caller.call(plugin)) == "ok"
        before = pids()
        assert all(len(before[plugin]) == 1 for plugin in (*BUSY, *IDLE, "hanging"))
        # Eight of each are in the link and done in time, while nobody looks; two wait in the daemon beyond their time.
        calls = {plugin: [caller.invoke(plugin, "sleep", seconds=0.4, echo=n) for n in range(10)] for plugin in BUSY}
        hanging = caller.invoke("hanging", "sleep", seconds=60)
        wait_for(lambda: daemon.plugin("hanging")["inFlight"] == 1, 10, "the last call sent")
        assert all((row["inFlight"], row["queued"]) == (8, 2) for row in map(daemon.plugin, BUSY)), "0.4 s were too few"
        daemon.signal(signal.SIGSTOP)
        time.sleep(STOP_SECONDS / 2)
        meanwhile = [caller.invoke(plugin, "ok", echo=plugin) for plugin in (*BUSY, *IDLE)]
        time.sleep(STOP_SECONDS / 2)
        daemon.signal(signal.SIGCONT)
        for replies in map(caller.collect, calls.values()):
            assert [outcome(reply) for reply in replies] == ["ok"] * 8 + ["DEADLINE_EXCEEDED"] * 2
            assert [reply["result"]["result"] for reply in replies[:8]] == list(range(8))
            assert not any(reply["started"] for reply in replies[8:])
        assert [reply["result"]["result"] for reply in caller.collect(meanwhile)] == [*BUSY, *IDLE]
        assert outcome(caller.collect([hanging])[0]) == "TIMEOUT"
        time.sleep(2)  # pings that were due meanwhile, and their answers
        after = pids()
        assert {plugin: after[plugin] for plugin in (*BUSY, *IDLE)} == {p: before[p] for p in (*BUSY, *IDLE)}
        assert outcome(caller.call("hanging")) == "ok", "another worker serves it"
        assert pids()["hanging"] != before["hanging"]
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "readiness")
        assert all(daemon.metric(f'breaker_state{{plugin="{plugin}",state="open"}}') == 0 for plugin in after)
        caller.settle()
