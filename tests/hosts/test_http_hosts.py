"""Hosts without a socket: the edge function on Deno and the lines of curl, against a real door and daemon."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest

from tests.hosts.test_example_hosts import FOLDER
from tests.support import need
from tests.support.daemon import EXAMPLES, ROOT, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.door import Door
from tests.support.runtimes import runtime

pytestmark = pytest.mark.system
SECRET = "0123456789abcdef0123456789abcdef"
CLAIMS = {"iss": "https://project.example/auth/v1", "aud": "authenticated", "sub": USER}
"""As the platform of the edge functions writes them."""
MARKUP = """</section><script>alert("1")</script><p title='"""
HOSTILE = f'''
@plugin.hook("onDashboardLoad")
def load(params):
    markup = {MARKUP!r}
    return {{"customWidgets": [{{"id": markup, "component": markup, "props": {{markup: markup}}}}]}}
'''


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        place = Path(folder)
        for name in ("hello-world", "action-router", "liar"):
            shutil.copytree(EXAMPLES / name, place / "plugins" / name)
        write_plugin(place / "plugins", "hostile", HOSTILE, ("onDashboardLoad",), ("ui:render",))
        write_plugin(place / "plugins", "sleeper", SLEEP)
        (place / "secret").write_text(SECRET)
        (place / "secret").chmod(0o600)
        with Daemon(place / "d", place / "plugins") as daemon:
            daemon.start_registrar()
            with Door(daemon, {"jwt_algorithms": ["HS256"], "jwt_secret_file": str(place / "secret"),
                               "jwt_issuer": CLAIMS["iss"], "jwt_audience": CLAIMS["aud"]}) as running:
                yield running


class Said(NamedTuple):
    """An answer of the edge function; ``headers`` as they were written, found in any case."""

    status: int
    headers: Any
    text: str


class Edge:
    """The edge function, with no permission but the network and two variables. A context manager."""

    def __init__(self, door: Door, folder: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "DENO_DIR": str(folder / "deno"), "APEX_DOOR": door.origin,
                       "PORT": "0"}
        program = [runtime("deno"), "run", "--check", "--no-config", "--no-remote", "--no-npm", "--allow-net",
                   "--allow-env=APEX_DOOR,PORT", str(FOLDER / "edge.ts")]
        self.process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        assert self.process.stdout is not None
        found = re.fullmatch(r"port (\d+)\n", self.process.stdout.readline())
        assert found, self.process.communicate()
        self.port = int(found[1])

    def __enter__(self) -> Edge:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Said:
        """One request; underscores of header names are dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            return Said(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()


def visitor(seconds: float = 600) -> str:
    """What a visitor's browser sends."""
    return f"Bearer {jwt.encode({**CLAIMS, 'exp': time.time() + seconds}, SECRET, 'HS256')}"


def test_an_edge_function_shows_every_plugins_widgets_to_its_visitor(door: Door, tmp_path: Path) -> None:
    with Edge(door, tmp_path) as edge:
        shown = edge.ask("GET", "/dashboards/main", Authorization=visitor())
        assert shown.status == 200 and shown.headers["Content-Type"].startswith("text/html"), shown
        sections = re.findall(r'<section id="([^"]*)" data-component="([^"]*)" data-props="([^"]*)"></section>',
                              shown.text)
        props = {html.unescape(id_): (html.unescape(component), json.loads(html.unescape(data)))
                 for id_, component, data in sections}
        assert props == {"hello-world/hello-widget": ("HelloWorld", {"message": "Hello from plugin!"}),
                         f"hostile/{MARKUP}": (MARKUP, {MARKUP: MARKUP})}
        assert "<script" not in shown.text and shown.text.count("<section") == 2
        assert '<p data-plugin="liar" data-code="INVALID_OUTPUT">' in shown.text
        for headers in ({}, {"Authorization": visitor(-600)}, {"Authorization": "Bearer x"}):
            assert edge.ask("GET", "/dashboards/main", **headers).status == 401
        named = edge.ask("GET", "/dashboards/%3Ccaf%C3%A9%3E", Authorization=visitor())
        assert "<title>&#60;café&#62;</title>" in named.text
        for path in ("/nothing", "/dashboards", "/dashboards/", "/dashboards/%", "/dashboards/a/b"):
            assert edge.ask("GET", path, Authorization=visitor()).status == 404, path


