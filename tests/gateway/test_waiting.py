"""How an async hook waits for its API calls: ``asyncio.timeout`` ends the wait, and with it the call."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import Client
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import bundle
from tests.gateway.conftest import NAMED, TABLES, A, sqlite_data
from tests.support.daemon import Daemon, wait_for
from workers.contract import API_AT_ONCE

WAITS = """
import asyncio, time
from workers import ApiError, Plugin

plugin = Plugin(id="waits", version="1.0.0", permissions=["data:read", "data:write", "network:fetch"])


async def bounded(call, seconds):
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return "timeout"


@plugin.hook("onActionExecute")
async def run(context, params):
    api, url, begun = context.api, params["context"]["url"], time.monotonic()
    if params["action"] == "timeouts":
        got = [await bounded(api.fetch(url), 0.1) for _ in range(12)]
        got.append(await bounded(api.query("SELECT 1::int AS n"), 10))
        got.append(time.monotonic() - begun < 6)
    elif params["action"] == "wait_for":
        try:
            got = await asyncio.wait_for(asyncio.gather(api.query("SELECT 2::int AS n"), api.fetch(url)), 0.5)
        except TimeoutError:
            got = [await api.query("SELECT 3::int AS n")]
    elif params["action"] == "meanwhile":
        steps = []

        async def ticks():
            while True:
                steps.append(1)
                await asyncio.sleep(0.02)
        ticking = asyncio.ensure_future(ticks())
        got = [await bounded(api.fetch(url), 0.3), len(steps) > 3]
        ticking.cancel()
    elif params["action"] == "own_time":
        try:
            got = await api.fetch(url, timeout_ms=150)
        except ApiError as error:
            got = [error.code]
    elif params["action"] == "unawaited":
        api.insert("notes", {"id": 71, "text": "first"})
        api.update("notes", {"text": "second"}, {"id": 71})
        awaited_twice = api.query("SELECT text FROM notes WHERE id = 71")
        got = [await awaited_twice, await awaited_twice]
        api.delete("notes", {"id": 71})
    elif params["action"] == "never_sent":
        first = [asyncio.ensure_future(bounded(api.fetch(url), 0.5)) for _ in range(params["context"]["at_once"])]
        await asyncio.sleep(0)
        got = [await bounded(api.insert("notes", {"id": 72, "text": "x"}), 0.1), *{*await asyncio.gather(*first)},
               await api.query("SELECT id FROM notes WHERE id = 72")]
    return {"result": got, "metadata": {}}
"""


ABORTS = """
export default { id: "aborts", version: "1.0.0", permissions: ["data:read", "network:fetch"], hooks: {
  async onActionExecute({ context, api }) {
    const names = [];
    for (let i = 0; i < 12; i++)
      await fetch(context.url, { signal: AbortSignal.timeout(100) }).catch((error) => names.push(error.name));
    const own = await api.fetch(context.url, { timeoutMs: 150 }).catch((error) => error.code);
    return { result: [names, own, await api.query("SELECT 1::int AS n")], metadata: {} };
  } } };
"""


class Silent:
    """An HTTP peer that never answers and counts who came and who left."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://app.localhost:{self.listener.getsockname()[1]}/"
        self.came = self.left = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._hold, args=(peer,), daemon=True).start()

    def _hold(self, peer: socket.socket) -> None:
        self.came += bool(peer.recv(65536))
        while peer.recv(65536):
            pass
        self.left += 1


@pytest.fixture(scope="module")
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.listener.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, silent: Silent) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("waiting")
    plugins = folder / "plugins"
    bundle(plugins, "waits", ["data:read", "data:write", "network:fetch"], WAITS, data={"tables": list(NAMED)},
           network={"allow": ["app.localhost"]})
    other = bundle(plugins, "aborts", ["data:read", "network:fetch"], "", data={"tables": list(NAMED)},
                   network={"allow": ["app.localhost"]})
    (other / "plugin.py").unlink()
    (other / "index.js").write_text(ABORTS)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["manifest"]["entrypoint"] = "index.js"
    (other / "manifest.json").write_text(json.dumps(manifest))
    sqlite_data(folder / "data.db").close()
    with Daemon(folder / "d", plugins, {
            "data.url": f"sqlite:///{folder}/data.db", "data.tables": TABLES, "fetch.allow_private": True,
            "fetch.allow": [silent.url.split("/")[2]], "sandbox.min_level": "L0", "limits.timeout_ms": 20_000,
            "breaker.ends": 100}) as running:
        yield running


@pytest.fixture
def ask(daemon: Daemon, silent: Silent) -> Iterator[Any]:
    """Runs one action of the plugin and returns its result."""
    with Client(daemon.endpoint) as client:
        def asked(action: str, plugin: str = "waits") -> Any:
            payload = {"action": action, "context": {"url": silent.url, "at_once": API_AT_ONCE}}
            return client.invoke(plugin, "onActionExecute", A, payload, deadline_ms=20_000)["result"]["result"]
        yield asked


def test_a_timeout_around_a_call_ends_the_wait_and_the_call(daemon: Daemon, silent: Silent, ask: Any) -> None:
    """Twelve in one hook: none of them keeps one of the eight places of calls that are under way."""
    assert ask("timeouts") == ["timeout"] * 12 + [[{"n": 1}], True]
    wait_for(lambda: silent.came == silent.left, 5)

    def recorded() -> list[Any]:
        return [event.metadata for event in read_events(daemon.state / "audit.db")
                if (event.action, event.resource) == ("fetch", "waits")]
    wait_for(lambda: len(recorded()) == 9, 5)  # eight, and one for the four that came after them
    assert [one["code"] for one in recorded()[:8]] == ["cancelled"] * 8
    assert recorded()[8]["codes"] == {"cancelled": 4}


def test_a_signal_that_aborts_a_fetch_of_javascript_ends_the_call_as_well(silent: Silent, ask: Any) -> None:
    before = silent.came
    assert ask("x", "aborts") == [["TimeoutError"] * 12, "fetch_timeout", [{"n": 1}]]
    # a gateway that has only just been started may get to know of a call and of its end at once
    wait_for(lambda: silent.came == silent.left and before < silent.came <= before + 13, 5)


def test_what_a_hook_gathers_ends_together_and_the_hook_goes_on(ask: Any) -> None:
    assert ask("wait_for") == [[{"n": 3}]]
    assert ask("meanwhile") == ["timeout", True]
    assert ask("own_time") == ["fetch_timeout"]


def test_a_call_that_was_given_up_before_its_turn_is_never_made(ask: Any) -> None:
    assert ask("never_sent") == ["timeout", "timeout", []]


def test_calls_that_nobody_waits_for_are_made_in_their_order_before_the_hook_is_answered(daemon: Daemon,
                                                                                         ask: Any) -> None:
    assert ask("unawaited") == [[{"text": "second"}]] * 2

    def written() -> list[str]:
        return [event.action for event in read_events(daemon.state / "audit.db") if event.event_type.startswith(
            "data.") and event.action != "query"]
    wait_for(lambda: len(written()) == 3, 5)
    assert written() == ["insert", "update", "delete"]
