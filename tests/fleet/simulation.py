"""A fleet of the pure parts, under everything that a network, a machine and a clock can do: one history a seed.

Each node has the product's own ``Membership``, ``Tenure`` and ``SharedWindow``; the world has links with delays, silent
cuts, kills, restarts and drains, and hosts that call. Each node's clock is skewed against the world's. What is judged
is judged on the world's clock: at most one run of a call, one reply, the limit of requests in any minute, and how long
a plugin is without an owner.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

from apex_exec.core import owners, tenure
from apex_exec.core.membership import Membership
from apex_exec.core.owners import slot_of
from apex_exec.core.rate_window import MINUTE_NS, SharedWindow
from apex_exec.core.tenure import Tenure

SECOND = 1_000_000_000
LOST_NS = SECOND
"""A cut link is known after this time, at either end."""
CALL_NS = 5 * SECOND
MARGIN_NS = 3 * SECOND
WAIT_NS = MINUTE_NS + CALL_NS + MARGIN_NS
LIMIT = 5
OWNERLESS_NS_MAX = 2 * SECOND
PLUGINS = ("alpha", "beta", "gamma")


class Node:
    """One daemon. ``born`` tells one life from the next: what is sent to a life that has ended goes nowhere."""

    def __init__(self, name: str, skew_ns: int, names: list[str], born: int) -> None:
        self.name = name
        self.skew_ns = skew_ns
        self.born = born
        self.alive = True
        self.members = Membership(name, 1.0, executes=True)
        self.members.roster({other: 1.0 for other in names if other != name})
        self.tenure = Tenure(name, WAIT_NS)
        self.windows: dict[str, SharedWindow] = {}
        self.up: set[str] = set()
        """The nodes to which its own link is up: of no other does it believe what it says, since that may be the last
        word of a life that has ended, on a connection that the other has made."""
        self.out: dict[int, str] = {}
        self.mapped = -1


class World:
    """One history. ``mutant`` breaks a promise on purpose, to see that it would be seen."""

    def __init__(self, seed: int, mutant: str = "") -> None:
        self.random = Random(seed)
        self.mutant = mutant
        self.now = 0
        self.cuts = self.random.random() < 0.5
        """Whether links are cut in this history: the limit may be passed while two sides own a plugin, and no other
        time."""
        self.names = [f"n{number}" for number in range(self.random.choice((2, 3, 3, 4, 5)))]
        self._lives = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.cut: set[frozenset[str]] = set()
        self.nodes = {name: self._make(name) for name in self.names}
        self.runs: Counter[int] = Counter()
        self.replies: Counter[int] = Counter()
        self.asked = 0
        self.origins: dict[int, int] = {}
        """Which life of a node took each call from its host: without a reply is only what died with it."""
        self.spent: dict[str, list[int]] = {plugin: [] for plugin in PLUGINS}
        self.ownerless: dict[str, int] = {}
        self.kinds: Counter[str] = Counter()
        for name in self.names:
            self._boot(name)

    # ------------------------------------------------------------------ time
    def at(self, delay: int, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, do))

    def run(self, until: int) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
            self._look()
        self.now = until

    # ------------------------------------------------------------------ nodes
    def _make(self, name: str) -> Node:
        self._lives += 1
        return Node(name, self.random.randrange(-3600 * SECOND, 3600 * SECOND) + 10_000 * SECOND, self.names,
                    self._lives)

    def clock(self, node: Node) -> int:
        return self.now + node.skew_ns

    def _boot(self, name: str) -> None:
        node = self.nodes[name]
        for other in self.names:
            if other != name:
                self._connect(node, other)

        def serve() -> None:
            if node.alive and node.members.state == "joining":
                node.members.become("serving")
                self._tell_all(node)
                self._follow(node)

        self.at(2 * SECOND, serve)

    def _connect(self, node: Node, other: str) -> None:
        """A link from ``node``: tried until it is there."""
        if not node.alive or self.nodes[node.name] is not node:
            return
        peer = self.nodes[other]
        if not peer.alive or frozenset((node.name, other)) in self.cut:
            node.members.lost(other)
            self._lost(node, other)
            self.at(SECOND // 5, lambda: self._connect(node, other))
            return
        node.up.add(other)
        self._send(node, other, lambda to: self._is(node, to, node.members.state))
        self._send(peer, node.name, lambda to: self._is(peer, to, peer.members.state))

    def _send(self, node: Node, other: str, take: Callable[[Node], None]) -> bool:
        """One message, in order, unless its link is cut or its receiver's life ends first."""
        if not node.alive:
            return False
        born, peer_born = node.born, self.nodes[other].born
        pair = frozenset((node.name, other))
        delay = self.random.choice((100_000, 1_000_000, 1_000_000, 20_000_000))
        last: dict[tuple[int, int], int] = self.__dict__.setdefault("last", {})
        due = max(self.now + delay, last.get((born, peer_born), 0) + 1)
        last[born, peer_born] = due

        def arrive() -> None:
            peer = self.nodes[other]
            if peer.alive and peer.born == peer_born and pair not in self.cut:
                take(peer)

        self.at(due - self.now, arrive)
        return True

    def _is(self, node: Node, to: Node, state: Any) -> None:
        if (node.name in to.up or self.mutant == "hearsay") and to.members.said(node.name, state):
            self._follow(to)

    def _tell_all(self, node: Node) -> None:
        state = node.members.state
        for other in self.names:
            if other != node.name:
                self._send(node, other, lambda to: self._is(node, to, state))

    def _lost(self, node: Node, other: str) -> None:
        """``node`` knows that its link to ``other`` has ended."""
        node.members.lost(other)
        node.up.discard(other)
        for call in [call for call, there in node.out.items() if there == other]:
            del node.out[call]
            if self.mutant == "silent":
                continue
            self.replies[call] += 1
            self.kinds["lost"] += 1
            if self.mutant == "again":
                self._call_from(node, call, PLUGINS[call % len(PLUGINS)], self.random.random() < 0.8)
        self._follow(node)

    def _follow(self, node: Node) -> None:
        if node.mapped == node.members.changed:
            return
        node.mapped = node.members.changed
        now = self.clock(node)
        for owner, slots in node.tenure.follow(node.members.slots, now).items():
            left = node.tenure.close(slots, now)
            mine = set(slots)
            tries = {plugin: node.windows.pop(plugin).handed_over(now) for plugin in PLUGINS
                     if slot_of(plugin) in mine and plugin in node.windows}
            if not owner:
                continue
            if self.mutant == "forgets":
                tries = {}
            self.kinds["handed"] += 1
            self._send(node, owner, partial(self._take_over, slots=slots, left=left, tries=tries))

    def _take_over(self, node: Node, slots: list[int], left: int, tries: dict[str, list[tuple[int, str]]]) -> None:
        self._follow(node)
        now = self.clock(node)
        owners = node.members.slots
        for plugin, counted in tries.items():
            node.windows.setdefault(plugin, SharedWindow(LIMIT)).adopt(counted, now)
        node.tenure.handed([slot for slot in slots if owners and owners[slot] == node.name], left, now)

    # ------------------------------------------------------------------ what happens
    def kill(self, name: str) -> None:
        node = self.nodes[name]
        if not node.alive:
            return
        node.alive = False
        self.kinds["killed"] += 1
        for call in node.out:  # its hosts see the end of their own connection
            self.replies[call] += 1
        node.out.clear()
        for other in self.names:
            peer = self.nodes[other]
            if other != name:
                self.at(self.random.randrange(1, 50) * 1_000_000, lambda peer=peer: self._notice(peer, name, node.born))

        def back() -> None:
            self.nodes[name] = self._make(name)
            self._boot(name)
            for other in self.names:
                if other != name:
                    self._connect(self.nodes[other], name)

        self.at(self.random.randrange(2, 90) * SECOND, back)

    def _notice(self, peer: Node, name: str, born: int) -> None:
        if peer.alive and self.nodes[name].born == born:
            self._lost(peer, name)

    def drain(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive and node.members.state == "serving":
            self.kinds["drained"] += 1
            node.members.become("leaving")
            self._tell_all(node)
            self._follow(node)
            self.at(self.random.randrange(1, 20) * SECOND,
                    lambda: self.kill(name) if self.nodes[name] is node else None)

    def sever(self) -> None:
        first, second = self.random.sample(self.names, 2)
        pair = frozenset((first, second))
        if pair in self.cut:
            return
        self.kinds["cut"] += 1
        self.cut.add(pair)
        ends = [(self.nodes[first], second), (self.nodes[second], first)]

        def known() -> None:
            for node, other in ends:
                if node.alive and pair in self.cut:
                    self._lost(node, other)

        self.at(LOST_NS, known)

        def heal() -> None:
            self.cut.discard(pair)
            for name, other in ((first, second), (second, first)):
                self._connect(self.nodes[name], other)

        self.at(self.random.randrange(2, 120) * SECOND, heal)

    def call(self) -> None:
        node = self.nodes[self.random.choice(self.names)]
        if not node.alive or node.members.state == "joining":
            return
        self.asked += 1
        self.origins[self.asked] = node.born
        self._call_from(node, self.asked, PLUGINS[self.asked % len(PLUGINS)], self.random.random() < 0.8)

    def _call_from(self, node: Node, call: int, plugin: str, fetches: bool) -> None:
        owner = node.members.owner(plugin)
        if not owner or owner == node.name:
            self._execute(node, call, plugin, fetches, lambda: self._reply(node, call))
            return
        node.out[call] = owner
        origin = node.name

        def arrived(there: Node) -> None:
            def answered() -> None:
                self._send(there, origin, lambda back: self._answered(back, call) if back is node else None)

            self._execute(there, call, plugin, fetches, answered)

        self._send(node, owner, arrived)

    def _answered(self, node: Node, call: int) -> None:
        if node.out.pop(call, None) is not None:
            self.replies[call] += 1
            self.kinds["forwarded"] += 1

    def _reply(self, node: Node, call: int) -> None:
        if node.alive:
            self.replies[call] += 1
            self.kinds["own"] += 1

    def _execute(self, node: Node, call: int, plugin: str, fetches: bool, done: Callable[[], None]) -> None:
        self.runs[call] += 1
        if fetches:
            now = self.clock(node)
            closed = node.tenure.closed_ns(slot_of(plugin), now)
            if self.mutant == "eager":
                closed = 0
            if not closed:
                wait, _ = node.windows.setdefault(plugin, SharedWindow(LIMIT)).take("u", now)
                if not wait:
                    self.spent[plugin].append(self.now)
                    self.kinds["fetched"] += 1
        self.at(self.random.randrange(1, 400) * 1_000_000, lambda: done() if node.alive else None)

    # ------------------------------------------------------------------ what must hold
    def _look(self) -> None:
        """How long a living node that serves sees no living owner for a plugin."""
        for node in self.nodes.values():
            for plugin in PLUGINS:
                key = f"{node.name}/{plugin}"
                owner = node.members.owner(plugin)
                good = (not node.alive or node.members.state == "joining" or not node.members.serving()
                        or (bool(owner) and self.nodes[owner].alive
                            and frozenset((node.name, owner)) not in self.cut))
                if good:
                    self.ownerless.pop(key, None)
                else:
                    since = self.ownerless.setdefault(key, self.now)
                    assert self.now - since <= OWNERLESS_NS_MAX, f"{key} is owned by {owner}, which is not there"

    def judge(self) -> None:
        assert not [call for call, times in self.runs.items() if times > 1], "a call ran twice"
        assert not [call for call, times in self.replies.items() if times > 1], "a call has two replies"
        lives = {node.born for node in self.nodes.values() if node.alive}
        owed = [call for call, born in self.origins.items() if call not in self.replies and born in lives]
        assert not owed, f"calls without a reply: {owed[:5]}"
        if not self.cuts:
            for plugin, times in self.spent.items():
                for at in range(len(times) - LIMIT):
                    assert times[at + LIMIT] - times[at] >= MINUTE_NS, (
                        f"{plugin}: {LIMIT + 1} requests within {(times[at + LIMIT] - times[at]) / SECOND:.1f} s")


def history(seed: int, mutant: str = "", seconds: int = 240) -> World:
    """Plays one, and judges it. A map of few slots takes less time, and is as good a map."""
    with patch.object(owners, "SLOTS", 16), patch.object(tenure, "SLOTS", 16):
        return _history(seed, mutant, seconds)


def _history(seed: int, mutant: str, seconds: int) -> World:
    world = World(seed, mutant)
    random = world.random
    for _ in range(random.randrange(4)):
        world.at(random.randrange(seconds) * SECOND, lambda: world.kill(random.choice(world.names)))
    for _ in range(random.randrange(3)):
        world.at(random.randrange(seconds) * SECOND, lambda: world.drain(random.choice(world.names)))
    for _ in range(random.randrange(1, 4) if world.cuts else 0):
        world.at(random.randrange(seconds) * SECOND, world.sever)
    rate = random.choice((60, 120))
    for _ in range(rate):
        world.at(int(random.random() * seconds * SECOND), world.call)
    world.run((seconds + 10) * SECOND)
    world.judge()
    return world


