"""The requests of the last minute of a plugin that changes its owner, between real daemons: ``fleet.new_owner``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from apex_exec.core.owners import owners, slot_of
from tests.support.daemon import USER, wait_for, write_plugin
from tests.support.fleet import LocalFleet

NAMES = [f"plugin-{number}" for number in range(8)]
LIMIT = 6
MINUTE_SECONDS, CALL_SECONDS, MARGIN_SECONDS = 60, 5, 3
ASKS = '''
from workers import ApiError

@plugin.hook("onDashboardLoad")
async def load(context, params):
    try:
        await context.api.fetch("https://not-allowed.example/")
    except ApiError as error:
        return {"customWidgets": [{"id": "w", "component": "W", "props": {
            "code": error.code, "wait": error.retry_after_ms}}]}
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    for name in NAMES:
        write_plugin(tmp_path / "plugins", name, ASKS, ("onDashboardLoad",), ("network:fetch", "ui:render"),
                     network={"allow": ["allowed.example"]}, limits={"networkPerMinute": LIMIT})
    return tmp_path / "plugins"


def fleet_of(plugins: Path, count: int, new_owner: str) -> LocalFleet:
    policy = plugins.parent / "policy.toml"
    policy.write_text("".join(f'[plugin.{name}]\nallow = ["network:fetch", "ui:render"]\n' for name in NAMES))
    return LocalFleet(plugins, count, {
        "fleet.new_owner": new_owner, "fetch.allow": ["allowed.example"], "security.policy_file": str(policy),
        "limits.timeout_ms": CALL_SECONDS * 1000, "limits.cpu_percent": 100})


def ask(client: Client, plugin: str) -> dict[str, Any]:
    """What one request of the plugin was answered. A request that is not allowed counts as any other."""
    due = time.monotonic() + 60
    while True:
        try:
            reply = client.invoke(plugin, "onDashboardLoad", USER, {"dashboardId": "d"})
            break
        except CallError as error:  # the owner is on its way out, or the machine is busy
            assert not error.started or error.code in ("NODE_LOST", "TIMEOUT"), error
            assert time.monotonic() < due, error
    found: dict[str, Any] = reply["result"]["customWidgets"][0]["props"]
    return found


def passed(client: Client, plugin: str, times: int) -> int:
    """How many of ``times`` requests were not over the limit; after one that was, none passes."""
    codes = [ask(client, plugin)["code"] for _ in range(times)]
    count = codes.count("host_not_allowed")
    assert codes == ["host_not_allowed"] * count + ["rate_limited"] * (times - count), codes
    return count


def elsewhere(fleet: LocalFleet) -> tuple[str, str]:
    """(a plugin that another node than ``a`` owns, that node)."""
    plugin = next(name for name in NAMES if fleet.owner(name) != "a")
    return plugin, fleet.owner(plugin)


def twice_elsewhere(fleet: LocalFleet) -> str:
    """A plugin that another node than ``a`` owns, and whose next owner is not ``a`` either."""
    def next_owner(plugin: str) -> str:
        return owners({name: 1.0 for name in fleet.names if name != fleet.owner(plugin)})[slot_of(plugin)]

    return next(name for name in NAMES if "a" not in (fleet.owner(name), next_owner(name)))


def test_an_owner_that_is_drained_hands_over_what_it_has_counted_and_gets_it_back(plugins: Path) -> None:
    with fleet_of(plugins, 2, "afresh") as fleet, Client(fleet.nodes["a"].endpoint) as client:
        plugin, owner = elsewhere(fleet)
        assert passed(client, plugin, 2) == 2
        fleet.nodes["a"].operate("fleet.drain", node=owner)
        wait_for(lambda: {fleet.owner(plugin, at) for at in "ab"} == {"a"}, 30, "the next owner")
        assert passed(client, plugin, 2) == 2
        fleet.nodes["a"].operate("fleet.rebalance")
        wait_for(lambda: {fleet.owner(plugin, at) for at in "ab"} == {owner}, 30, "its own plugin again")
        assert passed(client, plugin, 4) == LIMIT - 4, "both nodes' requests are of one minute"


@pytest.mark.system
def test_afresh_an_owner_that_was_killed_takes_its_count_with_it_once(plugins: Path) -> None:
    with fleet_of(plugins, 2, "afresh") as fleet, Client(fleet.nodes["a"].endpoint) as client:
        plugin, owner = elsewhere(fleet)
        assert passed(client, plugin, LIMIT + 1) == LIMIT
        fleet.nodes[owner].kill()
        assert passed(client, plugin, LIMIT + 1) == LIMIT, "at most twice the limit, once"


@pytest.mark.system
def test_with_wait_a_new_owner_refuses_until_the_minute_is_over_and_says_how_long(plugins: Path) -> None:
    with fleet_of(plugins, 2, "wait") as fleet, Client(fleet.nodes["a"].endpoint) as client:
        plugin, owner = elsewhere(fleet)
        whole = (MINUTE_SECONDS + CALL_SECONDS + MARGIN_SECONDS) * 1000
        first = ask(client, plugin)
        assert first["code"] == "rate_limited" and 0 < first["wait"] <= whole, "the fleet itself has just begun"
        time.sleep(1)
        fleet.nodes[owner].kill()
        again = ask(client, plugin)
        assert again["code"] == "rate_limited" and first["wait"] < again["wait"] <= whole, "nobody could hand it over"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_wait_no_minute_has_more_than_the_limit_through_a_drain_and_a_kill(plugins: Path) -> None:
    with fleet_of(plugins, 3, "wait") as fleet, Client(fleet.nodes["a"].endpoint) as client:
        plugin = twice_elsewhere(fleet)
        times: list[float] = []
        done: list[str] = []
        begun = time.monotonic()
        while time.monotonic() < begun + 240 and (len(done) < 2 or time.monotonic() < begun + 215):
            answer = ask(client, plugin)
            if answer["code"] == "host_not_allowed":
                times.append(time.monotonic())
            else:  # as long as it says: a try that is refused counts, and who keeps trying keeps waiting
                time.sleep(answer["wait"] / 1000 + 0.1)
            if not done and len(times) == LIMIT // 2:
                fleet.nodes["a"].operate("fleet.drain", node=fleet.owner(plugin))
                done.append("drained")
            elif done == ["drained"] and len(times) == LIMIT + 2:
                assert fleet.owner(plugin) != "a"
                fleet.nodes[fleet.owner(plugin)].kill()
                done.append("killed")
        for at in range(len(times) - LIMIT):
            assert times[at + LIMIT] - times[at] >= MINUTE_SECONDS - 1, [round(one - begun, 1) for one in times]
        print(f"{done}: requests at {[round(one - begun) for one in times]} s")  # noqa: T201
        assert len(times) >= 2 * LIMIT, "each change of hands costs its wait, and not the service"
