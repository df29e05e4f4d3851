"""However the daemon is asked to end: every request is answered, what has no record is named, and nothing stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from apex_exec.testing.configuration import to_toml
from tests.support import has_namespaces, need
from tests.support.daemon import ECHO, MANY, ROOT, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host

DRAIN_SECONDS = 4


class Crowd:
    """Calls on one connection, sent at once; their replies by id."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.linger = 0
        self.dealer.connect(endpoint)
        self.replies: dict[int, dict[str, Any]] = {}
        self.sent = 0

    def call(self, count: int, seconds: float, deadline_ms: int = 20_000, plugin: str = "sleeper") -> None:
        for _ in range(count):
            self.sent += 1
            self.dealer.send(msgspec.msgpack.encode({
                "type": "invoke", "id": self.sent, "plugin": plugin, "action": "onActionExecute", "userId": USER,
                "payload": {"action": "x", "context": {"seconds": seconds}}, "deadlineMs": deadline_ms}))

    def read(self, seconds: float) -> None:
        due = time.monotonic() + seconds
        while len(self.replies) < self.sent and (left := due - time.monotonic()) > 0:
            if self.dealer.poll(int(left * 1000)):
                reply = msgspec.msgpack.decode(self.dealer.recv())
                assert reply["id"] not in self.replies, "twice"
                self.replies[reply["id"]] = reply

    def codes(self) -> Counter[str]:
        return Counter(reply.get("code", "result") for reply in self.replies.values())

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder, "sleeper", SLEEP)
    write_plugin(folder, "echo", ECHO)
    write_plugin(folder, "many", MANY)
    return folder


@pytest.fixture
def crowd() -> Iterator[Any]:
    made: list[Crowd] = []

    def make(endpoint: str) -> Crowd:
        made.append(Crowd(endpoint))
        return made[-1]

    yield make
    for one in made:
        one.close()


CONFIG = {"drain_seconds": DRAIN_SECONDS, "limits.cpu_percent": 100, "limits.timeout_ms": 20_000}


WITH_GATEWAY = {**CONFIG, "drain_seconds": 1, "fetch.allow": ["api.example.com"]}


def send(daemon: Daemon, number: int, to: str) -> None:
    pids = [daemon.pid] if to == "process" else [p.pid for p in (psutil.Process(daemon.pid), *daemon.family())]
    if to == "group":
        assert os.getpgid(daemon.pid) == daemon.pid
        os.killpg(daemon.pid, number)
        return
    for pid in reversed(pids):  # the children first: the worst order
        os.kill(pid, number)


CASES = [(number, to) for number in (signal.SIGTERM, signal.SIGINT) for to in ("process", "group", "tree")]


@pytest.mark.parametrize(("number", "to"), [
    pytest.param(number, to, marks=() if (number, to) == (signal.SIGTERM, "tree") else pytest.mark.slow,
                 id=f"{number.name}-{to}") for number, to in CASES])
def test_an_end_lets_every_pending_call_finish(
        number: signal.Signals, to: str, plugins: Path, crowd: Any) -> None:
    with Daemon(plugins=plugins, config=CONFIG, wrapper=["setsid"]) as daemon:
        family = daemon.family()
        calls = crowd(daemon.endpoint)
        calls.call(40, 0.02)
        wait_for(lambda: daemon.plugin("sleeper")["calls"] > 3, 10, "calls run")
        send(daemon, number, to)
        calls.read(DRAIN_SECONDS + 5)
        assert calls.codes() == {"result": 40}
        assert daemon.process.wait(DRAIN_SECONDS + 5) == 0
        _, alive = psutil.wait_procs(family, timeout=2)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("seconds", "expected"), [
    pytest.param(10, ["fetch-a", "fetch-b"], marks=pytest.mark.slow),
    pytest.param(1, ["fetch-a"], marks=pytest.mark.slow)])
