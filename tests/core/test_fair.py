"""Fairness between plugins on a played clock: hostile ones that ask for all they can get, in pieces of any cost."""

from __future__ import annotations

import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.core import fair
from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS, SECOND_NS

BURST_NS = 10 * MS_NS


class Desk:
    """One process that does work for owners and sleeps where none may be served; it keeps book of who had what."""

    def __init__(self, share: float) -> None:
        self.queue: FairQueue[tuple[int, int]] = FairQueue(BURST_NS, share)
        self.now_ns = 10**12
        self.used_ns: dict[str, int] = defaultdict(int)
        self.waited_ns: dict[str, list[int]] = defaultdict(list)
        self.idle_ns = 0

    def ask(self, owner: str, cost_ns: int) -> None:
        self.queue.push(owner, (cost_ns, self.now_ns), self.now_ns)

    def work(self, until_ns: int) -> bool:
        """One piece, or sleep until one may be done; False once it is ``until_ns``."""
        found = self.queue.pop(self.now_ns)
        if found is None:
            due_ns = self.queue.next_due_ns(self.now_ns)
            assert due_ns is None or due_ns > self.now_ns, "nothing was given although something was due"
            wake_ns = until_ns if due_ns is None else min(due_ns, until_ns)
            self.idle_ns += max(0, wake_ns - self.now_ns)
            self.now_ns = max(self.now_ns, wake_ns)
            return self.now_ns < until_ns
        owner, (cost_ns, asked_ns) = found
        self.waited_ns[owner].append(self.now_ns - asked_ns)
        self.now_ns += cost_ns
        self.used_ns[owner] += cost_ns
        self.queue.spend(owner, cost_ns, self.now_ns)
        return self.now_ns < until_ns


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from((0.02, 0.1, 0.5)), st.integers(1, 8))
def test_a_hostile_owner_gets_its_share_and_one_piece_more_however_it_cuts_its_work(
        seed: int, share: float, hostile: int) -> None:
    rnd = random.Random(seed)
    desk = Desk(share)
    costs = {f"h{n}": rnd.choice((200_000, 2 * MS_NS, 9 * MS_NS, 130 * MS_NS)) for n in range(hostile)}
    begun_ns, end_ns = desk.now_ns, desk.now_ns + 8 * SECOND_NS
    while True:
        for owner, cost_ns in costs.items():
            account = desk.queue._accounts.get(owner)
            if account is None or len(account.items) < 3:
                desk.ask(owner, cost_ns)
        if not desk.work(end_ns):
            break
    passed_ns = desk.now_ns - begun_ns
    for owner, cost_ns in costs.items():
        assert desk.used_ns[owner] <= share * passed_ns + BURST_NS + cost_ns + 1
        if hostile * share < 0.9 and max(costs.values()) < 10 * MS_NS:
            assert desk.used_ns[owner] >= 0.9 * share * passed_ns - cost_ns, "it has a right to its share"
    assert desk.idle_ns >= (1 - hostile * share) * passed_ns - hostile * (BURST_NS + max(costs.values()))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_a_modest_owner_waits_for_no_more_than_one_piece_of_each_other(seed: int, hostile: int) -> None:
    """Without buckets, at a process that is never idle: the order alone protects."""
    rnd = random.Random(seed)
    desk = Desk(1.0)
    costs = {f"h{n}": rnd.choice((200_000, MS_NS, 5 * MS_NS)) for n in range(hostile)}
    end_ns = desk.now_ns + 2 * SECOND_NS
    ask_at_ns = desk.now_ns
    while True:
        for owner, cost_ns in costs.items():
            account = desk.queue._accounts.get(owner)
            for _ in range(20 - len(account.items) if account else 20):
                desk.ask(owner, cost_ns)
        if desk.now_ns >= ask_at_ns:
            desk.ask("modest", 20_000)
            ask_at_ns = desk.now_ns + rnd.randrange(5, 40) * hostile * MS_NS
        if not desk.work(end_ns):
            break
    assert max(desk.waited_ns["modest"]) <= sum(costs.values()) + fair.EXPECTED_NS


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_owners_that_always_want_more_get_the_same_time_whatever_their_pieces_cost(seed: int) -> None:
    rnd = random.Random(seed)
    desk = Desk(1.0)
    costs = {f"h{n}": rnd.randrange(200_000, 3 * MS_NS) for n in range(5)}
    end_ns = desk.now_ns + 3 * SECOND_NS
    while True:
        for owner, cost_ns in costs.items():
            account = desk.queue._accounts.get(owner)
            for _ in range(5 - len(account.items) if account else 5):
                desk.ask(owner, cost_ns)
        if not desk.work(end_ns):
            break
    used = [desk.used_ns[owner] for owner in costs]
    assert max(used) - min(used) <= 2 * (max(costs.values()) + fair.EXPECTED_NS)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9), st.integers(-(10**9), 10**10)), max_size=60))
