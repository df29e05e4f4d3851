"""The admin endpoint: one table of operations, private, audited, and open for nothing else."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ECHO, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host, action, pack
from workers.zmtp import GREETING, command


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo", ECHO)
    write_plugin(plugins, "sleeper", SLEEP)
    with Daemon(plugins=plugins) as running:
        yield running


@pytest.fixture
def admin(daemon: Daemon) -> Iterator[Host]:
    with Host(daemon.admin) as connected:
        yield connected


def test_ops_lists_every_operation_with_its_schema(daemon: Daemon) -> None:
    listed = {op["name"]: op for op in daemon.operate("ops")["operations"]}
    assert {"ops", "daemon.status", "daemon.reload", "daemon.drain", "plugin.register", "plugin.list",
            "plugin.show"} <= set(listed)
    for op in listed.values():
        assert op["doc"].endswith(".") and op["args"]["$ref"].startswith("#/$defs/")


def test_what_is_no_operation_is_refused_with_its_code(admin: Host) -> None:
    assert admin.ask({"type": "admin", "op": "no.such"})["code"] == "NOT_FOUND"
    wrong = admin.ask({"type": "admin", "op": "plugin.show", "args": {"id": 7}})
    assert (wrong["code"], wrong["details"]["path"]) == ("INVALID_INPUT", "$.args.id")
    unknown = admin.ask({"type": "admin", "op": "plugin.show", "args": {"id": "echo", "x": 1}})
    assert unknown["code"] == "INVALID_INPUT"
    missing = admin.ask({"type": "admin", "op": "plugin.show", "args": {"id": "nobody"}})
    assert (missing["code"], missing["details"]["reason"]) == ("NOT_FOUND", "plugin_not_found")
    assert admin.ask({"type": "admin", "op": "daemon.status", "args": None})["type"] == "adminResult"
    assert admin.ask(action("echo"))["code"] == "PROTOCOL_ERROR"
    assert admin.raw(b"garbage")["code"] == "PROTOCOL_ERROR"
    assert admin.ask({"type": "ping"})["type"] == "pong"


def test_status_tells_what_runs(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        host.invoke("echo")
        for n in range(12):
            host.send(action("sleeper", {"seconds": 0.2}, userId=f"{n:08x}{USER[8:]}"))
        wait_for(daemon.workers, 5)
        status = daemon.operate("daemon.status")
        by_id = {plugin["id"]: plugin for plugin in status["plugins"]}
        assert by_id["echo"]["worker"] == "ready" and by_id["echo"]["breaker"] == "closed"
        assert by_id["sleeper"]["queued"] + by_id["sleeper"]["inFlight"] == 12
        assert set(by_id["echo"]["pids"]) <= {p.pid for p in daemon.workers()}
        assert status["pending"] == 12 and status["connections"] == 1 and not status["draining"]
        assert status["isolation"] in ("L0", "L1", "L2", "L3", "L4") and status["pid"] == daemon.pid


def test_a_registered_bundle_is_served_at_once(daemon: Daemon, tmp_path: Path) -> None:
    path = write_plugin(tmp_path, "newcomer", ECHO)
    answer = daemon.operate("plugin.register", path=str(path))
    assert answer["id"] == "newcomer"
    assert "newcomer" in [plugin["id"] for plugin in daemon.operate("plugin.list")["plugins"]]
    for args in ({"path": str(tmp_path / "nowhere")}, {}, {"path": "x", "bundle": b"y"}, {"bundle": b"no zip"}):
        with pytest.raises(AssertionError):
            daemon.operate("plugin.register", **args)


def test_many_operations_on_one_connection_each_get_their_answer(admin: Host) -> None:
    ids = [admin.send({"type": "admin", "op": "daemon.status"}) for _ in range(50)]
    assert all(admin.reply(id_)["op"] == "daemon.status" for id_ in ids)
    admin.socket.send(pack({"type": "admin", "id": 1, "op": "ops"}))
    assert admin.receive()["type"] == "adminResult"


def test_every_operation_is_audited_with_the_uid_of_its_caller(daemon: Daemon) -> None:
    daemon.operate("plugin.show", id="echo")
    found = subprocess.run(
        [sys.executable, "-m", "apex_exec", "audit", "export", "--state-dir", str(daemon.state)],
        capture_output=True, text=True, timeout=20)
    assert '"admin.action"' in found.stdout and "plugin.show" in found.stdout, found.stderr
    (line, *_) = [line for line in found.stdout.splitlines() if "plugin.show" in line and '"echo"' in line]
    import os

    assert f'"uid":{os.geteuid()}' in line.replace(" ", "")


@pytest.mark.slow
def test_drain_ends_the_daemon_as_sigterm_does(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    with Daemon(plugins=tmp_path / "plugins") as daemon, Host(daemon.endpoint) as host:
        id_ = host.send(action("sleeper", {"seconds": 0.5}))
        wait_for(daemon.workers, 5)
        assert daemon.operate("daemon.drain") == {"draining": True, "pending": 1}
        assert host.reply(id_)["type"] == "result"
        assert daemon.process.wait(10) == 0


def test_an_administrator_who_sends_without_end_keeps_the_loop_from_nobody(daemon: Daemon) -> None:
    ended = threading.Event()
    with socket.socket(socket.AF_UNIX) as flood, Host(daemon.endpoint) as host:
        flood.connect(daemon.admin.removeprefix("ipc://"))
        ready = command(b"READY", b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER")
        flood.sendall(GREETING + ready)
        flood.settimeout(0.1)
        ping = pack({"type": "ping", "id": 1})
        pings = (bytes((0, len(ping))) + ping) * 20_000

        def send() -> None:
            view = memoryview(pings)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    view = view[flood.send(view):] or memoryview(pings)

        def read() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    flood.recv(1 << 20)

        threads = [threading.Thread(target=send), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.3)
            until, served = time.monotonic() + 2, 0
            while time.monotonic() < until:
                assert host.ask({"type": "ping"})["type"] == "pong"
                served += 1
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert served >= 5
