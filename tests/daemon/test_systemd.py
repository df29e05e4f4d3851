"""systemd's notify protocol on a real socket: ready, reloading, watchdog, stopping."""

from __future__ import annotations

import configparser
import re
import signal
import socket
import time
from pathlib import Path

import pytest

import apex_exec
from tests.support.daemon import ECHO, Daemon, write_plugin


class Manager:
    """What systemd does with ``NOTIFY_SOCKET``: collects datagrams."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.heard: list[str] = []

    def wait(self, line: str, seconds: float) -> str:
        due = time.monotonic() + seconds
        while not (found := [text for text in self.heard if line in text]):
            self.socket.settimeout(max(0.01, due - time.monotonic()))
            self.heard.append(self.socket.recv(4096).decode())
        self.heard.clear()
        return found[0]


class Managed(Daemon):
    """A daemon whose readiness only its manager hears of."""

    def start(self) -> None:
        self.launch().close()


@pytest.mark.slow
def test_systemd_hears_every_state_on_time(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    for address in (str(tmp_path / "notify"), f"@apx-{time.monotonic_ns()}"):
        manager = Manager(address.replace("@", "\0"))
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000"}
        with Managed(plugins=tmp_path / "plugins", env=env) as daemon:
            manager.wait("READY=1", 30)
            begun = time.monotonic()
            for _ in range(3):
                manager.wait("WATCHDOG=1", 0.9)
            assert time.monotonic() - begun < 1.8
            before_us = time.monotonic_ns() // 1000
            daemon.signal(signal.SIGHUP)
            told = manager.wait("RELOADING=1", 2)
            stamp = re.search(r"MONOTONIC_USEC=(\d+)", told)
            assert stamp and before_us <= int(stamp[1]) <= time.monotonic_ns() // 1000
            manager.wait("READY=1", 2)
            daemon.signal(signal.SIGTERM)
            manager.wait("STOPPING=1", 2)
        manager.socket.close()


def test_the_shipped_unit_asks_for_what_the_daemon_does() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have case
    unit.read(Path(apex_exec.__file__).parent / "deploy" / "apex-exec.service")
    service = unit["Service"]
    assert service["Type"] == "notify" and "-HUP" in service["ExecReload"]
    assert "serve --config" in service["ExecStart"]
    assert int(service["WatchdogSec"]) >= 3 and service["Restart"] == "on-failure"
    assert service["RuntimeDirectory"] == "apex-exec" and service["StateDirectory"] == "apex-exec"
