"""What plugins say reaches the daemon's log: marked, escaped, bounded, and never felt by the loop."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.core.limits import SECOND_NS
from apex_exec.observe.logs import (
    FILE_BYTES_MAX,
    FILES_KEPT,
    LINES_MAX,
    TEXT_CHARS_MAX,
    WAITING_BYTES_MAX,
    Logs,
    escape,
)
from apex_exec.registry.bundles.bundle import pack
from tests.support.bundles import bundle, files, write_folder
from tests.support.daemon import Daemon, wait_for, write_plugin
from tests.support.host import Host

TALKER = '''
import sys

@plugin.hook("onActionExecute")
def act(context, params):
    for n in range(params["context"]["lines"]):
        context.log.warning("line %d \\x1b[31m red\\nforged ERROR line", n)
    print("printed")
    print("complained", file=sys.stderr)
    return {"result": None, "metadata": {}}
'''


def test_plugin_lines_are_marked_escaped_and_bounded(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "talker", TALKER)
    config = {"log.plugin_lines_per_second": 10, "limits.cpu_percent": 100}
    with Daemon(plugins=tmp_path / "plugins", config=config) as daemon:
        with Host(daemon.endpoint) as host:
            assert host.invoke("talker", {"lines": 1})["type"] == "result"
            wait_for(lambda: "complained" in daemon.log, 5, "the lines")
            assert "WARNING plugin talker: line 0 \\x1b[31m red\\nforged ERROR line" in daemon.log
            assert "INFO plugin talker: printed" in daemon.log
            time.sleep(1.1)
            begun = time.monotonic()
            host.invoke("talker", {"lines": 2000}, seconds=20)
            time.sleep(1.1)
            host.invoke("talker", {"lines": 1})
            wait_for(lambda: "lines were dropped" in daemon.log, 5, "the count of what was left out")
            allowed = 10 * (2 + time.monotonic() - begun)
            assert daemon.log.count("plugin talker: line") <= allowed
        own = daemon.state / "logs" / "talker.log"
        assert "red\\nforged" in own.read_text() and own.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_json_lines_are_json(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "talker", TALKER)
    with Daemon(plugins=tmp_path / "plugins", config={"log.format": "json"}) as daemon:
        with Host(daemon.endpoint) as host:
            host.invoke("talker", {"lines": 1})
            host.invoke("talker", {"lines": 1})
        wait_for(lambda: daemon.log.count("complained") == 2, 5, "the lines")
        lines = [json.loads(line) for line in daemon.log.splitlines()]
    said = [line for line in lines if line.get("plugin") == "talker"]
    assert said[0]["level"] == "warning" and said[0]["message"].endswith("red\nforged ERROR line")
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert said[0]["call"] == said[1]["call"] == said[2]["call"] and said[3]["call"] > said[0]["call"]


def logs(folder: Path, stream: io.StringIO | None = None, rate: float = 1e9) -> Logs:
    return Logs(level="info", format="text", plugin_lines_per_second=rate, folder=folder,
                stream=stream or io.StringIO())


def test_files_are_rotated_and_old_ones_go(tmp_path: Path) -> None:
    writer = logs(tmp_path)
    line = "x" * 8000
    for _ in range((FILES_KEPT + 3) * FILE_BYTES_MAX // 8000):
        writer.plugin_line("p", "info", line, time.monotonic_ns())
    writer.plugin_line("p", "info", "the last", time.monotonic_ns())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["p.log", *(f"p.log.{n}" for n in range(1, FILES_KEPT + 1))]
    assert all(path.stat().st_size < FILE_BYTES_MAX + 10_000 for path in tmp_path.iterdir())


def test_a_stderr_that_nobody_reads_does_not_stop_the_caller(tmp_path: Path) -> None:
    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(60)
            return 0

    writer = logs(tmp_path, Stuck())
    writer.start()
    begun = time.monotonic()
    for n in range(30_000):
        writer.log("info", f"line {n}")
    assert time.monotonic() - begun < 5 and writer.waiting <= LINES_MAX


def test_a_stderr_that_nobody_reads_stops_no_plugins_own_file(tmp_path: Path) -> None:
    writer = logs(tmp_path, Stuck())
    writer.start()
    for n in range(2 * LINES_MAX):
        writer.plugin_line("p", "info", f"line {n}", time.monotonic_ns() + n * 10**9)  # each within its share
        if n % 1000 == 0:
            time.sleep(0.02)
    writer.close()
    assert writer.dropped, "stderr took hardly any"
    written = "".join(path.read_text() for path in sorted(tmp_path.iterdir(), reverse=True))
    assert written.count("line ") == 2 * LINES_MAX and f"line {2 * LINES_MAX - 1}" in written


def test_what_does_not_print_is_written_as_an_escape() -> None:
    assert escape("plain π") == "plain π"
    assert escape("a\nb\x1b[2J\ud800\u202e") == "a\\nb\\x1b[2J\\ud800\\u202e"
    assert len(escape("x" * 100_000)) < 10_000


class Stuck(io.StringIO):
    """A stderr that nobody reads."""

    def write(self, text: str) -> int:
        time.sleep(60)
        return 0


def test_lines_that_wait_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    writer = logs(tmp_path, Stuck())
    writer.start()
    for _ in range(300):
        writer.plugin_line("p", "info", "x" * 1_000_000, time.monotonic_ns())
    wait_for(lambda: writer.waiting == 299, 10, "the first line in the writer's hands")
    assert writer.waiting_bytes <= 300 * 4 * (TEXT_CHARS_MAX + 1), "they are cut before"
    for _ in range(2000):
        writer.plugin_line("p", "info", "\x1b" * 1_000_000, time.monotonic_ns())
        writer.log("error", "y" * 100_000)
    assert writer.waiting < 1000 and writer.dropped > 3000
    assert writer.waiting_bytes <= WAITING_BYTES_MAX + 4 * 100_000


def test_an_escaped_line_is_no_longer_than_a_plain_one() -> None:
    for worst in ("\x1b" * 100_000, "\U000e0001" * 100_000, "\ud800" * 100_000, "a\n" * 100_000):
        written = escape(worst)
        assert written.isprintable() and len(written) == TEXT_CHARS_MAX + 1
        assert escape(written[:TEXT_CHARS_MAX]) == written[:TEXT_CHARS_MAX], "escaping twice changes nothing"


def test_what_was_left_out_is_said_although_no_line_follows() -> None:
    out = io.StringIO()
    logs = Logs(level="info", format="text", plugin_lines_per_second=8, folder=None, stream=out)
    for number in range(200):
        logs.plugin_line("talker", "info", f"line {number}", number)
    logs.plugin_line("quiet", "info", "one line", 200)
    logs.upkeep(SECOND_NS // 2)
    assert out.getvalue().count("line ") == 8 and "dropped" not in out.getvalue()
    logs.upkeep(2 * SECOND_NS)
    logs.upkeep(3 * SECOND_NS)
    assert out.getvalue().count("plugin talker: 192 lines were dropped") == 1 and out.getvalue().count("dropped") == 1
    for number in range(10):
        logs.plugin_line("talker", "info", "again", 9 * SECOND_NS + number)
    logs.forget_plugin("talker")
    logs.upkeep(20 * SECOND_NS)
    assert out.getvalue().count("dropped") == 1


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 20_000)


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) \S")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_administrators_do_and_the_end_are_in_the_log_and_every_line_has_one_form(form: str) -> None:
    with Daemon(config={"log.format": form}) as daemon:
        admin(daemon, "plugin.install", bundle=pack(bundle()))
        admin(daemon, "daemon.status")
        admin(daemon, "plugin.disable", id="sample")
        with pytest.raises(CallError):
            admin(daemon, "plugin.disable", id="nob\nody")
        daemon.stop()
        with sqlite3.connect(daemon.state / "market.db") as db:  # as a later release would have left it
            db.execute("UPDATE schema_versions SET version = 99")
        daemon.start()
        wait_for(lambda: "paid plugins are served to nobody" in daemon.log, 10, "the registrar's line")
        wait_for(lambda: "registrar: " in daemon.log, 5, "its name")
        daemon.stop()
        lines = daemon.log.splitlines()
    if form == "json":
        assert [line for line in lines if not {"time", "level", "message"} <= json.loads(line).keys()] == []
    else:
        assert [line for line in lines if not LINE.match(line)] == []
        assert any(f" INFO uid {os.getuid()} " in line and "plugin.install sample: done" in line for line in lines)
        assert any("plugin.disable sample: done" in line for line in lines)
        assert any(" WARNING uid " in line and "plugin.disable nob\\nody: NOT_FOUND" in line for line in lines)
    assert not any("daemon.status" in line for line in lines), "what changes nothing is asked every second"
    assert sum("the daemon has ended" in line for line in lines) == 2 and "the daemon has ended" in lines[-1]


@pytest.mark.slow
def test_what_the_interpreter_warns_of_a_plugins_code_is_no_line_of_the_daemons_own(tmp_path: Path) -> None:
    code = ('"""Warned of."""\nfrom workers import Plugin\n\nassert (1, "x")\nWORDS = "\\\x1b \\q"\nONE = 1 is 1\n'
            'plugin = Plugin(id="{id}", version="1.0.0", permissions=["ui:render"])\n\n\n'
            '@plugin.hook("onDashboardLoad")\ndef load(params):\n    return {{"customWidgets": []}}\n')
    write_folder(tmp_path / "plugins" / "folder-one", files(id="folder-one", code=code.format(id="folder-one")))
    with Daemon(plugins=tmp_path / "plugins") as daemon:
        admin(daemon, "plugin.install", bundle=pack(bundle(code=code.format(id="sample"))))
        admin(daemon, "plugin.enable", id="sample")
        with Host(daemon.endpoint) as host:
            for plugin in ("sample", "folder-one"):
                reply = host.invoke(plugin, action="onDashboardLoad", payload={"dashboardId": "main"})
                assert reply["type"] == "result", daemon.log[-3000:]
        daemon.stop()
        lines = daemon.log.splitlines()
    assert [line for line in lines if not LINE.match(line)] == []
