"""A plugin that writes to its link itself harms nobody but itself, and is believed in nothing that it cannot know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ECHO, Daemon, write_plugin
from tests.support.host import Host

FORGER = '''
import os

FRAMES = {
    "boots again": b"\\x93\\xa6booted\\x91\\x94\\xa7seccomp\\xa5waved\\x00\\xa0\\x00",
    "is ready again": b"\\x96\\xa5ready\\xa6forger\\xa51.0.0\\x90\\x90\\xc2",
    "answers what it was not asked": b"\\x94\\xa5reply\\x07\\xc0\\x00",
    "pongs unasked": b"\\x92\\xa4pong\\x05",
    "speaks no MessagePack": b"\\xc1",
    "waits for ever": b"\\x99\\xa6raised\\x00\\xa1E\\xa1m\\xa0\\x00\\xacrate_limited\\xa5fetch\\xcf" + b"\\xff" * 8,
    "fails its jail": b"\\x96\\xa6failed\\xa4jail\\xa7seccomp\\xa1x\\xa1y\\xa0",
}

@plugin.hook("onActionExecute")
def act(context, params):
    frame = FRAMES[params["context"]["frame"]]
    for fd in range(3, 16):
        try:
            os.write(fd, bytes((0, len(frame))) + frame)  # the link among them, and the marks
        except OSError:
            continue
    while params["context"].get("stay"):
        pass
    return {"result": "done", "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "forger", FORGER, limits={"timeoutMs": 1000})
    write_plugin(plugins, "patient", FORGER, limits={"timeoutMs": 1000})
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins, config={
            "breaker.open_seconds": 0.2, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02,
            "limits.cpu_percent": 100}) as running:
        yield running


@pytest.mark.parametrize("frame", ["boots again", "is ready again", "answers what it was not asked", "pongs unasked",
                                   "speaks no MessagePack"])
def test_a_forged_frame_is_a_violation(daemon: Daemon, frame: str) -> None:
    with Host(daemon.endpoint) as host:
        layers = daemon.operate("daemon.status")["layers"]
        reply = host.invoke("forger", {"frame": frame, "stay": True})
        for _ in range(50):
            if reply["code"] != "QUARANTINED":
                break
            time.sleep(0.1)
            reply = host.invoke("forger", {"frame": frame, "stay": True})
        assert (reply["code"], reply["started"]) == ("WORKER_VIOLATION", True), reply
        assert host.invoke("forger", {"frame": frame})["code"] == "QUARANTINED"
        assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}
        after = daemon.operate("daemon.status")["layers"]
        assert not layers or after == layers


def test_a_layer_is_not_said_to_be_missing_because_a_plugin_says_so(daemon: Daemon) -> None:
    before = [line for line in daemon.metrics().splitlines() if "sandbox_layer_active{" in line]
    with Host(daemon.endpoint) as host:
        for _ in range(50):
            reply = host.invoke("forger", {"frame": "fails its jail"})
            if reply.get("code") != "QUARANTINED":
                break
            time.sleep(0.1)
        time.sleep(1.2)
    assert [line for line in daemon.metrics().splitlines() if "sandbox_layer_active{" in line] == before


def test_a_wait_that_a_worker_made_up_is_a_number_that_hosts_can_hold(daemon: Daemon) -> None:
    daemon.operate("daemon.status")
    with Host(daemon.endpoint) as host:
        reply = host.invoke("patient", {"frame": "waits for ever"})
        assert reply["code"] == "RATE_LIMITED" and reply["details"]["retryAfterMs"] == 60_000