def test_every_item_comes_out_once_and_in_its_owners_order_whatever_the_clock_does(
        moves: list[tuple[str, int, int]]) -> None:
    queue: FairQueue[int] = FairQueue(BURST_NS, 0.1)
    now_ns, put, got = 0, defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for number, (owner, cost_ns, passed_ns) in enumerate(moves):
        now_ns += passed_ns
        queue.push(owner, number, now_ns)
        put[owner].append(number)
        queue.spend(owner, cost_ns, now_ns)
        if number % 3 == 0 and (found := queue.pop(now_ns)) is not None:
            got[found[0]].append(found[1])
    while queue.size:
        found = queue.pop(now_ns)
        if found is None:
            due_ns = queue.next_due_ns(now_ns)
            assert due_ns is not None and due_ns > now_ns
            now_ns = due_ns
        else:
            got[found[0]].append(found[1])
    assert {owner: items for owner, items in got.items() if items} == dict(put)
    assert queue.next_due_ns(now_ns) is None or queue.pop(now_ns) is None


def test_rest_is_not_saved_up_and_a_whole_core_is_never_in_debt() -> None:
    queue: FairQueue[int] = FairQueue(BURST_NS, 0.1)
    queue.spend("a", BURST_NS // 2, 0)
    queue.spend("a", BURST_NS, 100 * SECOND_NS)
    assert queue.wait_ns("a", 100 * SECOND_NS) == 0
    queue.spend("a", MS_NS, 100 * SECOND_NS)
    assert queue.wait_ns("a", 100 * SECOND_NS) == 10 * MS_NS + 1
    assert queue.wait_ns("a", 100 * SECOND_NS + 10 * MS_NS + 2) == 0
    queue.tune("a", 1.0, 200 * SECOND_NS)
    queue.spend("a", SECOND_NS, 200 * SECOND_NS)
    assert queue.wait_ns("a", 200 * SECOND_NS) == 0
    queue.tune("a", 0.0, 200 * SECOND_NS)
    assert queue.wait_ns("a", 200 * SECOND_NS) > 0, "no share is too small to be divided by"


def test_an_owner_that_is_gone_leaves_nothing_behind_and_many_do_not_pile_up() -> None:
    queue: FairQueue[int] = FairQueue(BURST_NS, 0.1)
    queue.push("a", 1, 0)
    queue.forget("a")
    assert queue.size == 0 and queue.pop(0) is None
    for number in range(3 * fair.OWNERS_KEPT):
        queue.spend(f"p{number}", 1000, number * MS_NS)
    assert len(queue._accounts) <= fair.OWNERS_KEPT


def test_an_owner_that_is_stopped_or_held_waits_and_others_do_not() -> None:
    queue: FairQueue[int] = FairQueue(BURST_NS, 0.1)
    queue.stop("a", 0)
    queue.push("a", 1, 0)
    queue.push("b", 2, 0)
    assert queue.pop(0) == ("b", 2) and queue.pop(0) is None and queue.next_due_ns(0) is None
    assert queue.wait_ns("a", 0) == fair.NEVER_NS
    queue.defer("a", 5 * MS_NS, 0)
    queue.go("a", 0)
    assert queue.pop(0) is None and queue.next_due_ns(0) == 5 * MS_NS == queue.wait_ns("a", 0)
    assert queue.pop(5 * MS_NS) == ("a", 1)