def test_a_dispatch_that_was_taken_goes_on_from_plugin_to_plugin_until_the_drain_is_over(
        seconds: float, expected: list[str], tmp_path: Path) -> None:
    fetch = ("import time\n\n@plugin.hook('onDataFetch')\ndef fetch(context, params):\n    time.sleep(0.8)\n"
             "    return {'transformedData': [*params['data'], context.plugin_id]}\n")
    for name in ("fetch-a", "fetch-b"):
        write_plugin(tmp_path, name, fetch, hooks=("onDataFetch",))
    with Daemon(plugins=tmp_path, config={**CONFIG, "drain_seconds": seconds}) as daemon, \
            Host(daemon.endpoint) as host:
        id_ = host.send({"type": "dispatch", "action": "onDataFetch", "userId": USER, "deadlineMs": 5000,
                         "payload": {"query": "q", "filters": {}, "data": []}})
        wait_for(lambda: daemon.pids("fetch-a"), 10, "the first part")
        time.sleep(0.3)
        daemon.signal(signal.SIGTERM)
        done = host.reply(id_)
        assert done["result"]["transformedData"] == expected and done["partial"] == (len(expected) < 2), done
        refused = [outcome["error"]["code"] for outcome in done["outcomes"] if not outcome["ok"]]
        assert refused == ["SHUTTING_DOWN"] * (2 - len(expected))
        assert daemon.process.wait(15) == 0


@pytest.mark.parametrize("to", ["tree", pytest.param("group", marks=pytest.mark.slow)])
def test_a_hangup_of_all_processes_reloads_and_ends_nothing(to: str, plugins: Path, crowd: Any) -> None:
    with Daemon(plugins=plugins, config=CONFIG, wrapper=["setsid"]) as daemon:
        calls = crowd(daemon.endpoint)
        calls.call(40, 0.02)
        wait_for(lambda: daemon.plugin("sleeper")["calls"] > 3, 10, "calls run")
        family = {p.pid for p in daemon.family()}
        send(daemon, signal.SIGHUP, to)
        calls.read(10)
        assert calls.codes() == {"result": 40}
        wait_for(lambda: "reloaded" in daemon.log, 5, "the reload")
        assert family <= {p.pid for p in daemon.family()}
        assert "died" not in daemon.log


@pytest.mark.slow
def test_a_ledger_that_hangs_does_not_keep_the_daemon_and_what_it_owes_is_named(plugins: Path, crowd: Any) -> None:
    with Daemon(plugins=plugins, config={**CONFIG, "audit.durability": "strict", "drain_seconds": 1}) as daemon:
        calls = crowd(daemon.endpoint)
        calls.call(1, 0.0)
        calls.read(10)
        assert calls.codes() == {"result": 1}
        (ledger,) = (p for p in daemon.family() if p.name() == "apex-ledger")
        calls.call(4, 0.3)
        wait_for(lambda: daemon.plugin("sleeper")["inFlight"] >= 1, 5, "a call runs")
        ledger.suspend()
        family = daemon.family()
        begin = time.monotonic()
        daemon.signal(signal.SIGTERM)
        calls.read(1 + 5)
        status = daemon.process.wait(1 + 5)
        assert time.monotonic() - begin < 1 + 5
        assert len(calls.replies) == 5, "each has its answer"
        late = [reply for reply in calls.replies.values() if reply["id"] > 1]
        assert {reply.get("code", "result") for reply in late} <= {"SHUTTING_DOWN", "AUDIT_UNAVAILABLE"}, calls.codes()
        assert status == 1 and "records could not be written before the daemon ended" in daemon.log
        _, alive = psutil.wait_procs(family, timeout=2)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        daemon.process.returncode = 0  # what the fixture asks for


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["strict", "group"])
def test_a_full_disk_keeps_what_has_not_begun_from_beginning_and_the_end_says_what_is_lost(
        durability: str, plugins: Path, crowd: Any) -> None:
    need(os.geteuid() == 0, "a file system of its own takes root")
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    (folder / "state").mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder / "state")], check=True)
    try:
        with Daemon(folder, plugins=plugins, config={
                **CONFIG, "audit.durability": durability, "drain_seconds": 2, "pool.prefetch": 1}) as daemon:
            calls = crowd(daemon.endpoint)
            calls.call(1, 0.0)
            calls.read(10)
            calls.call(100, 0.1)
            wait_for(lambda: daemon.plugin("sleeper")["calls"] > 3, 10, "calls run")
            _fill(folder / "state" / "filler")
            calls.read(5)
            codes = calls.codes()
            assert codes["AUDIT_UNAVAILABLE"] > 50, codes
            assert all(not r["started"] for r in calls.replies.values() if r.get("code") == "AUDIT_UNAVAILABLE")
            daemon.signal(signal.SIGTERM)
            calls.read(2 + 5)
            status = daemon.process.wait(2 + 5)
            assert len(calls.replies) == 101, "each has its answer"
            assert (status == 1) == ("records could not be written" in daemon.log)
            daemon.process.returncode = 0
    finally:
        subprocess.run(["umount", "-l", str(folder / "state")], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


# ---------------------------------------------------------------------- before it is ready
def start(folder: Path, *wrapper: str) -> subprocess.Popen[bytes]:
    config = folder / "c.toml"
    config.write_text(to_toml({"runtime_dir": folder / "run", "state_dir": folder / "state",
                            "http.address": "127.0.0.1:0", "audit.min_free_bytes": 0}))
    with (folder / "log").open("w") as log:
        return subprocess.Popen([*wrapper, sys.executable, "-m", "apex_exec", "serve", "--config", str(config)],
                                cwd=ROOT, stdout=log, stderr=log)


@pytest.mark.parametrize("seconds", [
    0.9, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.3, 0.6, 1.2, 1.6, 2.0, 2.5))])
