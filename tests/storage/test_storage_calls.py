"""``context.api.storage`` on a real daemon: in Python and in JavaScript, permitted, bounded, on record, erased."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import CallError
from apex_exec.ledger.chain import own_chain
from apex_exec.ledger.reading import Event, read_events
from apex_exec.market.money.metering import meter
from apex_exec.storage.entries import Place, Waiting
from apex_exec.storage.store import Store
from tests.gateway.bundles import gateway_of
from tests.support.daemon import Daemon, wait_for, write_plugin
from tests.support.javascript import write_files

A, B, C = ("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002",
           "cccccccc-0000-4000-8000-000000000003")
PYTHON = '''
from uuid import UUID
from workers import ApiError

@plugin.hook("onActionExecute")
async def act(context, params):
    out = []
    for name, *given in params["context"]["steps"]:
        if given and given[-1] == "odd":
            given[-1] = UUID(int=1)
        try:
            named = given.pop() if given and isinstance(given[-1], dict) and "common" in given[-1] else {}
            out.append(await getattr(context.api.storage, name)(*given, **named))
        except ApiError as error:
            out.append([type(error).__name__, error.code])
    return {"result": out, "metadata": {}}
'''
JAVASCRIPT = '''
export default { id: "keeps-js", version: "1.0.0", permissions: ["data:read", "data:write"], hooks: {
  async onActionExecute(context) {
    const out = [];
    for (const [name, ...given] of context.context.steps) {
      if (given.at(-1) === "odd") given[given.length - 1] = new Map();
      try { out.push(await plugin.api.storage[name](...given) ) }
      catch (error) { out.push([error.name, error.code]) }
    }
    return { result: out, metadata: {} };
  } } };
'''


class Site:
    """A daemon whose plugins do the steps that their callers list."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        plugins = folder / "plugins"
        both = ("data:read", "data:write")
        write_plugin(plugins, "keeps-py", PYTHON, permissions=both)
        write_plugin(plugins, "reader", PYTHON, permissions=("data:read",))
        write_plugin(plugins, "writer", PYTHON, permissions=("data:write",))
        write_files(plugins, "keeps-js", {"index.js": JAVASCRIPT}, permissions=both)
        self.daemon = Daemon(folder / "d", plugins, {
            "sandbox.min_level": "L0", "limits.timeout_ms": 60_000, "storage.user_bytes": 2000,
            "storage.plugin_bytes": 5000,
            **({"storage.url": url} if url else {})})

    def run(self, plugin: str, *steps: Any, user: str = A) -> list[Any]:
        payload = {"action": "x", "context": {"steps": list(steps)}}
        return list(self.daemon.invoke(plugin, "onActionExecute", payload, user, 60_000)["result"])

    def may_run(self, plugin: str, *steps: Any) -> list[Any]:
        """The same while the gateway is being started."""
        try:
            return self.run(plugin, *steps)
        except CallError:
            return []

    def events(self, user: str = "") -> list[Event]:
        """The records of storage calls so far, of one user or of all. They are written a little after the answer."""
        return [event for event in read_events(self.daemon.state / "audit.db")
                if event.action.startswith("storage.") and user in ("", event.user_id)]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").url("storagecalls")
        made = Site(Path(folder), url)
        wait_for(lambda: made.may_run("keeps-py", ["list"]) == [[]], 120, "the storage, which the first call opens,")
        yield made
        made.daemon.stop()


VALUE = {"n": [1, 2.5, None, True, "ä"], "raw": b"\x00\xff", "at": datetime(2026, 1, 2, tzinfo=UTC)}


