"""Who owns which plugin: evenly, the same everywhere, and with as few moves as there can be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.membership import Membership
from apex_exec.core.owners import BOUND, SLOTS, WEIGHT_RATIO_MAX, bounded, owners, slot_of
from apex_exec.core.tenure import Tenure

PLUGINS = [f"plugin-{number}" for number in range(10_000)]
NAMES = st.lists(st.text("abcdefgh0123456789.-", min_size=1, max_size=20), min_size=2, max_size=8, unique=True)


def owned(members: dict[str, float]) -> dict[str, str]:
    slots = owners(members)
    return {plugin: slots[slot_of(plugin)] for plugin in PLUGINS}


@pytest.mark.parametrize("prefix", ["node-", "apex-exec-", "10.0.0.", "z"])
def test_ten_thousand_plugins_spread_evenly_over_three_nodes(prefix: str) -> None:
    counts = Counter(owned({f"{prefix}{number}": 4.0 for number in range(3)}).values())
    assert len(counts) == 3
    assert all(abs(count - 10_000 / 3) <= 10_000 / 3 * 0.1 for count in counts.values()), counts


@pytest.mark.parametrize("count", [3, 5, 10])
def test_a_leaving_node_moves_little_more_than_its_own(count: int) -> None:
    members = {f"node-{number}": 1.0 for number in range(count)}
    before = owned(members)
    for leaving in members:
        after = owned({name: 1.0 for name in members if name != leaving})
        moved = sum(before[plugin] != after[plugin] for plugin in PLUGINS) / len(PLUGINS)
        assert moved <= 1 / count + 0.02, (leaving, moved)


@settings(max_examples=25, deadline=None)
@given(NAMES, st.data())
def test_the_map_is_the_same_whoever_makes_it_and_nobody_has_more_than_the_bound(names: list[str],
                                                                                  data: st.DataObject) -> None:
    weights = {name: data.draw(st.floats(0.5, 16)) for name in names}
    slots = owners(weights)
    assert slots == owners(dict(reversed(weights.items())))
    counted = bounded(weights)
    total = sum(counted.values())
    for name, count in Counter(slots).items():
        assert count <= BOUND * SLOTS * counted[name] / total + 1


def test_a_heavier_node_owns_in_proportion_and_a_liar_no_more_than_the_bound() -> None:
    counts = Counter(owners({"a": 1.0, "b": 1.0, "c": 2.0}))
    assert 0.45 * SLOTS < counts["c"] < 0.56 * SLOTS
    lying = Counter(owners({"a": 1.0, "b": 1.0, "liar": 1e9}))
    share = WEIGHT_RATIO_MAX / (WEIGHT_RATIO_MAX + 2)
    assert lying["liar"] <= share * SLOTS * BOUND + 1 and lying["a"] > 0.07 * SLOTS
    for nonsense in (float("inf"), float("nan"), 0.0, -5.0):
        assert 0.25 * SLOTS < Counter(owners({"a": 1.0, "b": 1.0, "c": nonsense}))["c"] < 0.4 * SLOTS


def test_no_member_no_owner() -> None:
    assert owners({}) == () and Membership("a", 1, executes=False).owner("x") == ""


def fleet() -> Membership:
    node = Membership("a", 1.0, executes=True)
    assert node.roster({"b": 1.0, "c": 1.0, "a": 1.0}) == (["b", "c"], [])
    node.become("serving")
    node.said("b", "serving")
    node.said("c", "serving")
    return node


def test_what_a_lost_node_owned_goes_to_the_others_at_once_and_comes_back() -> None:
    node = fleet()
    before = {plugin: node.owner(plugin) for plugin in PLUGINS[:500]}
    assert set(before.values()) == {"a", "b", "c"}
    assert node.lost("b") and not node.lost("b")
    after = {plugin: node.owner(plugin) for plugin in before}
    assert set(after.values()) == {"a", "c"}
    assert sum(before[p] != after[p] for p in before if before[p] != "b") <= 10
    assert node.said("b", "serving")
    assert {plugin: node.owner(plugin) for plugin in before} == before
    assert node.said("b", "leaving") and "b" not in {node.owner(plugin) for plugin in before}
    assert not node.said("stranger", "serving")


def test_a_router_owns_nothing_and_a_node_that_left_the_roster_neither() -> None:
    node = fleet()
    node.said("c", "serving", executes=False)
    assert set(node.slots) == {"a", "b"}
    assert node.roster({"c": 1.0}) == ([], ["b"])
    assert set(node.slots) == {"a"}


def test_a_new_owner_waits_unless_the_previous_one_hands_over() -> None:
    everything_mine, theirs = ["a"] * SLOTS, ["b"] * SLOTS
    old, new = Tenure("b", 60), Tenure("a", 60)
    assert old.follow(theirs, 0) == {} and old.closed_ns(7, 59) == 1 and old.closed_ns(7, 60) == 0
    assert new.closed_ns(7, 1000) == 60
    assert new.follow(everything_mine, 1000) == {} and new.closed_ns(7, 1000) == 60
    lost = old.follow(everything_mine, 1000)
    assert list(lost) == ["a"] and len(lost["a"]) == SLOTS
    left_ns = old.close(lost["a"], 1000)
    assert left_ns == 0
    assert old.closed_ns(7, 1000) == 60 and old.follow(everything_mine, 1001) == {}
    new.handed([7], left_ns, 1000)
    assert new.closed_ns(7, 1000) == 0 and new.closed_ns(8, 1000) == 60


def test_who_waits_itself_hands_the_rest_of_its_wait_over() -> None:
    old, new = Tenure("b", 60), Tenure("a", 60)
    old.follow(["b"] * SLOTS, 1000)
    new.follow(["a"] * SLOTS, 1010)
    assert old.close(range(SLOTS), 1010) == 50
    new.handed(range(SLOTS), 50, 1010)
    assert new.closed_ns(0, 1059) == 1 and new.closed_ns(0, 1060) == 0
    new.handed(range(SLOTS), 10_000, 1060)
    assert new.closed_ns(0, 1060) == 0, "a late hand-over closes nothing"


def test_afresh_opens_at_once() -> None:
    new = Tenure("a", 0)
    new.follow(["a"] * SLOTS, 5)
    assert new.closed_ns(0, 5) == 0
    assert Tenure("a", 0).closed_ns(0, 5) == 1 < NEVER_NS
