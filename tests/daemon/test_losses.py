"""What dies, is stopped or is refused: every call still has its one answer, and the daemon goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import ECHO, ROOT, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host, action

SLOW_BOOT = "import time\ntime.sleep(0.5)\n" + ECHO
COUNTED = '''
import time
RUNS = []

@plugin.hook("onActionExecute")
def act(context, params):
    RUNS.append(params["context"]["n"])
    if params["context"].get("seconds"):
        print("began", params["context"]["n"])
        time.sleep(params["context"]["seconds"])
    return {"result": {"n": params["context"]["n"], "runs": list(RUNS)}, "metadata": {}}
'''


def start(plugins: Path) -> Daemon:
    for id_, code in (("echo", ECHO), ("sleeper", SLEEP), ("slow-boot", SLOW_BOOT), ("counted", COUNTED),
                      ("counted-too", COUNTED), ("idler", ECHO)):
        write_plugin(plugins, id_, code)
    return Daemon(plugins=plugins, config={"limits.cpu_percent": 100})


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One for a test that takes it apart."""
    with start(tmp_path / "plugins") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for the tests in which only workers and hosts die."""
    with start(tmp_path_factory.mktemp("plugins")) as running:
        yield running


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    daemon = request.getfixturevalue("shared" if "shared" in request.fixturenames else "daemon")
    with Host(daemon.endpoint) as connected:
        yield connected


def worker_of(daemon: Daemon, plugin: str) -> psutil.Process:
    wait_for(lambda: daemon.plugin(plugin)["pids"], 10, "a worker")
    return psutil.Process(daemon.plugin(plugin)["pids"][0])


def on_link(daemon: Daemon, plugin: str, count: int) -> None:
    """Waits until this many calls are with the worker."""
    wait_for(lambda: daemon.plugin(plugin)["inFlight"] == count, 10, f"{count} calls on the link")


@pytest.mark.slow
def test_a_worker_killed_while_it_boots_answers_its_call_and_the_next_one_works(shared: Daemon, host: Host) -> None:
    id_ = host.send(action("slow-boot", {"n": 1}))
    worker_of(shared, "slow-boot").kill()
    reply = host.reply(id_)
    assert reply["type"] == "result" or (reply["code"], reply["started"]) == ("BOOT_FAILED", False), reply
    assert host.invoke("slow-boot", {"n": 2})["result"]["result"] == {"n": 2}


@pytest.mark.slow
def test_an_idle_worker_that_is_killed_costs_nobody_anything(shared: Daemon, host: Host) -> None:
    host.invoke("idler")
    worker_of(shared, "idler").kill()
    reply = host.invoke("idler", {"n": 1})
    assert reply["type"] == "result" and reply["usage"]["cold"], reply
    shared.wait_metric('worker_exits_total{plugin="idler",reason="crashed"}', 1.0)


@pytest.mark.slow
def test_of_eight_prefetched_calls_only_the_started_one_is_charged_and_none_runs_twice(
        shared: Daemon, host: Host) -> None:
    host.invoke("counted", {"n": -1})
    ids = [host.send(action("counted", {"n": n, "seconds": 4 if n == 0 else 0}, userId=f"{n:08x}{USER[8:]}"))
           for n in range(12)]
    on_link(shared, "counted", 8)
    shared.wait_told("counted", "began 0")
    worker_of(shared, "counted").kill()
    replies = [host.reply(id_) for id_ in ids]
    first = replies[0]
    assert (first["code"], first["started"], first["retryable"]) == ("WORKER_CRASHED", True, False), first
    assert first["details"] == {"signal": signal.SIGKILL}
    for n, reply in enumerate(replies[1:], 1):
        assert reply["type"] == "result" and reply["result"]["result"]["n"] == n, reply
    assert replies[-1]["result"]["result"]["runs"] == list(range(1, 12))


def test_a_reply_that_was_written_before_the_death_counts(shared: Daemon, host: Host) -> None:
    host.invoke("counted-too", {"n": -1})
    worker = worker_of(shared, "counted-too")
    ids = [host.send(action("counted-too", {"n": n, "seconds": 0.3 if n < 3 else 60}, userId=f"{n:08x}{USER[8:]}"))
           for n in range(5)]
    on_link(shared, "counted-too", 5)
    shared.signal(signal.SIGSTOP)  # the supervisor cannot read: three replies wait in the link while the worker dies
    time.sleep(2)  # the fourth has begun long ago
    worker.kill()
    psutil.wait_procs([worker], timeout=0.1)
    shared.signal(signal.SIGCONT)
    for n, id_ in enumerate(ids[:3]):
        reply = host.reply(id_)
        assert reply["type"] == "result" and reply["result"]["result"]["n"] == n, reply
    lost = host.reply(ids[3])
    assert (lost["code"], lost["started"]) == ("WORKER_CRASHED", True), lost
    assert host.ask({"type": "cancel", "target": ids[4]})["found"]  # it went to the next worker


def test_kill_9_of_the_supervisor_leaves_nothing_within_a_second(daemon: Daemon, host: Host) -> None:
    for plugin in ("echo", "counted"):
        host.invoke(plugin, {"n": 1})
    for n in range(100):
        host.send(action("sleeper", {"seconds": 5}, userId=f"{n:08x}{USER[8:]}"))
    wait_for(lambda: len(daemon.workers()) == 3, 5)
    family = daemon.family()
    assert len(family) >= 6  # three workers, zygote, ledger, exporter
    daemon.kill()
    _, alive = psutil.wait_procs(family, timeout=1)
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_the_zygotes_death_is_noticed_and_charges_no_plugin(daemon: Daemon, host: Host) -> None:
    host.invoke("counted", {"n": -1})
    host.invoke("echo", {})
    running = host.send(action("counted", {"n": 0, "seconds": 5}))
    behind = [host.send(action("counted", {"n": n}, userId=f"{n:08x}{USER[8:]}")) for n in range(1, 6)]
    on_link(daemon, "counted", 6)
    daemon.wait_told("counted", "began 0")
    old = daemon.zygote()
    workers = daemon.workers()
    old.kill()
    lost = host.reply(running)
    assert (lost["code"], lost["started"]) == ("WORKER_CRASHED", True), lost
    for n, id_ in enumerate(behind, 1):
        reply = host.reply(id_)
        assert reply["type"] == "result" and reply["result"]["result"]["runs"] == list(range(1, n + 1)), reply
    assert host.invoke("echo", {"n": 1})["type"] == "result"
    assert daemon.zygote().pid != old.pid
    daemon.wait_metric('worker_exits_total{plugin="counted",reason="zygote_lost"}', 1.0)
    assert daemon.metric('breaker_state{plugin="counted",state="closed"}') == 1.0
    gone, alive = psutil.wait_procs(workers, timeout=2)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    wait_for(lambda: daemon.get("/readyz")[0] == 200, 5, "readiness")
    wait_for(lambda: not [p for p in psutil.Process(daemon.pid).children() if p.status() == psutil.STATUS_ZOMBIE], 3,
             "the orphans' reaping")


@pytest.mark.slow
def test_a_side_process_that_dies_comes_back(daemon: Daemon, host: Host) -> None:
    host.invoke("echo")
    port = daemon.http
    others = [p for p in psutil.Process(daemon.pid).children() if p.pid != daemon.zygote().pid]
    for process in others:
        process.kill()
    wait_for(lambda: scrape_works(daemon) and daemon.get("/readyz")[0] == 200, 10, "metrics and readiness")
    assert daemon.http == port and daemon.metric(
        'invocations_total{hook="onActionExecute",outcome="ok",plugin="echo"}') == 1.0
    # On a busy machine the ledger may need longer than the second for which calls wait for it.
    wait_for(lambda: host.invoke("echo")["type"] == "result", 10, "an answer")


def scrape_works(daemon: Daemon) -> bool:
    try:
        return "apex_exec_invocations_total{" in daemon.metrics()
    except OSError:
        return False


@pytest.mark.slow
def test_a_supervisor_stopped_for_a_while_does_not_kill_everyone_on_waking(daemon: Daemon, host: Host) -> None:
    host.invoke("counted", {"n": -1})
    host.invoke("echo")
    before = {p.pid for p in daemon.workers()}
    ids = [host.send(action("counted", {"n": n, "seconds": 0.2}, deadlineMs=3500, userId=f"{n:08x}{USER[8:]}"))
           for n in range(8)]
    on_link(daemon, "counted", 8)
    daemon.signal(signal.SIGSTOP)
    time.sleep(5)  # all eight are through, and their deadlines have long passed
    daemon.signal(signal.SIGCONT)
    replies = [host.reply(id_) for id_ in ids]
    assert [r["type"] for r in replies] == ["result"] * 8, replies
    assert {p.pid for p in daemon.workers()} == before
    assert host.invoke("echo")["type"] == "result"


@pytest.mark.slow
def test_refused_forks_are_answered_and_the_daemon_goes_on(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    for n in range(3):
        write_plugin(plugins, f"echo-{n}", ECHO)
    with Daemon(plugins=plugins, config={"pool.spare_workers": 0}) as daemon, Host(daemon.endpoint) as host:
        assert host.invoke("echo-0")["type"] == "result"
        zygote = daemon.zygote()
        _, hard = zygote.rlimit(psutil.RLIMIT_NOFILE)
        zygote.rlimit(psutil.RLIMIT_NOFILE, (3, hard))  # EMFILE: it cannot take a worker's fds or open its pidfd
        refused = host.invoke("echo-1", deadlineMs=700)
        assert refused["type"] == "error" and not refused["started"] and refused["retryable"], refused
        assert host.invoke("echo-0")["type"] == "result"
        zygote.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
        wait_for(lambda: host.invoke("echo-1")["type"] == "result", 5, "a worker after EMFILE")
        supervisor = psutil.Process(daemon.pid)
        _, hard = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, hard))  # now the supervisor cannot make a socketpair
        refused = host.invoke("echo-2", deadlineMs=700)
        assert refused["type"] == "error" and not refused["started"], refused
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
        wait_for(lambda: host.invoke("echo-2")["type"] == "result", 5, "a worker after EMFILE")


def test_kill_9_of_a_host_cancels_what_it_runs_and_frees_what_it_held(shared: Daemon) -> None:
    code = ("import sys; sys.path.insert(0, sys.argv[2])\n"
            "from tests.support.host import Host, action\n"
            "host = Host(sys.argv[1])\n"
            "[host.send(action('sleeper', {'seconds': 4}, userId=f'{n:08x}-2222-4333-8444-555555555555'))"
            " for n in range(50)]\n"
            "host.ask({'type': 'ping'}); print('sent', flush=True); host.receive(30)\n")
    with subprocess.Popen([sys.executable, "-c", code, shared.endpoint, str(ROOT)], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        worker = worker_of(shared, "sleeper")
        on_link(shared, "sleeper", 8)
        child.kill()
        wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 1, "the cancel")
    wait_for(lambda: shared.operate("daemon.status")["pending"] == 0, 2, "the release")
    with Host(shared.endpoint) as host:
        assert host.invoke("echo")["type"] == "result"


def test_a_reused_fd_is_not_taken_for_the_host_that_had_it(shared: Daemon) -> None:
    for n in range(30):
        with Host(shared.endpoint) as host:
            assert host.invoke("echo", {"n": n})["result"]["result"] == {"n": n}
            if n % 3:
                host.send(action("sleeper", {"seconds": 0.02}))
    with Host(shared.endpoint) as host:
        assert host.invoke("echo")["type"] == "result"
        wait_for(lambda: shared.operate("daemon.status")["connections"] == 1, 10, "every connection's end")


@pytest.mark.slow
def test_sigterm_drains_and_answers_the_rest_shutting_down(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    daemon = Daemon(plugins=tmp_path / "plugins", config={"drain_seconds": 3.0})
    with daemon, Host(daemon.endpoint) as host:
        short = host.send(action("sleeper", {"seconds": 1.5}))
        long = [host.send(action("sleeper", {"seconds": 4}, userId=f"{n:08x}{USER[8:]}")) for n in range(20)]
        on_link(daemon, "sleeper", 8)
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: "stopping: waiting at most" in daemon.log, 10, "the drain")
        late = host.ask(action("sleeper"))
        assert (late["code"], late["retryable"]) == ("SHUTTING_DOWN", True), late
        assert host.reply(short)["type"] == "result"
        for id_ in long:
            reply = host.reply(id_)
            assert reply["code"] == "SHUTTING_DOWN" and reply["retryable"] is not reply["started"], reply
        assert daemon.process.wait(5) == 0
        assert not os.path.exists(daemon.runtime / "host.sock")


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait_any_longer(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    with Daemon(plugins=tmp_path / "plugins", config={"drain_seconds": 30}) as daemon, Host(daemon.endpoint) as host:
        id_ = host.send(action("sleeper", {"seconds": 4.5}))
        on_link(daemon, "sleeper", 1)
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: "stopping: waiting at most" in daemon.log, 10)
        begun = time.monotonic()
        daemon.signal(signal.SIGINT)
        assert host.reply(id_, 3)["code"] == "SHUTTING_DOWN"
        assert daemon.process.wait(5) == 0 and time.monotonic() - begun < 3


@pytest.mark.slow
def test_foreign_children_are_reaped_and_not_mistaken_for_ours(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    flag = tmp_path / "flag"
    flag.touch()
    script = f'(while [ -e {flag} ]; do sleep 0.1; done) & exec "$@"'
    with Daemon(plugins=tmp_path / "plugins", wrapper=["sh", "-c", script, "sh"]) as daemon:
        (foreign,) = [child for child in psutil.Process(daemon.pid).children() if child.name() == "sh"]
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"
            flag.unlink()
            wait_for(lambda: not foreign.is_running(), 6, "the foreign child's reaping")
            assert host.invoke("echo")["type"] == "result"


@pytest.mark.slow
def test_hosts_that_connect_without_end_leave_the_workers_their_descriptors(tmp_path: Path) -> None:
    for number in range(6):
        write_plugin(tmp_path / "plugins", f"echo-{number}", ECHO)
    with Daemon(tmp_path / "d", plugins=tmp_path / "plugins", wrapper=["prlimit", "--nofile=700:700"]) as daemon, \
            Host(daemon.endpoint) as host:
        assert host.invoke("echo-0")["type"] == "result"
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(900)]
        try:
            for one in crowd:
                one.connect(daemon.endpoint.removeprefix("ipc://"))  # blocking: the backlog is soon full
                one.settimeout(5)
            for one in crowd[:4]:
                assert one.recv(64)
            wait_for(lambda: daemon.operate("daemon.status")["connections"] >= 80, 10, "the crowd")
            replies = [host.invoke(f"echo-{number}") for number in range(6)]
            assert [reply["type"] for reply in replies] == ["result"] * 6, replies
            assert daemon.operate("daemon.status")["connections"] <= 88, "half of a quarter of 700"
        finally:
            for one in crowd:
                one.close()
