"""How far an upgrade is, read off what registry and supervisor say."""

from __future__ import annotations

from typing import Any

from apex_exec.console.upgrades import KEPT_MAX, STEPS, Upgrade, Upgrades

BEFORE: dict[str, Any] = {"version": "1.0.0", "versions": [{"version": "1.0.0", "digest": "a", "state": "installed"}]}


def upgrade(plugin: str = "sample") -> Upgrade:
    return Upgrade(plugin, "olga", BEFORE, 100, 5.0)


def known(state: str, version: str = "1.1.0", digest: str = "b") -> dict[str, Any]:
    return {**BEFORE, "versions": [*BEFORE["versions"], {"version": version, "digest": digest, "state": state}]}


def states(one: Upgrade) -> list[str]:
    return [step.state for step in one.steps()]


def test_each_step_begins_with_what_the_daemon_says_and_none_is_taken_back() -> None:
    one = upgrade()
    assert states(one) == ["done", "now", "waits", "waits", "waits"]
    one.look(BEFORE, None)
    assert states(one)[1] == "now"
    one.look(known("registered"), {"trial": None})
    assert states(one)[:3] == ["done", "done", "now"]
    one.look(known("validated"), {"trial": {"version": "1.1.0", "worker": "starting"}})
    assert states(one)[:4] == ["done", "done", "done", "now"]
    assert one.steps()[3].note == "version 1.1.0: its worker is starting"
    one.look(BEFORE, None)
    assert states(one)[3] == "now", "a look at a moment between two rows takes nothing back"
    one.result = {"waiting": [], "version": "1.1.0"}
    assert states(one) == ["done"] * len(STEPS)


def test_a_mended_bundle_of_a_refused_version_is_a_new_row() -> None:
    one = Upgrade("sample", "olga", known("registered", digest="refused"), 1, 0.0)
    one.look(known("registered", digest="refused"), None)
    assert states(one)[1] == "now"
    one.look(known("validated", digest="mended"), None)
    assert states(one)[3] == "now"


def test_what_went_wrong_stands_at_the_step_it_went_wrong_at() -> None:
    one = upgrade()
    one.look(known("validated"), None)
    one.problem = "KeyError"
    assert [(step.state, step.note) for step in one.steps()[2:]] == [
        ("done", ""), ("failed", "KeyError"), ("waits", "")]
    waiting = upgrade()
    waiting.result = {"waiting": [{"permission": "admin:users"}], "version": "1.0.0", "next": "1.1.0"}
    assert states(waiting) == ["done", "done", "done", "now", "waits"]


def test_a_plugin_has_one_upgrade_at_a_time_and_few_are_remembered() -> None:
    kept, first = Upgrades(), upgrade()
    assert kept.add(first) and not kept.add(upgrade())
    first.ended = 9.0
    assert (first.seconds(99.0), upgrade().seconds(6.0)) == (4.0, 1.0)
    for number in range(KEPT_MAX):
        other = upgrade(f"other-{number}")
        other.ended = 1.0
        assert kept.add(other)
    assert kept.get("sample") is None and kept.get("other-1") is not None
