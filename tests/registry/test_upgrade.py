"""Upgrade and rollback by their rows: what is checked, what is tried, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import pack
from tests.registry.conftest import Stage
from tests.support.bundles import bundle
from tests.support.daemon import USER


def upgrade(stage: Stage, version: str, **changes: object) -> dict[str, object]:
    made: dict[str, object] = stage.run("plugin.upgrade", bundle=pack(bundle(version=version)), **changes)
    return made


@pytest.fixture
def running(stage: Stage) -> Stage:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    return stage


def test_an_upgrade_tries_the_new_version_beside_the_old_one_and_then_switches(running: Stage) -> None:
    result = upgrade(running, "1.1.0")
    assert (result["version"], result["previous"], result["state"]) == ("1.1.0", "1.0.0", "enabled")
    kind, params = running.asked[-1]
    assert kind == "canary" and params["spec"]["version"] == "1.1.0" and params["hook"] == "onDashboardLoad"
    assert running.served["sample"].version == "1.1.0"
    assert upgrade(running, "1.1.0")["changed"] is False


def test_a_failing_canary_leaves_the_old_version(running: Stage) -> None:
    running.fails["canary"] = Refusal("plugin_error", "KeyError: 'x'")
    refusal = running.refused("plugin.upgrade", bundle=pack(bundle(version="1.1.0")))
    assert refusal.reason == "canary_failed" and "KeyError" in refusal.message
    assert "1.0.0 is still served" in refusal.message
    assert running.served["sample"].version == "1.0.0"
    del running.fails["canary"]
    assert upgrade(running, "1.1.0")["version"] == "1.1.0"  # the same bundle again


def test_the_trial_call_can_be_chosen_or_left_out(running: Stage) -> None:
    upgrade(running, "1.1.0", hook="none")
    assert "hook" not in running.asked[-1][1]
    upgrade(running, "1.2.0", hook="onDashboardLoad", payload={"dashboardId": "x"}, user=USER)
    assert (running.asked[-1][1]["payload"], running.asked[-1][1]["userId"]) == ({"dashboardId": "x"}, USER)
    assert running.refused("plugin.upgrade", bundle=pack(bundle(version="1.3.0")), hook="onX").reason == \
        "hook_not_declared"


@pytest.mark.parametrize("trial", [{"payload": {"dashboard": 1}}, {"user": "u"}, {"payload": {
    "dashboardId": "x", "userId": "22222222-2222-4333-8444-555555555555"}, "user": USER}])
def test_a_trial_that_no_host_could_ask_for_is_the_callers_fault_and_not_the_plugins(running: Stage,
                                                                                     trial: dict[str, Any]) -> None:
    refusal = running.refused("plugin.upgrade", bundle=pack(bundle(version="1.1.0")), hook="onDashboardLoad", **trial)
    assert refusal.reason == "bad_trial"
    assert [row["reason"] for row in running.run("plugin.show", id="sample")["versions"]] == ["", ""]
    assert upgrade(running, "1.1.0")["version"] == "1.1.0"


def test_what_is_not_newer_or_not_installed_is_not_an_upgrade(running: Stage) -> None:
    assert running.refused("plugin.upgrade", bundle=pack(bundle(version="0.9.0"))).reason == "not_newer"
    assert running.refused("plugin.upgrade", bundle=pack(bundle("changed"))).reason == "not_newer"
    assert running.refused("plugin.upgrade", bundle=pack(bundle(id="other"))).reason == "plugin_not_found"


def test_three_versions_are_kept_and_a_rollback_goes_to_the_one_before_or_to_one_by_name(running: Stage) -> None:
    for minor in range(1, 5):
        running.later(1)
        upgrade(running, f"1.{minor}.0")
    shown = running.run("plugin.show", id="sample")
    assert [v["version"] for v in shown["versions"]] == ["1.2.0", "1.3.0", "1.4.0"]
    assert len(running.context.blobs.digests()) == 3
    running.later(1)
    assert running.run("plugin.rollback", id="sample")["version"] == "1.3.0"
    running.later(1)
    assert running.run("plugin.rollback", id="sample", version="1.2.0")["version"] == "1.2.0"
    assert running.served["sample"].version == "1.2.0"
    assert running.refused("plugin.rollback", id="sample", version="1.0.0").reason == "nothing_to_roll_back_to"
    assert running.run("plugin.rollback", id="sample", version="1.2.0")["changed"] is False


def test_a_revoked_version_is_not_rolled_back_to(running: Stage) -> None:
    upgrade(running, "1.1.0")
    running.run("plugin.revokeVersion", digest=bundle().digest, reason="malware")
    assert running.served["sample"].state == "enabled"  # it is not the one that is served
    assert running.refused("plugin.rollback", id="sample").reason == "nothing_to_roll_back_to"


def test_an_upgrade_ends_the_quarantine_of_the_old_version(running: Stage) -> None:
    running.run("plugin.quarantine", id="sample", reason="broken")
    assert upgrade(running, "1.1.0")["state"] == "disabled"
    assert running.run("plugin.enable", id="sample")["state"] == "enabled"


def test_a_plugin_that_is_removed_during_the_trial_is_not_brought_back(running: Stage) -> None:
    ask = running.context.ask

    def remove_meanwhile(kind: str, params: dict[str, object], seconds: float) -> object:
        if kind == "canary":
            running.run("plugin.remove", id="sample")
        return ask(kind, params, seconds)

    running.change(ask=remove_meanwhile)
    assert running.refused("plugin.upgrade", bundle=pack(bundle(version="1.1.0"))).reason == "plugin_not_found"
    assert "sample" not in running.served and running.asked[-1][0] == "drop"


def test_of_two_upgrades_at_once_the_second_to_finish_changes_nothing(running: Stage) -> None:
    ask = running.context.ask
    begun: list[str] = []

    def another_meanwhile(kind: str, params: dict[str, object], seconds: float) -> object:
        if kind == "canary" and not begun:
            begun.append(kind)
            upgrade(running, "1.2.0")
        return ask(kind, params, seconds)

    running.change(ask=another_meanwhile)
    assert running.refused("plugin.upgrade", bundle=pack(bundle(version="1.1.0"))).reason == "changed_meanwhile"
    assert running.served["sample"].version == "1.2.0"