def test_an_end_before_readiness_ends_pid_1_too(seconds: float, tmp_path: Path) -> None:
    need(os.geteuid() == 0 and has_namespaces(), "a PID namespace takes root, and a kernel that gives it")
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    process = start(folder, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    try:
        wait_for(lambda: psutil.Process(process.pid).children(), 5, "the child")
        (child,) = psutil.Process(process.pid).children()
        wait_for(lambda: "serve" in child.cmdline(), 5, "its interpreter")
        time.sleep(seconds)
        family = child.children(recursive=True)
        child.send_signal(signal.SIGTERM)
        process.wait(15)
        _, alive = psutil.wait_procs(family, timeout=2)
        assert not alive
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_no_process_for_a_side_is_an_end_like_any_other(plugins: Path) -> None:
    """A side process that cannot be started again, since this user may have no more: the end does not wait for it."""
    with Daemon(plugins=plugins, config=WITH_GATEWAY) as daemon, Host(daemon.endpoint) as host:
        assert host.invoke("many")["type"] == "result"
        for family in daemon.family():
            if family.name() in ("apex-gateway", "apex-checks"):
                psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_NOFILE, (3, 3))
                family.kill()
        time.sleep(1.5)
        begin = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(6) == 0
        assert time.monotonic() - begin < 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apex-gateway", "apex-registrar", "apex-exporter", "apex-checks", "zygote"])
def test_a_process_that_hangs_does_not_keep_the_daemon(name: str, plugins: Path, crowd: Any) -> None:
    with Daemon(plugins=plugins, config=WITH_GATEWAY) as daemon:
        assert daemon.get("/livez")[0] == 200
        calls = crowd(daemon.endpoint)
        calls.call(1, 0.0)
        calls.call(1, 0.0, plugin="many")
        calls.read(10)
        daemon.start_registrar()
        family = daemon.family()
        zygote = daemon.zygote().pid
        (hangs,) = (p for p in family if (p.pid == zygote if name == "zygote" else p.name() == name[:15]))
        hangs.suspend()
        begin = time.monotonic()
        daemon.signal(signal.SIGTERM)
        time.sleep(0.3)
        daemon.signal(signal.SIGHUP)
        assert daemon.process.wait(1 + 5) == 0
        assert time.monotonic() - begin < 1 + 5
        _, alive = psutil.wait_procs(family, timeout=2)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
