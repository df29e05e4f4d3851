"""A host that does not read costs nobody but itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from tests.daemon.test_runtime_folder import curve_folder, curve_options
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host, action, pack

FILL = "x" * 60_000


@pytest.fixture(params=["ipc", "tcp"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Daemon, dict[str, bytes]]]:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    config: dict[str, object] = {"limits.cpu_percent": 100}
    options: dict[str, bytes] = {}
    if request.param == "tcp":
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        keys = curve_folder(tmp_path / "keys")
        config |= {"host.endpoint": f"tcp://127.0.0.1:{port}", "host.curve_keys_dir": str(keys)}
        options = curve_options(keys, "dashboard")
    with Daemon(plugins=tmp_path / "plugins", config=config) as running:
        yield running, options


@pytest.mark.slow_after(1)
def test_a_host_that_does_not_read_is_dropped_and_others_do_not_wait(
        daemon: tuple[Daemon, dict[str, bytes]]) -> None:
    running, options = daemon
    with Host(running.endpoint, **options, RCVHWM=1, RCVBUF=4096) as deaf, \
            Host(running.endpoint, **options) as other:
        assert deaf.ask({"type": "ping"})["type"] == "pong" and other.invoke("echo")["type"] == "result"
        before = psutil.Process(running.pid).memory_info().rss
        slowest = 0.0
        for n in range(2000):
            try:
                deaf.socket.send(pack({"id": n + 10, **action("echo", {"fill": FILL})}), zmq.NOBLOCK)
            except zmq.Again:
                time.sleep(0.001)
            if n % 50 == 0:
                begun = time.monotonic()
                assert other.invoke("echo", {"n": n}, seconds=5)["type"] == "result"
                slowest = max(slowest, time.monotonic() - begun)
        wait_for(lambda: running.metric("dropped_replies_total") > 0, 20, "the drop")
        grown = psutil.Process(running.pid).memory_info().rss - before
        assert grown < 256 * 1024 * 1024, f"{grown >> 20} MiB"
        assert slowest < 4, slowest
        assert other.invoke("echo")["type"] == "result"


@pytest.mark.slow
def test_too_much_before_the_body_ends_the_connection_and_no_other(
        daemon: tuple[Daemon, dict[str, bytes]]) -> None:
    running, options = daemon
    with Host(running.endpoint, **options) as stuffed, Host(running.endpoint, **options) as other:
        assert stuffed.raw(b"", b"proxy", pack({"id": 1, "type": "ping"}))["type"] == "pong"
        for frames in ([b"x" * 5000], [b""] * 16):
            stuffed.socket.send_multipart([*frames, pack({"id": 2, "type": "ping"})])
            assert stuffed.quiet()
        assert other.invoke("echo")["type"] == "result"
        wait_for(lambda: running.metric('protocol_anomalies_total{kind="unroutable"}') >= 2, 10, "the count")
        assert stuffed.ask({"id": 3, "type": "ping"})["type"] == "pong", "libzmq connects anew"