@pytest.mark.parametrize("plugin", ["keeps-py", "keeps-js"])
def test_what_was_set_is_found_by_the_same_plugin_and_user_alone(site: Site, plugin: str) -> None:
    keys = [["set", "one", VALUE], ["set", "two", "2"], ["set", "two", None, {"common": True}]]
    assert site.run(plugin, *keys) == [None] * 3
    assert site.run(plugin, ["get", "one"], ["get", "two"], ["get", "none"], ["get", "two", {"common": True}]) == [
        VALUE, "2", None, None]
    listed = site.run(plugin, ["list"], ["list", {"prefix": "t"}] if plugin == "keeps-js" else ["list", "t"])
    assert [[entry["key"] for entry in rows] for rows in listed] == [["one", "two"], ["two"]]
    assert listed[1][0]["bytes"] == 2 and isinstance(listed[1][0]["updatedAt"], datetime)
    assert site.run(plugin, ["get", "one"], ["list"], ["get", "two", {"common": True}], user=B) == [None, [], None]
    other = {"keeps-py": "keeps-js", "keeps-js": "keeps-py"}[plugin]
    assert site.run(other, ["get", "two", {"common": True}], ["delete", "one"]) == [None, False]
    assert site.run(plugin, ["delete", "one"], ["delete", "one"], ["get", "one"], ["delete", "two"]) == [
        True, False, None, True]


@pytest.mark.parametrize("plugin", ["keeps-py", "keeps-js"])
def test_what_may_not_be_kept_is_refused_and_changes_nothing(site: Site, plugin: str) -> None:
    kind = "ApiError"
    refused = site.run(
        plugin, ["set", "k", 1], ["set", "k", "x" * 2000], ["set", "k", "odd"], ["set", "", 1], ["set", "k" * 201, 1],
        ["get", 5], ["list", {"limit": 0, "common": False}] if plugin == "keeps-js" else ["list", "", "", 0],
        ["get", "k"], ["set", "k", "x" * 4900, {"common": True}], ["set", "k", "x" * 100, {"common": True}],
        ["delete", "k"])
    assert refused == [None, [kind, "storage_full"], ["InvalidOutput", "invalid_output"], [kind, "invalid_params"],
                       [kind, "invalid_params"], [kind, "invalid_params"], [kind, "invalid_params"], 1,
                       [kind, "storage_full"], None, True]


def test_each_method_takes_its_permission(site: Site) -> None:
    denied = ["PermissionDenied", "permission_denied"]
    steps = (["set", "k", 1], ["delete", "k"], ["get", "k"], ["list"])
    assert site.run("reader", *steps) == [denied, denied, None, []]
    assert site.run("writer", *steps) == [None, True, denied, denied]


def test_calls_are_on_record_without_key_and_value_and_each_write_once(site: Site) -> None:
    secret = "key-of-a-person"
    steps = (["set", secret, "value-of-a-person"], ["get", secret], ["list"], *[["delete", secret]] * 2)
    site.run("keeps-py", *steps, user=C)
    wait_for(lambda: len(site.events(C)) >= 5, 10, "their records")
    events = sorted(site.events(C), key=lambda event: event.action)
    assert [(event.action, event.event_type, event.result) for event in events] == [
        ("storage.delete", "data.deletion", "success"), ("storage.delete", "data.deletion", "success"),
        ("storage.get", "data.access", "success"), ("storage.list", "data.access", "success"),
        ("storage.set", "data.modification", "success")]
    assert {event.resource for event in events} == {"keeps-py"}
    assert sorted(event.metadata["found"] for event in events[:2]) == [False, True]
    assert not any("of-a-person" in json.dumps(event.metadata) for event in events)
    assert [usage.api_calls for usage in meter(events).values()] == [5], "each is metered as any API call is"
    sets = [event for event in site.events() if (event.action, event.resource) == ("storage.set", "keeps-py")]
    site.daemon.wait_metric('api_calls_total{method="storage.set",outcome="ok",plugin="keeps-py"}',
                            sum(event.result == "success" for event in sets))


@pytest.mark.slow
def test_a_record_that_a_killed_gateway_left_is_handed_over_by_the_next_once(site: Site) -> None:
    site.run("keeps-py", ["list"])
    origin = own_chain(site.daemon.state).id
    record = Waiting("storage:left", time.time_ns(), "data.modification", A, "keeps-py", "storage.set",
                     {"store": "user"})
    store = Store(site.url or f"sqlite:///{site.daemon.state}/storage.db", 2000, 5000)
    gateway = gateway_of(site.daemon)
    gateway.suspend()  # as if it had died between its commit and the hand-over
    store.set(Place("keeps-py", A), b"left", b"\x01", 7, record, origin, 10)
    store.close()
    gateway.kill()
    wait_for(lambda: not gateway.is_running() or gateway.status() == psutil.STATUS_ZOMBIE, 10, "its end")
    wait_for(lambda: site.may_run("keeps-py", ["get", "left"]) == [1], 20, "another gateway")
    wait_for(lambda: any(event.metadata == {"store": "user"} for event in site.events()), 20, "its record")
    assert sum(event.metadata == {"store": "user"} for event in site.events()) == 1
    assert site.run("keeps-py", ["delete", "left"]) == [True]


