"""The API calls of one async hook are made at once, eight at most, in every kind of worker."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.methods import API_AT_ONCE
from apex_exec.client import Client
from tests.gateway.bundles import bundle
from tests.gateway.conftest import A
from tests.gateway.http_world import OK, Server, response
from tests.support.daemon import Daemon
from tests.support.javascript import write_actions

PYTHON = '''
import asyncio

from workers import ApiError, Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=["network:fetch"])


async def fetch(context, path):
    """What came of it: a status, or a code."""
    try:
        return (await context.api.fetch(context.base + path))["status"]
    except ApiError as error:
        return error.code


@plugin.hook("onActionExecute")
async def run(context, params):
    """Fetches each path, all at once; with ``seconds`` gives up then, and fetches ``after``."""
    given = params["context"]
    context.base = given["base"]
    work = asyncio.gather(*(fetch(context, path) for path in given["paths"]))
    if "seconds" not in given:
        return {{"result": await work, "metadata": {{}}}}
    try:
        async with asyncio.timeout(given["seconds"]):
            await work
    except TimeoutError:
        return {{"result": await fetch(context, given["after"]), "metadata": {{}}}}
'''
JAVASCRIPT = {"x": """async (c) => {
  const { base, paths, seconds, after } = c.context;
  const one = async (path) => { try { return (await c.api.fetch(base + path)).status } catch (e) { return e.code } };
  if (seconds === undefined) return Promise.all(paths.map((path) => one(path)));
  const control = new AbortController();
  setTimeout(() => control.abort(), seconds * 1000);
  const web = (path) => fetch(base + path, { signal: control.signal }).then((r) => r.status, (e) => e.name);
  await Promise.all(paths.map(web));
  return one(after) }"""}
LAST = response(b"ok", "Connection: close")
"""What a route that is a coroutine answers: the server ends the connection after it. Without the header the next
request could go out on the connection that is about to end."""
PLUGINS = ["looped", "many", "js-one", "js-many"]


class Crowd(Server):
    """Answers ``/all`` once ``wanted`` requests for it wait, and keeps how many waited at once."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = API_AT_ONCE
        self.waiting = self.most = 0
        self.full = asyncio.Event()
        self.routes |= {"/all": self._all, "/never": self._never, "/ok": OK}

    async def _all(self, writer: asyncio.StreamWriter) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        full = self.full
        if self.waiting == self.wanted:
            self.waiting, self.full = 0, asyncio.Event()
            full.set()
        try:
            async with asyncio.timeout(20):
                await full.wait()
            writer.write(LAST)
        except TimeoutError:
            self.waiting = 0  # the next test counts its own
            writer.write(response(b"alone", "Connection: close", status="503 Service Unavailable"))
        await writer.drain()

    async def _never(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Crowd()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result(10)
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture(scope="module")
def daemon(crowd: Crowd) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    more: dict[str, Any] = {"network": {"allow": ["app.localhost"]}}
    for id_ in ("looped", "many"):
        limits = {"concurrency": 4} if "many" in id_ else {}
        bundle(folder / "plugins", id_, ["network:fetch"], PYTHON.format(id=id_), limits=limits, **more)
        write_actions(folder / "plugins", "js-many" if limits else "js-one", JAVASCRIPT, permissions=("network:fetch",),
                      limits=limits, **more)
    with Daemon(folder / "d", folder / "plugins", {
            "fetch.allow": [f"app.localhost:{crowd.port}"], "fetch.allow_private": True, "limits.timeout_ms": 60_000,
            "limits.network_per_minute": 10_000, "limits.cpu_percent": 100}) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def run(daemon: Daemon, crowd: Crowd, plugin: str, **given: Any) -> Any:
    with Client(daemon.endpoint) as client:
        context = {"base": f"http://app.localhost:{crowd.port}", **given}
        reply = client.invoke(plugin, "onActionExecute", A, {"action": "x", "context": context}, 50_000)
        return reply["result"]["result"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_eight_calls_wait_at_once_and_no_more(daemon: Daemon, crowd: Crowd, plugin: str) -> None:
    """The server answers none of them before the eighth is there."""
    crowd.most = 0
    assert run(daemon, crowd, plugin, paths=["/all"] * 16) == [200] * 16
    assert crowd.most == API_AT_ONCE


@pytest.mark.parametrize("plugin", PLUGINS)
def test_calls_that_are_given_up_leave_their_places_to_the_next(daemon: Daemon, crowd: Crowd, plugin: str) -> None:
    assert run(daemon, crowd, plugin, paths=["/never"] * 20, seconds=0.3, after="/ok") == 200