def test_an_edge_function_has_an_action_run_once_and_says_what_is_wrong(door: Door, tmp_path: Path) -> None:
    with Edge(door, tmp_path) as edge:
        me = visitor()
        for _ in range(2):
            done = edge.ask("POST", "/actions/action-router/sum", '{"numbers": [1, 2]}', Authorization=me,
                            Idempotency_Key="sum-1")
            assert (done.status, json.loads(done.text)["result"]) == (200, 3)
        other = edge.ask("POST", "/actions/action-router/sum", '{"numbers": [3]}', Authorization=me,
                         Idempotency_Key="sum-1")
        assert other.status == 409
        missing = edge.ask("POST", "/actions/nobody/sum", "{}", Authorization=me)
        assert (missing.status, json.loads(missing.text)["code"]) == (404, "PLUGIN_NOT_FOUND")
        assert edge.ask("POST", "/actions/action-router/sum", "{", Authorization=me).status == 400
        door.kill()
        away = edge.ask("GET", "/dashboards/main", Authorization=me)
        assert (away.status, json.loads(away.text)["code"]) == (503, "NO_ANSWER")
        door.start_again()
        assert edge.ask("GET", "/dashboards/main", Authorization=me).status == 200


def test_the_hook_of_a_visitor_who_leaves_is_cancelled(door: Door, tmp_path: Path) -> None:
    def executions() -> list[Any]:
        rows = door.daemon.operate("audit.read", afterSeq=0, limit=50, filter={"type": "plugin.execution"})["events"]
        return [row["metadata"].get("code") for row in rows if row["resource"] == "sleeper"]

    with Edge(door, tmp_path) as edge:
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
        connection.request("POST", "/actions/sleeper/rest", '{"seconds": 60}', {"Authorization": visitor()})
        wait_for(lambda: door.daemon.plugin("sleeper")["inFlight"], 20, "the call")
        connection.close()
        wait_for(executions, 20, "the record")
        assert executions() == ["CANCELLED"], "its deadline would be TIMEOUT"


def test_lines_of_curl_are_a_host(door: Door) -> None:
    need(shutil.which("curl"), "curl")
    done = subprocess.run(["sh", str(FOLDER / "curl.sh"), door.origin], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "TOKEN": door.token("curl")})
    assert (done.returncode, done.stderr) == (0, "")
    plugins, called, sent, first, second, problem = map(json.loads, done.stdout.splitlines())
    assert {"hello-world", "liar"} <= {row["id"] for row in plugins["plugins"]}
    assert called["result"]["customWidgets"][0]["component"] == "HelloWorld"
    assert sent["result"]["customWidgets"][0]["id"] == "hello-world/hello-widget" and sent["partial"] is True
    assert first["result"]["result"] == 3 and second == first, "usage included: it ran once"
    assert (problem["status"], problem["code"]) == (404, "PLUGIN_NOT_FOUND")


def test_the_readmes_line_of_curl_is_right(door: Door) -> None:
    need(shutil.which("curl"), "curl")
    section = (ROOT / "README.md").read_text("utf-8").partition("## Hosts without ZeroMQ")[2].partition("\n## ")[0]
    lines = section.partition("```\n")[2].partition("```")[0].replace("\\\n", " ").splitlines()
    line, = (line for line in lines if line.startswith("curl "))
    done = subprocess.run(["sh", "-c", line.replace("http://127.0.0.1:9466", door.origin)], capture_output=True,
                          text=True, timeout=60, env={**os.environ, "TOKEN": door.token("readme")})
    assert json.loads(done.stdout)["result"]["customWidgets"][0]["component"] == "HelloWorld", done
