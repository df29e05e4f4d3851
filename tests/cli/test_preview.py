"""The page of `plugin dev`: for this machine and its own address only, and nothing of the plugin's in it is markup."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from apex_exec.cli.plugin.calls_shown import lines
from apex_exec.cli.plugin.preview import FORM_BYTES_MAX, Preview
from tests.support.bundles import files, write_folder
from tests.support.daemon import ROOT, USER, wait_for

NO_ENCODING = {"n": 2**70}
"""A payload whose call fails at once: nothing listens."""
HOSTILE = '''"""Makes markup of everything."""
from workers import Plugin

plugin = Plugin(id="sample", version="1.0.0", permissions=["ui:render", "events:emit"])
MARKUP = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"


@plugin.hook("onDashboardLoad")
def load(context, params):
    if params["dashboardId"] == "raise":
        raise ValueError(MARKUP)
    context.api.emit("seen", {"text": MARKUP})
    return {"customWidgets": [{"id": "w", "component": "Text", "props": {"text": MARKUP, "\\x1b[2J": "\\u202e"}}]}
'''


def ask(address: str, path: str = "", form: dict[str, str] | None = None,
        **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of one request, whose headers are exactly these and the length."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
    body = None if form is None else urlencode(form)
    connection.request("GET" if form is None else "POST", place.path + path, body,
                       {"Host": place.netloc, **({} if form is None else {"Origin": f"http://{place.netloc}"}),
                        **headers})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


@pytest.fixture(scope="module")
def preview() -> Iterator[Preview]:
    """A page before nothing: no request of these tests may make a call."""
    made = Preview("ipc:///nonexistent", "sam<ple", {"onDashboardLoad": {"dashboardId": "<b>"}}, USER)
    yield made
    made.close()


def test_the_page_is_shown_at_its_own_address_alone(preview: Preview) -> None:
    status, headers, text = ask(preview.address)
    assert status == 200 and "sam&lt;ple" in text and "&lt;b&gt;" in text and "<script" not in text
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    place = urlsplit(preview.address)
    assert ask(f"http://{place.netloc}/")[0] == 404, "without the secret"
    assert ask(f"http://{place.netloc}/{'x' * 32}/")[0] == 404, "with another"
    assert ask(preview.address, "../../etc/passwd")[0] == 404
    for host in ("evil.example", f"evil.example:{place.port}", "127.0.0.1", ""):
        assert ask(preview.address, Host=host)[0] == 404, host


@pytest.mark.parametrize(("form", "headers", "status"), [
    ({"hook": "onDashboardLoad"}, {"Origin": "http://evil.example"}, 403),
    ({"hook": "onDashboardLoad"}, {"Origin": "null"}, 403),
    ({"hook": "onDashboardLoad"}, {"Content-Length": str(FORM_BYTES_MAX + 1)}, 413),
    ({"hook": "onDashboardLoad"}, {"Content-Length": "-1"}, 413),
    ({"hook": "__init__"}, {}, 400),
    ({"hook": "onDashboardLoad", "payload": "{"}, {}, 400),
    ({"hook": "onDashboardLoad", "payload": "[]"}, {}, 400),
    ({"hook": "onDashboardLoad", "payload": "[" * 200_000}, {}, 400),
    ({"hook": "onDashboardLoad", "a": "1", "b": "2", "c": "3", "d": "4"}, {}, 400),
])
def test_a_call_comes_from_the_pages_own_form(preview: Preview, form: dict[str, str], headers: dict[str, str],
                                              status: int) -> None:
    assert ask(preview.address, "call", form, **headers)[0] == status
    assert "No hook was called" in ask(preview.address, "latest")[2]


def test_a_reader_that_leaves_is_not_said_in_the_plugins_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    made = Preview("ipc:///nonexistent", "sample", {"onDashboardLoad": {"dashboardId": "x" * 1_000_000}}, USER)
    try:
        place = urlsplit(made.address)
        with socket.create_connection(("127.0.0.1", place.port or 0)) as leaves:
            leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
            leaves.sendall(f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            leaves.recv(100)
        wait_for(lambda: not any("process_request" in one.name for one in threading.enumerate()), 10, "its thread")
    finally:
        made.close()
    assert capfd.readouterr() == ("", "")


def test_a_save_with_other_hooks_is_a_page_with_other_forms() -> None:
    made = Preview("ipc:///nonexistent", "sample", {"onDashboardLoad": {"dashboardId": "a"}}, USER)
    try:
        made.call("onDashboardLoad", NO_ENCODING)
        made.serve({"onDataFetch": {"resource": "b"}})
        made.call("onDataFetch", NO_ENCODING)
        made.call("onDashboardLoad", NO_ENCODING)  # a thread that was late: the save before had it
        page, latest = ask(made.address)[2], ask(made.address, "latest")[2]
        assert "Call onDataFetch" in page and "onDashboardLoad" not in page
        assert "onDataFetch" in latest and "onDashboardLoad" not in latest
        assert ask(made.address, "call", {"hook": "onDashboardLoad"})[0] == 400
    finally:
        made.close()


def test_calls_are_said_with_what_they_asked_for() -> None:
    events: list[dict[str, Any]] = [
        {"eventType": "access.denied", "action": "emit", "result": "denied",
         "metadata": {"code": "permission_denied", "reason": "the manifest lacks it"}},
        {"eventType": "security.rate_limit", "action": "fetch", "result": "denied",
         "metadata": {"code": "rate_limited"}},
        {"eventType": "plugin.api", "action": "emit", "result": "success", "metadata": {"effects": 50}},
        {"eventType": "data.access", "action": "query", "result": "denied", "metadata": {"code": "sql_forbidden"}},
        {"eventType": "plugin.execution", "action": "onDataFetch", "result": "success",
         "metadata": {"executionTimeMs": 1.26}},
        {"eventType": "plugin.execution", "action": "onDataFetch", "result": "failure",
         "metadata": {"executionTimeMs": 5000.0, "code": "TIMEOUT"}},
        {"eventType": "admin.action", "action": "audit.read", "result": "success", "metadata": {}}]
    assert list(lines(events)) == [
        "[call]   emit: denied (code permission_denied, reason the manifest lacks it)",
        "[call]   fetch: denied (code rate_limited)", "[call]   emit: success (effects 50)",
        "[call]   query: denied (code sql_forbidden)", "[call] onDataFetch: answered in 1.3 ms",
        "[call] onDataFetch: TIMEOUT after 5000.0 ms"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dev_shows_calls_effects_and_widgets_and_nothing_of_them_is_markup(tmp_path: Path) -> None:
    made = files(code=HOSTILE, permissions=["ui:render", "events:emit"])
    folder = write_folder(tmp_path / "sample", made)
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-u", "-m", "apex_exec", "plugin", "dev", str(folder)], cwd=ROOT,
                                   stdout=output, stderr=output)
    try:
        wait_for(lambda: "preview: " in said.read_text(), 120, "the preview")
        address = re.findall(r"^preview: (\S+)$", said.read_text(), re.M)[0]
        wait_for(lambda: "Widget 1" in ask(address, "latest")[2], 60, "the first call")
        text = ask(address, "latest")[2]
        assert "&lt;script&gt;" in text and re.search(r"Effect: \S*seen", text)
        assert ask(address, "call", {"hook": "onDashboardLoad", "payload": '{"dashboardId": "raise"}'})[0] == 303
        failed = ask(address, "latest")[2]
        assert "PLUGIN_ERROR" in failed and "Traceback" in failed and "plugin.py" in failed
        for page in (text, failed, ask(address)[2]):
            assert not re.search(r"<script|<img|\x1b|\u202e", page)
        wait_for(lambda: "[call] onDashboardLoad: PLUGIN_ERROR" in said.read_text(), 90, "the calls")
        assert "[call]   emit: success" in said.read_text()
        before = time.monotonic()
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=60)
    assert status == 0 and time.monotonic() - before < 30, said.read_text()
