"""What the daemon does for a plugin has a bound and an owner: however a worker writes, others hardly notice it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.worker_link import WorkerLink
from tests.support.daemon import ECHO, USER, Daemon, write_plugin
from tests.support.host import Host

WRITER = '''
import os
import time

FRAMES = {
    "ping": b"\\x04\\x07\\x04PING\\0\\0",
    "huge line": b"\\x02" + (1_000_017).to_bytes(8, "big") + b"\\x93\\xa3log\\xa4info\\xc6"[:-1] + b"\\xdb"
                 + (1_000_002).to_bytes(4, "big") + b"x" * 1_000_002,
}


def marks():
    """The descriptor of the marks pipe: the only one of a worker that takes a byte and is no link."""
    for fd in range(4, 16):
        try:
            os.write(fd, b"m" * 100)
            return
        except OSError:
            continue


@plugin.hook("onActionExecute")
def act(context, params):
    asked = params["context"]
    if asked.get("marks"):
        marks()
    frame = FRAMES.get(asked.get("frame"))
    if frame is not None:
        for _ in range(asked["times"]):
            os.write(3, frame)
    time.sleep(asked.get("seconds", 0))
    return {"result": "done", "metadata": {}}
'''
QUICK_BREAKER = {"breaker.open_seconds": 0.2, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    for name in ("pinger", "marker", "shouter"):
        write_plugin(plugins, name, WRITER, limits={"timeoutMs": 2000})
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins, config={**QUICK_BREAKER, "limits.cpu_percent": 100}) as running:
        yield running


def test_a_command_after_the_handshake_is_a_violation(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        reply = host.invoke("pinger", {"frame": "ping", "times": 1, "seconds": 1})
        assert reply["code"] == "WORKER_VIOLATION", reply
        assert host.invoke("echo", {"n": 1})["type"] == "result"


def test_more_marks_than_calls_are_a_violation(daemon: Daemon) -> None:
    """Marks are looked at where a call expires behind another one."""
    with Host(daemon.endpoint) as host:
        assert host.invoke("marker")["type"] == "result"
        first = host.send({"type": "invoke", "plugin": "marker", "action": "onActionExecute", "userId": USER,
                           "payload": {"action": "x", "context": {"marks": True, "seconds": 1.5}}})
        time.sleep(0.3)
        behind = host.send({"type": "invoke", "plugin": "marker", "action": "onActionExecute", "userId": USER,
                            "deadlineMs": 100, "payload": {"action": "x", "context": {}}})
        assert host.reply(first)["code"] == "WORKER_VIOLATION"
        assert host.reply(behind)["type"] == "error"
        assert "marked more calls than it was sent" in daemon.log


def test_marks_are_read_once_and_no_further_than_calls_were_sent() -> None:
    link = WorkerLink(1, PluginSpec("p", "1.0.0", "d", "p.py", ()), 0)
    try:
        link.sent = 5
        os.write(link.marks_write, b"m" * 3)
        assert link.drain_marks() == 3 and not link.overmarked
        os.set_blocking(link.marks_write, False)
        os.write(link.marks_write, b"m" * 65_000)
        assert link.drain_marks() == 5 and link.overmarked
        left = os.read(link._marks, 1 << 20)
        assert len(left) == 65_000 - 3, "more was read than can be true"
    finally:
        link.close()
