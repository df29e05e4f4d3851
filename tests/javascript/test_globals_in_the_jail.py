"""The globals in jailed workers of a real daemon, with a shared engine and with an engine for each call; real HTTP."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from tests.support.daemon import Daemon
from tests.support.javascript import write_actions

USER = "11111111-2222-4333-8444-555555555555"
MS = 60_000
ACTIONS = {
    "fetch": """async ({ context: { port } }) => {
      const url = new URL("/greet ings?a=1", `http://APP.localhost:${port}/base`);
      url.searchParams.set("b", "x y&é");
      const response = await fetch(url, { method: "POST", headers: { "X-Mine": "1" },
        body: new URLSearchParams({ q: "two words" }), signal: AbortSignal.timeout(30000) });
      return [response.status, response.headers.get("content-type"), await response.json(), response.url];
    }""",
    "elsewhere": """async () => fetch("http://other.localhost/").catch((one) => [one.name, one.code, one.message])""",
    "others": """async () => {
      const bytes = new TextEncoder().encode("é😀"), target = new EventTarget(), seen = [];
      target.addEventListener("go", (event) => seen.push(event.type));
      target.dispatchEvent(new Event("go"));
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
      const { m } = structuredClone({ m: new Map([[1, bytes]]) });
      return [new TextDecoder().decode(m.get(1)), seen, digest.slice(0, 8), crypto.randomUUID()];
    }""",
    "spoil": "() => { globalThis.URL = undefined; String.prototype.slice = null; return typeof URL }",
    "left": "() => [typeof URL, typeof ''.slice]",
    "absent": "() => process.env.HOME",
}


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = f'{{"path": "{self.path}", "body": "{body}", "mine": "{self.headers["X-Mine"]}"}}'.encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[Client]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    more: dict[str, Any] = {"permissions": ("network:fetch",), "network": {"allow": ["app.localhost"]}}
    write_actions(folder / "plugins", "shared", ACTIONS, **more)
    write_actions(folder / "plugins", "fresh", ACTIONS, isolation="call", **more)
    with Daemon(folder / "d", folder / "plugins", {
            "fetch.allow": [f"app.localhost:{port}"], "fetch.allow_private": True, "limits.timeout_ms": MS}) as running:
        with Client(running.endpoint) as made:
            yield made
    shutil.rmtree(folder, ignore_errors=True)


def run(client: Client, plugin: str, action: str, **context: Any) -> Any:
    params = {"action": action, "context": context}
    return client.invoke(plugin, "onActionExecute", USER, params, MS)["result"]["result"]


@pytest.mark.parametrize("plugin", ["shared", "fresh"])
def test_a_request_leaves_the_jail_by_the_gateway(client: Client, port: int, plugin: str) -> None:
    for _ in range(2):
        assert run(client, plugin, "fetch", port=port) == [201, "application/json", {
            "path": "/greet%20ings?a=1&b=x+y%26%C3%A9", "body": "q=two+words", "mine": "1"},
            f"http://app.localhost:{port}/greet%20ings?a=1&b=x+y%26%C3%A9"]
    name, code, message = run(client, plugin, "elsewhere")
    assert (name, code) == ("ApiError", "host_not_allowed") and "network.allow" in message


@pytest.mark.parametrize("plugin", ["shared", "fresh"])
def test_the_other_globals_work_in_the_jail(client: Client, plugin: str) -> None:
    made = [run(client, plugin, "others") for _ in range(2)]
    assert [one[:3] for one in made] == [["é😀", ["go"], "1184d1f6"]] * 2
    assert made[0][3] != made[1][3]  # forks of one zygote, and new engines, draw their own random bytes


def test_what_a_call_does_to_the_globals_stays_in_a_shared_engine_and_not_in_a_fresh_one(client: Client) -> None:
    assert [run(client, "fresh", action) for action in ("spoil", "left")] == ["undefined", ["function", "function"]]


def test_what_is_absent_says_what_to_do_in_the_hosts_error(client: Client) -> None:
    with pytest.raises(CallError) as caught:
        run(client, "fresh", "absent")
    assert caught.value.code == "PLUGIN_ERROR"
    assert "process is not defined in plugins: let the bundler replace it" in str(caught.value)
