"""Hostile plugins against real daemons: what each level promises, layer by layer, seen from outside."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import pytest

from tests.attack.campaign import USERS, campaign, close_worlds, containment
from tests.attack.catalogue import ATTACKS, Attack
from tests.attack.contained import CONTAINED, Contained
from tests.support import need

ROWS = [pytest.param(user, attack, id=f"{user}-{attack.name}") for user in USERS for attack in ATTACKS
        if attack.who == "any" or user == "root"]
pytestmark = pytest.mark.timeout(300)  # the first test of a configuration waits for the whole of its campaign


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    need(platform.machine() == "x86_64", "the attacks by raw system call are written for x86_64")
    need(os.geteuid() == 0, "running daemons as root and as another user takes root")
    yield
    close_worlds()


@pytest.mark.slow
@pytest.mark.parametrize(("user", "attack"), ROWS)
def test_without_the_layers_the_attack_comes_through(user: str, attack: Attack) -> None:
    through, told, _ = campaign(user, "none")
    assert through[attack.name], f"the attack proves nothing: {told[attack.name]}"


@pytest.mark.parametrize(("user", "attack"), ROWS)
@pytest.mark.parametrize("configuration", [
    "full", pytest.param("L2", marks=pytest.mark.slow), pytest.param("L1", marks=pytest.mark.slow)])
def test_at_each_level_with_seccomp_nothing_comes_through(user: str, attack: Attack, configuration: str) -> None:
    through, told, level = campaign(user, configuration)
    if configuration == "full":
        need(level >= "L3", f"this machine gives {user} {level}")
    else:
        need(level == configuration, f"this machine gives {user} {level}")
    assert not through[attack.name], told[attack.name]


@pytest.mark.slow
@pytest.mark.parametrize(("user", "attack"), ROWS)
def test_each_layer_that_is_said_to_stop_it_does_so_alone(user: str, attack: Attack) -> None:
    for layer in attack.stops:
        if layer == "memory" or (layer == "identity" and user != "root"):
            continue  # the memory limit is not a layer; an unprivileged daemon's workers have its own uid
        through, told, _ = campaign(user, f"only {layer}")
        assert not through[attack.name], f"{layer}: {told[attack.name]}"


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("attack", "answer"), [
    ("an x32 call reaches the kernel, raw", "SIGSYS"), ("AF_ALG reaches the kernel, raw", "Operation not permitted"),
    ("AF_VSOCK reaches the kernel, raw", "Operation not permitted"),
    ("listen to the hypervisor (AF_VSOCK)", "Operation not permitted")])
def test_what_a_kernel_may_lack_is_answered_by_the_filter_before_it(user: str, attack: str, answer: str) -> None:
    _, told, _ = campaign(user, "only seccomp")
    assert answer in told[attack], told[attack]


@pytest.mark.parametrize("user", ["root", pytest.param("unprivileged", marks=pytest.mark.slow)])
@pytest.mark.parametrize("row", CONTAINED, ids=[row.name for row in CONTAINED])
def test_what_no_layer_stops_harms_nobody_else(user: str, row: Contained) -> None:
    found, log = containment(user)
    code, result, well = found[row.name]
    assert well, "the daemon or another plugin suffered"
    assert code in row.codes, (code, result)
    if code == "ok":
        assert result == "ran"
    assert not row.log or row.log not in log


def test_there_are_at_least_seventy_and_every_category() -> None:
    assert len(ATTACKS) + len(CONTAINED) >= 70 and len(ATTACKS) >= 70
    assert {row.category for row in (*ATTACKS, *CONTAINED)} >= {
        "file system", "network", "processes", "kernel", "exhaustion", "transport", "Python"}