def test_an_administrator_exports_and_erases_what_is_kept_of_a_user(site: Site) -> None:
    site.run("keeps-py", ["set", "a", VALUE], ["set", "b", 2])
    site.run("keeps-js", ["set", "a", 3], ["set", "a", 4, {"common": True}])
    site.run("keeps-py", ["set", "a", 5], user=B)
    found = site.daemon.operate("plugin.storage.export", user=A.upper())
    assert [(entry["plugin"], entry["key"], entry["value"]) for entry in found["entries"]] == [
        ("keeps-js", "a", 3), ("keeps-py", "a", VALUE), ("keeps-py", "b", 2)] and found["next"] is None
    assert site.daemon.operate("plugin.storage.erase", user=A, plugin="keeps-py")["erased"] == 2
    assert site.daemon.operate("plugin.storage.erase", user=A) == {"user": A, "erased": 1, "plugins": ["keeps-js"]}
    assert site.daemon.operate("plugin.storage.export", user=A)["entries"] == []
    assert site.run("keeps-js", ["get", "a", {"common": True}], user=B) == [4]
    assert site.run("keeps-py", ["get", "a"], user=B) == [5]
    with pytest.raises(AssertionError, match="is not a UUID"):
        site.daemon.operate("plugin.storage.erase", user="someone")


@pytest.mark.slow
def test_what_a_removed_plugin_kept_is_gone_when_its_id_is_used_again(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "bundles", "comes-again", PYTHON, permissions=("data:read", "data:write"))
    with Daemon(tmp_path / "d", None, {"sandbox.min_level": "L0", "limits.timeout_ms": 60_000}) as daemon:

        def run(*steps: Any) -> list[Any]:
            payload = {"action": "x", "context": {"steps": list(steps)}}
            return list(daemon.client.invoke("comes-again", "onActionExecute", A, payload, 60_000)["result"]["result"])

        for before in (None, None):
            daemon.operate("plugin.install", path=str(folder))
            daemon.operate("plugin.enable", id="comes-again")
            assert run(["get", "a"], ["get", "a", {"common": True}]) == [before, before]
            assert run(["set", "a", 1], ["set", "a", 2, {"common": True}], ["get", "a"]) == [None, None, 1]
            assert daemon.operate("plugin.remove", id="comes-again")["keptEntries"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True], ids=["after its removal is committed", "before it is"])
def test_a_removal_that_is_cut_short_leaves_nothing_to_the_next_plugin_of_that_id(tmp_path: Path, stays: bool) -> None:
    """The registrar is killed between the two stores that a removal changes."""
    folder = write_plugin(tmp_path / "bundles", "comes-again", PYTHON, permissions=("data:read", "data:write"))
    with Daemon(tmp_path / "d", None, {"sandbox.min_level": "L0", "limits.timeout_ms": 60_000}) as daemon:
        def run(*steps: Any) -> list[Any]:
            payload = {"action": "x", "context": {"steps": list(steps)}}
            return list(daemon.client.invoke("comes-again", "onActionExecute", A, payload, 60_000)["result"]["result"])

        daemon.operate("plugin.install", path=str(folder))
        daemon.operate("plugin.enable", id="comes-again")
        assert run(["set", "a", 1], ["get", "a"]) == [None, 1]
        daemon.stop()
        daemon.env["APEXEXEC_TEST_CRASH_AT"] = "removal-noted" if stays else "row-committed"
        daemon.start()
        with contextlib.suppress(AssertionError, CallError):
            daemon.operate("plugin.remove", id="comes-again")
        daemon.stop()
        del daemon.env["APEXEXEC_TEST_CRASH_AT"]
        daemon.start()
        if not stays:
            daemon.operate("plugin.install", path=str(folder))
            daemon.operate("plugin.enable", id="comes-again")
        assert run(["get", "a"]) == [1 if stays else None]
