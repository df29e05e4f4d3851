"""A real daemon, real workers, real sockets: what a host and an operator see."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from apex_exec.client import CallError, Client, ConnectionLost
from tests.support.daemon import EXAMPLES, USER, Daemon, wait_for

PLUGINS = EXAMPLES
ACTION = {"action": "x", "context": {}}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def refused(client: Client, *arguments: Any, **named: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        client.invoke(*arguments, **named)
    return caught.value


def test_every_hook_answers_and_every_misbehaving_plugin_is_contained(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        widgets = client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})
        assert widgets["result"]["customWidgets"][0]["component"] == "HelloWorld" and widgets["usage"]["cold"]
        data = client.invoke("custom-analytics", "onDataFetch", USER, {"query": "q", "filters": {"b": 1, "a": 2}})
        assert data["result"] == {"transformedData": {"query": "q", "filters": ["a", "b"]}}
        assert client.invoke("login-audit", "onAuthSuccess", USER, {"sessionId": "s"})["result"] is None
        begun = time.monotonic()
        hang = refused(client, "spinner", "onActionExecute", USER, ACTION)
        assert hang.code == "TIMEOUT" and hang.started and not hang.retryable and time.monotonic() - begun < 4
        assert refused(client, "hoarder", "onActionExecute", USER, ACTION).code == "MEMORY_LIMIT"
        crash = refused(client, "crasher", "onActionExecute", USER, ACTION)
        assert crash.code == "WORKER_CRASHED" and crash.reply["details"] == {"exitCode": 3}
        assert refused(client, "liar", "onDashboardLoad", USER, {"dashboardId": "d"}).code == "INVALID_OUTPUT"
        assert client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})["usage"]["cold"] is False


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody", "onDataFetch", USER, {}), "PLUGIN_NOT_FOUND"),
        (("hello-world", "onDataFetch", USER, {}), "HOOK_NOT_DECLARED"),
        (("hello-world", "onDashboardLoad", "no-uuid", {"dashboardId": "d"}), "INVALID_INPUT"),
        (("hello-world", "onDashboardLoad", USER, {"dashboardId": 7}), "INVALID_INPUT"),
        (("hello-world", "onDashboardLoad", USER, {"dashboardId": "d", "userId": USER[:-1] + "0"}), "INVALID_INPUT"),
        (("hello-world", "a" * 101, USER, {}), "INVALID_INPUT"),
    ],
)
def test_bad_requests_get_their_code_and_the_daemon_goes_on(
    shared: Daemon, arguments: tuple[Any, ...], code: str
) -> None:
    with Client(shared.endpoint) as client:
        error = refused(client, *arguments)
        assert error.code == code and error.started is False
        assert client.request({"type": "ping"})["type"] == "pong"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def raw_exchange(endpoint: str, frames: list[bytes], routing_id: bytes = b"") -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        if routing_id:
            dealer.setsockopt(zmq.ROUTING_ID, routing_id)
        dealer.connect(endpoint)
        dealer.send_multipart(frames)
        assert dealer.poll(3000)
        reply: dict[str, Any] = msgspec.msgpack.decode(dealer.recv_multipart()[-1])
        return reply


def test_undecodable_unknown_and_oversized_bodies_get_an_error(shared: Daemon) -> None:
    pack = msgspec.msgpack.encode
    for body in (b"", b"\xc1", b"garbage", pack([1]), pack({"type": "nonsense", "id": 1}), pack({"type": "ping"})):
        assert raw_exchange(shared.endpoint, [body])["code"] == "PROTOCOL_ERROR"
    large = raw_exchange(shared.endpoint, [pack({"type": "ping", "id": 7, "x": "y" * 1_100_000})])
    assert large["code"] == "PAYLOAD_TOO_LARGE" and large["id"] == 7
    null = pack({"type": "invoke", "id": 1, "plugin": "hello-world", "action": "onDashboardLoad", "userId": USER,
                 "payload": None})
    assert raw_exchange(shared.endpoint, [null])["code"] == "INVALID_INPUT"
    assert raw_exchange(shared.endpoint, [pack({"type": "ping", "id": 1})], b"mine")["code"] == "PROTOCOL_ERROR"


def test_the_cpu_time_of_a_short_hook_is_not_rounded_to_nothing(shared: Daemon) -> None:
    with Client(shared.endpoint) as client:
        for _ in range(3):
            usage = client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})["usage"]
            assert 0 < usage["cpuMs"] < 100


def test_a_req_socket_gets_its_delimiter_back(shared: Daemon) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(shared.endpoint)
        req.send(msgspec.msgpack.encode({"type": "ping", "id": "a"}))
        assert req.poll(3000) and msgspec.msgpack.decode(req.recv()) == {"type": "pong", "id": "a"}


def test_cancel_and_duplicate_ids(shared: Daemon) -> None:
    pack = msgspec.msgpack.encode
    spin = {"type": "invoke", "id": 1, "plugin": "spinner", "action": "onActionExecute", "userId": USER,
            "payload": ACTION}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(shared.endpoint)
        for message in (spin, spin, {"type": "cancel", "id": 2, "target": 1}, {"type": "cancel", "id": 3, "target": 9}):
            dealer.send(pack(message))
        replies = [msgspec.msgpack.decode(dealer.recv()) for _ in range(4) if dealer.poll(3000)]
    assert replies[0]["code"] == "DUPLICATE_ID" and replies[0]["id"] is None and replies[0]["details"] == {"id": 1}
    assert sorted((r.get("id"), r.get("code"), r.get("found")) for r in replies[1:]) == [
        (1, "CANCELLED", None), (2, None, True), (3, None, False)]


def test_interleaved_calls_on_one_connection_each_get_their_own_reply(shared: Daemon) -> None:
    pack, dice, total = msgspec.msgpack.encode, random.Random(5), 3000
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(shared.endpoint)
        sent = 0
        seen: dict[int, str] = {}
        while len(seen) < total:
            while sent < total and sent - len(seen) < 200:
                body = {"nonce": f"n{sent}", "fill": "x" * dice.choice((0, 100, 1000, 60_000))}
                dealer.send(pack({"type": "invoke", "id": sent, "plugin": "action-router", "action": "onActionExecute",
                                  "userId": f"{sent % 90:08x}{USER[8:]}",
                                  "payload": {"action": "echo", "context": body}}))
                sent += 1
            assert dealer.poll(10_000)
            reply = msgspec.msgpack.decode(dealer.recv())
            assert reply["type"] == "result", reply
            assert reply["id"] not in seen
            seen[reply["id"]] = reply["result"]["result"]["nonce"]
    assert seen == {number: f"n{number}" for number in range(total)}


def test_a_killed_worker_is_replaced_and_only_its_started_call_is_charged(daemon: Daemon, tmp_path: Path) -> None:
    with Client(daemon.endpoint) as client:
        client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})
        for victim in daemon.workers():
            victim.kill()
        time.sleep(0.05)
        assert client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})["usage"]["cold"]


@pytest.mark.slow
def test_kill_9_of_the_daemon_leaves_no_process_and_settles_its_clients(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})
        family = psutil.Process(daemon.process.pid).children(recursive=True)
        assert len(family) >= 2
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(ConnectionLost):
            client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"}, deadline_ms=100)
    gone, alive = psutil.wait_procs(family, timeout=1)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_hosts_running_hook_is_cancelled_within_a_second(tmp_path: Path) -> None:
    bundle = tmp_path / "plugins" / "sleeper"
    bundle.mkdir(parents=True)
    manifest = (PLUGINS / "spinner" / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace("spinner", "sleeper").replace("500", "5000"))
    (bundle / "plugin.py").write_text((PLUGINS / "spinner" / "plugin.py").read_text().replace("spinner", "sleeper"))
    host = (
        "import sys; from apex_exec.client import Client; c = Client(sys.argv[1]); print(c.hello(), flush=True);"
        f"c.invoke('sleeper', 'onActionExecute', '{USER}', {ACTION!r})"
    )
    with Daemon(plugins=tmp_path / "plugins") as running:
        with subprocess.Popen([sys.executable, "-c", host, running.endpoint], stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline()
            wait_for(running.workers, 10)
            (worker,) = running.workers()
            time.sleep(0.2)
            process.kill()
            wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 1)


@pytest.mark.slow
def test_metrics_count_what_happened(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        for _ in range(3):
            client.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "d"})
    daemon.wait_metric('invocations_total{hook="onDashboardLoad",outcome="ok",plugin="hello-world"}', 3.0)
    assert daemon.metric("isolation_level") == float(daemon.operate("daemon.status")["isolation"][1:])


@pytest.mark.slow
def test_the_socket_is_private_and_a_second_daemon_is_refused(daemon: Daemon) -> None:
    folder = daemon.runtime
    assert os.stat(folder).st_mode & 0o777 == 0o700 and os.stat(f"{folder}/host.sock").st_mode & 0o777 == 0o600
    second = subprocess.run([sys.executable, "-m", "apex_exec", "serve", "--config",
                             str(daemon.config_file)],
                            capture_output=True, text=True, timeout=20)
    assert second.returncode == 2 and "already running" in second.stderr


def test_a_bad_bundle_is_named_and_left_out(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "manifest.json").write_text('{"id": "X", "version": "1", "extra": 1}')
    check = subprocess.run([sys.executable, "-m", "apex_exec", "plugin", "validate", str(bad)], capture_output=True,
                           text=True, timeout=20)
    assert check.returncode == 1
    for path in ("$.id", "$.version", "$.extra", "$.name", "$.manifest"):
        assert path in check.stderr
