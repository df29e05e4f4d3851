"""The jail on this machine: what it reaches as root and unprivileged, and that a layer which lies is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.sandbox import bpf
from apex_exec.sandbox.plan import LAYERS, make_plan
from apex_exec.sandbox.probe import advice, probe
from tests.support import has_landlock, need
from workers.wire import LayerReport

ROOT = Path(__file__).parents[2]
WORKER = {"uid": 65534, "gid": 65534, "cgroup": []}
NO_CGROUP = [LayerReport("cgroup", "absent", 2, "none was given")]


def outcome(plan: dict[str, Any]) -> list[LayerReport]:
    """One trial in a process of its own: a plan with a hole must not confine, or set loose, the tests."""
    code = "import sys, msgspec; from workers.jail.trial import trial; " \
           "sys.stdout.buffer.write(msgspec.msgpack.encode(trial(*msgspec.msgpack.decode(sys.stdin.buffer.read()))))"
    done = subprocess.run([sys.executable, "-c", code], input=msgspec.msgpack.encode([plan, WORKER]), cwd=ROOT,
                          capture_output=True, timeout=30, check=True)
    reports = msgspec.msgpack.decode(done.stdout, type=list[LayerReport])
    return [report for report in reports if report.layer != "kill"]  # reported even of a child that failed early


@pytest.fixture(scope="module")
def claimed() -> list[LayerReport]:
    return probe().reports


def test_every_layer_is_reported_and_what_is_lacking_comes_with_advice(claimed: list[LayerReport]) -> None:
    assert [report.layer for report in claimed] == [*LAYERS, "kill"]
    for report in claimed:
        if report.state != "active":
            assert report.detail and advice(report)


def test_a_waived_layer_is_left_out_and_counts_for_the_minimum_only() -> None:
    findings = probe(["seccomp"])
    assert findings.waived == ["seccomp"] and findings.level == "L0"
    assert findings.accepted_level == probe().level
    assert next(r for r in findings.reports if r.layer == "seccomp").state == "waived"


def test_a_required_layer_that_cannot_be_had_ends_the_worker(claimed: list[LayerReport]) -> None:
    reports = [r for r in claimed if r.layer != "cgroup"] + [LayerReport("cgroup", "active")]
    last = outcome(make_plan(reports))[-1]
    assert (last.layer, last.state) == ("cgroup", "absent")  # claimed, and no cgroup is given


def allow_all() -> dict[str, Any]:
    everything = {"code": bpf.Program([(0x06, 0, 0, bpf.RET_ALLOW)], []).packed(), "own_pid": []}
    return {**everything, "closing": everything}


def hole(name: str) -> dict[str, Any]:
    """The real policy, but ``name`` is allowed."""
    policy = bpf.until_loaded(bpf.policy())
    policy["rules"].pop(name, None)
    for group in policy["kill"].values():
        if name in group:
            group.remove(name)
    policy["allow"]["hole"] = {name: []}
    program = bpf.compile_policy(policy, os.uname().machine)
    return {**make_plan()["seccomp"], "code": program.packed(), "own_pid": program.own_pid}


@pytest.mark.parametrize("name", ["openat", "newfstatat", "socket", "connect", "clone", "execve", "kill", "mmap",
                                  "clock_gettime", "ioctl"])
def test_the_self_test_finds_one_call_too_many_in_the_filter(claimed: list[LayerReport], name: str) -> None:
    plan = make_plan(claimed)
    plan["seccomp"] = hole(name)
    last = outcome(plan)[-1]
    assert (last.layer, last.state) == ("seccomp", "lied"), last


def test_a_filter_that_allows_all_and_a_ruleset_that_handles_nothing_are_found(claimed: list[LayerReport]) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    plan = make_plan(claimed)
    plan["seccomp"] = allow_all()
    last = outcome(plan)[-1]
    assert (last.layer, last.state) == ("seccomp", "lied"), last
    plan = make_plan(claimed)
    plan["landlock"] = [["fs", 1, 0x1]]  # EXECUTE only
    last = outcome(plan)[-1]
    assert (last.layer, last.state) == ("landlock", "lied"), last


def test_the_plan_with_a_temporary_folder_holds_and_a_lie_in_it_is_found(claimed: list[LayerReport]) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    plan = make_plan(claimed, scratch=True)
    assert [r.state for r in outcome(plan)] == [r.state for r in claimed if r.layer != "kill"]
    plan["scratch"]["seccomp"] = allow_all()
    last = outcome(plan)[-1]
    assert (last.layer, last.state) == ("seccomp", "lied"), last
    plan = make_plan(claimed, scratch=True)
    plan["landlock"] = [["fs", 1, 0x3]]  # EXECUTE and WRITE_FILE only
    last = outcome(plan)[-1]
    assert (last.layer, last.state) == ("landlock", "lied"), last


def test_where_the_root_is_the_machines_a_temporary_folder_opens_nothing(claimed: list[LayerReport]) -> None:
    reports = [r for r in claimed if r.layer != "namespaces"] + [LayerReport("namespaces", "absent", 1, "none")]
    plan = make_plan(reports, scratch=True)
    plan["scratch"]["landlock"] = 0xFFFF
    plan["scratch"]["seccomp"] = allow_all()  # neither is looked at
    assert {r.layer: r.state for r in outcome(plan)}["selftest"] == "active"


def test_a_trial_of_the_plan_in_force_holds(claimed: list[LayerReport]) -> None:
    assert [r.state for r in outcome(make_plan(claimed))] == [r.state for r in claimed if r.layer != "kill"]
