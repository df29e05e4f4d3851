"""`plugin debug`: a debugger attaches, stops in the author's file and reads its variables, behind a real daemon."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.registry.bundles.scaffold import write_scaffold
from tests.cli.test_framework import run
from tests.support import need
from tests.support.daemon import ROOT

START_SECONDS = 100.0


class Debugger:
    """As much of the Debug Adapter Protocol as an editor needs to stop at a line."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")
        self._seq = 0
        self._events: list[dict[str, Any]] = []

    def send(self, command: str, **arguments: Any) -> int:
        self._seq += 1
        body = json.dumps({"seq": self._seq, "type": "request", "command": command, "arguments": arguments}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self._seq

    def _next(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            length = int(line.partition(b":")[2])
        found: dict[str, Any] = json.loads(self._file.read(length))
        return found

    def answer(self, seq: int) -> Any:
        """The answer to a request; events that come before it are kept."""
        while True:
            message = self._next()
            if message["type"] == "response" and message["request_seq"] == seq:
                assert message["success"], message
                return message.get("body")
            self._events.append(message)

    def ask(self, command: str, **arguments: Any) -> Any:
        return self.answer(self.send(command, **arguments))

    def event(self, name: str) -> Any:
        while True:
            for message in self._events:
                if message.get("event") == name:
                    self._events.remove(message)
                    return message.get("body")
            self._events.append(self._next())

    def attach(self, path: Path, line: int) -> None:
        self.ask("initialize", adapterID="test", clientID="test", pathFormat="path", linesStartAt1=True)
        attached = self.send("attach", justMyCode=False)
        self.event("initialized")
        (found,) = self.ask("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])["breakpoints"]
        assert found["verified"], found
        self.ask("configurationDone")
        self.answer(attached)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def debugged(tmp_path: Path) -> Iterator[tuple[Path, int, list[str]]]:
    """A plugin under `plugin debug`: its file, the port, and the call that is printed."""
    need(find_spec("debugpy"), "debugpy is not installed")
    folder = write_scaffold(tmp_path, "stop-here", "tests")
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "apex_exec", "plugin", "debug", str(folder), "--port", str(port)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    said = ""
    while "apex-exec invoke" not in said and "-m apex_exec invoke" not in said:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said += line
    assert "attach a debugger" in said
    try:
        yield folder / "plugin.py", port, shlex.split(said.splitlines()[-1])
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.endswith("stopped\n"), out + err
        assert err.startswith("UNJAILED: stop-here runs as you")
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "a worker or a debugger is left"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_debugger_stops_in_the_authors_own_file_and_the_call_goes_on(
        debugged: tuple[Path, int, list[str]]) -> None:
    path, port, call = debugged
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "widget = {" in text)
    debugger = Debugger(port)
    try:
        debugger.attach(path, line)
        calling = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        thread = debugger.event("stopped")["threadId"]
        frame = debugger.ask("stackTrace", threadId=thread)["stackFrames"][0]
        assert (frame["source"]["path"], frame["line"], frame["name"]) == (str(path), line, "on_dashboard_load")
        assert debugger.ask("evaluate", expression="params['dashboardId']", frameId=frame["id"])["result"] == "'trial'"
        where = "__import__('os').getuid()"  # what no worker in the jail may know of the machine
        assert debugger.ask("evaluate", expression=where, frameId=frame["id"])["result"] == str(os.getuid())
        time.sleep(6)  # longer than a call may take elsewhere
        debugger.ask("continue", threadId=thread)
        assert "Hello from Stop Here!" in calling.communicate(timeout=60)[0]
    finally:
        debugger.close()


def test_what_cannot_be_debugged_is_one_line(tmp_path: Path) -> None:
    folder = write_scaffold(tmp_path, "in-js", "tests", language="javascript")
    done = run("plugin", "debug", str(folder))
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and not done.stdout
    assert re.search(r"index.js is not Python|needs the extra \"debug\"", done.stderr)


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    need(find_spec("debugpy"), "debugpy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run("plugin", "debug", str(write_scaffold(tmp_path, "taken", "tests")), "--port", str(port))
    assert done.returncode == 1 and f"127.0.0.1:{port} is in use" in done.stderr and "UNJAILED" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["debug", "call"])
def test_a_daemon_that_does_not_start_leaves_no_folder(verb: str, tmp_path: Path) -> None:
    need(find_spec("debugpy"), "debugpy is not installed")
    folder, config = write_scaffold(tmp_path, "left", "tests"), tmp_path / "c.toml"
    config.write_text('[security]\npolicy_file = "/nonexistent.toml"\n')
    command = [sys.executable, "-m", "apex_exec", "plugin", verb, str(folder), "--config", str(config)]
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a long path would not be used for sockets
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100,
                              env={**os.environ, "TMPDIR": place})
        assert not list(Path(place).glob("apx*"))
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "before it was ready: apex-exec: security.policy_file" in said, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_nothing_unjailed_is_left_if_the_command_is_killed(tmp_path: Path) -> None:
    need(find_spec("debugpy"), "debugpy is not installed")
    folder = write_scaffold(tmp_path, "orphan", "tests")
    command = [sys.executable, "-m", "apex_exec", "plugin", "debug", str(folder), "--port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    assert process.stdout is not None and "attach a debugger" in process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert len(children) >= 3 and not alive
