"""Levels follow from layers; a worker's uid is its own."""

from __future__ import annotations

import pytest

from apex_exec.sandbox.plan import LAYERS, Identities, level_of, make_plan
from workers.wire import LayerReport

ALL = dict.fromkeys(LAYERS, "active")


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "L4"),
        ({"cgroup": "absent"}, "L3"),
        ({"namespaces": "absent"}, "L2"),
        ({"identity": "degraded", "cgroup": "absent"}, "L3"),
        ({"landlock": "degraded"}, "L2"),
        ({"landlock": "absent"}, "L2"),
        ({"landlock": "absent", "identity": "absent"}, "L2"),
        ({"landlock": "absent", "namespaces": "absent"}, "L1"),
        ({"landlock": "lied", "namespaces": "lied"}, "L1"),
        ({"seccomp": "absent"}, "L0"),
        ({"seccomp": "waived"}, "L0"),
        ({"pdeathsig": "absent"}, ""),
        ({"selftest": "absent"}, ""),
    ],
)
def test_a_level_needs_all_its_layers_and_those_below(changes: dict[str, str], level: str) -> None:
    assert level_of({**ALL, **changes}) == level


def test_a_waiver_excuses_a_layer_from_the_minimum_and_never_from_the_report() -> None:
    states = {**ALL, "namespaces": "waived"}
    assert level_of(states) == "L2" and level_of(states, ["namespaces"]) == "L4"


def test_the_plan_requires_what_the_probe_saw_and_names_what_it_did_not() -> None:
    reports = [LayerReport(name, "active") for name in LAYERS if name not in ("cgroup", "identity")]
    reports += [LayerReport("identity", "degraded", 1, "shared"), LayerReport("cgroup", "absent", 2, "none")]
    layers = make_plan(reports, ["landlock"])["layers"]
    assert layers["seccomp"] == ("required", ["active"]) and layers["identity"] == ("required", ["active", "degraded"])
    assert layers["cgroup"] == ("absent", [2, "none"]) and layers["landlock"][0] == "waived"
    assert {mode for mode, _ in make_plan()["layers"].values()} == {"try"}


def test_no_two_living_workers_share_a_uid() -> None:
    identities = Identities(1000, 1002)
    assert [identities.take(worker) for worker in (1, 2, 3)] == [1000, 1001, 1002]
    with pytest.raises(RuntimeError):
        identities.take(4)
    identities.free(2)
    identities.free(99)
    assert identities.take(5) == 1001
