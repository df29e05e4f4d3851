"""This node and the others: who they are, who is there, who owns what, and what it tells them. In the loop.

The process ``fleet`` says who may be a member (``roster``), the links say who is there, and ``core/membership.py``
makes the owners of both. What changes hands is handed over: the counts of the last minute, so that a limit holds
exactly, and the names of the plugins that were warm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec import __version__
from apex_exec.config import Settings
from apex_exec.core.limits import MS_NS, SECOND_NS
from apex_exec.core.membership import Membership
from apex_exec.core.owners import slot_of
from apex_exec.core.rate_window import MINUTE_NS
from apex_exec.core.tenure import Tenure
from apex_exec.daemon.fleet.host_calls import HostCalls
from apex_exec.daemon.fleet.node_link import NodeLink
from apex_exec.daemon.fleet.node_socket import NodeEndpoint
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.fleet.messages import Node, Roster
from apex_exec.wire import node_messages as said
from apex_exec.wire.frames import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from apex_exec.core.scheduler.pool import Pool
    from apex_exec.daemon.api_calls import ApiCalls
    from apex_exec.daemon.hosts.connections import Peer
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.metrics import Metrics

log = logging.getLogger("apex_exec")

LOOK_SECONDS = 0.1
"""How often links that are down are looked at, and what has changed is announced."""
SECOND_LOOK_NS = SECOND_NS
MARGIN_NS = 3 * SECOND_NS
"""A new owner waits this much longer than a minute and the longest call: nodes hear of a change a second apart at most,
and a call may be under way for as long."""
WARM_MAX = 200
LINK_BYTES_MAX = FRAME_BYTES_MAX + 64 * 1024
"""Of one message of a node: what a worker may answer, and what is around it."""
_encode = msgspec.msgpack.Encoder().encode


def side_settings(settings: Settings, curve: bytes) -> dict[str, Any]:
    """What the process ``fleet`` is started with."""
    section = settings.fleet
    return {
        "engine": section.engine, "node": settings.node_name, "members": list(section.members),
        "keys_dir": str(settings.fleet_keys_path), "book": section.book,
        "registry_url": settings.database_url(settings.registry.url), "signing_key": section.signing_key,
        "advertise": section.advertise or section.endpoint, "capacity": capacity(settings),
        "curve": curve.decode(), "log": settings.log.model_dump()}


def capacity(settings: Settings) -> float:
    """This node's weight: what is configured, or the number of its cores."""
    import os

    return settings.fleet.capacity or float(len(os.sched_getaffinity(0)))


def in_parts(windows: dict[str, list[tuple[int, str]]]) -> Iterator[dict[str, list[tuple[int, str]]]]:
    """The counts of ``windows``, as many at once as fit into a message."""
    part: dict[str, list[tuple[int, str]]] = {}
    size = 0
    for plugin, tries in windows.items():
        for at in range(0, len(tries), said.COUNTS_MAX):
            piece = tries[at:at + said.COUNTS_MAX]
            if plugin in part or size + len(piece) > said.COUNTS_MAX:
                yield part
                part, size = {}, 0
            part[plugin] = piece
            size += len(piece)
    if part:
        yield part


class Fleet:
    """``warm(plugin)`` has a worker started; ``running()`` names the plugins that have one. ``serve_hosts()`` is called
    once, when this node has found the others or has waited long enough for them."""

    def __init__(self, settings: Settings, loop: Loop, endpoint: NodeEndpoint, *, pool: Pool, metrics: Metrics,
                 api: ApiCalls, warm: Callable[[str], None], running: Callable[[], list[str]]) -> None:
        self.name = settings.node_name
        self.mark = said.FORWARDED + self.name.encode()
        self.executes = settings.fleet.role == "both"
        self.links: dict[str, NodeLink] = {}
        self.membership = Membership(self.name, capacity(settings), executes=self.executes)
        wait_ns = MINUTE_NS + settings.limits.timeout_ms * MS_NS + MARGIN_NS
        self.tenure = Tenure(self.name, wait_ns if settings.fleet.new_owner == "wait" else 0)
        self.side = SideProcess("fleet", "apex_exec.fleet.process:main", side_settings(settings, endpoint.public),
                                handlers={Roster: self._roster})
        self.requests: Any  # a FleetRequests, set by ``build``, whose file imports this one
        self.serve_hosts: Callable[[], None] = lambda: None
        self.engine = settings.fleet.engine
        self.refused: dict[str, str] = {}
        self.problem = ""
        self.drained = False
        self._settings = settings
        self._loop = loop
        self._endpoint = endpoint
        self._pool = pool
        self._metrics = metrics
        self._api = api
        self._warm = warm
        self._running = running
        self._host_calls = HostCalls(api, self.mark, settings.limits.timeout_ms)
        self._nodes: dict[str, Node] = {}
        self._heard = False
        self._begun_ns = 0
        self._mapped = -1
        self._provides: list[str] = []
        self._second_ns = 0
        self._owned: tuple[int, int, int] = (-1, -1, 0)
        metrics.health["fleet"] = "this node is joining its fleet"
        api.closed_ns = self.closed_ns
        loop.every(LOOK_SECONDS, self._look)

    # ------------------------------------------------------------------ who owns what
    def owner(self, plugin: str) -> str:
        """The name of the node that runs ``plugin``; "" if none can."""
        found = self.membership.owner(plugin)
        if not found and self.executes:
            return self.name  # alone, and leaving: what is refused here is refused with its own words
        return found

    def closed_ns(self, plugin: str, now_ns: int) -> int:
        """How long this node does not spend the requests of ``plugin`` yet."""
        return self.tenure.closed_ns(slot_of(plugin), now_ns)

    def forwarded(self, node: str) -> None:
        """A call has left for ``node``."""
        self._metrics.inc("fleet_forwarded_total", (node,))

    # ------------------------------------------------------------------ the roster
    def _roster(self, roster: Roster) -> None:
        """Who may be a member, from now on."""
        self._heard = self._heard or bool(roster.nodes) or not roster.problem
        nodes = {node.name: node for node in roster.nodes}
        for name, why in roster.refused.items():
            if self.refused.get(name) != why:
                log.error("this node, %s: %s", name, why) if name == self.name else log.warning(
                    "the node %s was not admitted to the fleet: %s", name, why)
        if roster.problem and roster.problem != self.problem:
            log.warning("the fleet's members could not be read and stay as they are: %s", roster.problem)
        self.refused, self.problem = dict(roster.refused), roster.problem
        own = nodes.pop(self.name, None)
        if own is not None:
            self.membership.weigh(own.capacity)
        self._endpoint.admit(roster.nodes, self.name)
        new, gone = self.membership.roster({name: node.capacity for name, node in nodes.items()})
        for name in gone:
            log.warning("the node %s is no longer a member of the fleet", name)
            link = self.links.pop(name)
            link.end()
            self.requests.node_lost(name)
        for name in set(nodes) - set(new):
            link = self.links[name]
            if (nodes[name].endpoint, nodes[name].curves) != (link.node.endpoint, link.node.curves):
                link.node = nodes[name]
                if not link.up:
                    link.end(0)
        for name in new:
            self.links[name] = NodeLink(
                self._loop, self._endpoint.context, nodes[name], self._endpoint.pair,
                lost_ms=int(self._settings.fleet.lost_seconds * 1000),
                bytes_max=LINK_BYTES_MAX, on_up=self._link_up, on_down=self._link_down,
                on_message=self._link_says)
        self._nodes = nodes
        self._look(time.monotonic_ns())

    # ------------------------------------------------------------------ links
    def receive(self) -> bool:
        """Reads every link, a bounded number of messages each; True if more may be waiting."""
        more = False
        for link in tuple(self.links.values()):
            if link.receive():
                more = True
        return more

    def _link_up(self, link: NodeLink) -> None:
        self._tell(link)

    def _link_down(self, link: NodeLink, refused: bool) -> None:
        self.lost(link, "refused" if refused else "lost")

    def link_down(self, link: NodeLink) -> None:
        """It did not take a call: its end was not known yet."""
        link.end()
        self.lost(link, "lost")

    def lost(self, link: NodeLink, why: Any) -> None:
        """The link has ended: what its node had is answered, and its plugins are others'."""
        seen = self.membership.others.get(link.name)
        was = seen.state if seen is not None else "lost"
        if self.membership.lost(link.name, why):
            if was in ("serving", "leaving", "joining"):
                if was != "leaving":
                    self._metrics.inc("fleet_node_lost_total", (link.name,))
                log.warning("the node %s was lost, because its link ended unannounced", link.name)
            elif why == "refused":
                log.warning("the node %s refuses this node, because it has no valid statement with this node's "
                            "key; publish one with `apex-exec fleet keys`", link.name)
        self.requests.node_lost(link.name)
        self._follow(time.monotonic_ns())

    def leaves(self, link: NodeLink) -> None:
        """It has refused a call since it is on its way out, before its word of that came."""
        seen = self.membership.others.get(link.name)
        if seen is not None:
            self.membership.said(link.name, "leaving", executes=seen.executes, version=seen.version)
            self._follow(time.monotonic_ns())

    def _link_says(self, link: NodeLink, frames: list[bytes], body: bytes) -> None:
        if not frames:
            self._host_calls.take(link, body)
        elif frames[0] == said.CONTROL:
            try:
                message = said.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return
            if isinstance(message, said.NodeIs):
                self._node_is(link.name, message)
        else:
            self.requests.answered(link, body)

    # ------------------------------------------------------------------ what nodes say
    def says(self, peer: Peer, message: said.Said) -> None:
        """A node says something of itself, on the connection that it has made."""
        if isinstance(message, said.NodeIs):
            self._node_is(peer.node, message)
            if not message.answer:
                peer.connections.reply(peer, [said.CONTROL], _encode(self._self(answer=True)))
            try:
                self._api.host_methods.provided_by_node(peer, message.provides)
            except Exception as error:  # more than may be, or no method: the node's hosts are not served here
                log.warning("the host methods that the node %s provides cannot be used: %s", peer.node, error)
        elif isinstance(message, said.HandOver):
            self._taken_over(peer.node, message)
        elif isinstance(message, said.Order):
            log.info("%s orders this node: %s", peer.node, message.order)
            self.order(message.order)

    def _node_is(self, name: str, message: said.NodeIs) -> None:
        link = self.links.get(name)
        if link is None or not link.up:
            return  # without a link to it nothing can be sent there; it is asked when there is one
        if said.WIRE not in message.protocol:
            if self.membership.lost(name, "refused"):
                log.error("the node %s speaks the protocol versions %s between nodes, and this one speaks %d: upgrade "
                          "the nodes by one release at a time", name, message.protocol, said.WIRE)
            return
        if self.membership.said(name, message.state, executes=message.executes, version=message.version):
            log.info("the node %s (%s) is %s", name, message.version, message.state)
            self._follow(time.monotonic_ns())

    def _self(self, *, answer: bool = False) -> said.NodeIs:
        return said.NodeIs(name=self.name, version=__version__, state=self.membership.state, executes=self.executes,
                           protocol=[said.WIRE], provides=self._provides[:256], answer=answer)

    def _tell(self, link: NodeLink) -> None:
        link.send(said.CONTROL, _encode(self._self()))

    def _tell_all(self) -> None:
        for link in tuple(self.links.values()):
            if link.up:
                self._tell(link)

    # ------------------------------------------------------------------ what changes hands
    def _follow(self, now_ns: int) -> None:
        """Takes the map that holds now: closes the windows of what has gone to others, and hands their counts over."""
        if self._mapped == self.membership.changed:
            return
        self._mapped = self.membership.changed
        for owner, slots in self.tenure.follow(self.membership.slots, now_ns).items():
            left_ns = self.tenure.close(slots, now_ns)
            mine = set(slots)
            moved = {spec.id for spec in self._pool.specs() if slot_of(spec.id) in mine}
            windows = {plugin: [(age_ns // MS_NS, user) for age_ns, user in tries]
                       for plugin, tries in self._api.hand_over(moved, now_ns).items()}
            link = self.links.get(owner)
            if link is None or not link.up:
                continue
            warm = [plugin for plugin in self._running() if plugin in moved][:WARM_MAX]
            for part in in_parts(windows):  # the counts first: with the slots the receiver opens its windows
                link.send(said.CONTROL, _encode(said.HandOver(slots=[], left_ms=0, windows=part)))
            link.send(said.CONTROL, _encode(said.HandOver(slots=slots, left_ms=-(-left_ns // MS_NS), warm=warm)))

    def _taken_over(self, name: str, message: said.HandOver) -> None:
        if sum(map(len, message.windows.values())) > said.COUNTS_MAX:  # the loop would stand still meanwhile
            log.warning("the node %s hands over more counts at once than it may; its plugins wait for a minute", name)
            return
        now_ns = time.monotonic_ns()
        self._follow(now_ns)
        slots = self.membership.slots
        mine = [slot for slot in message.slots if slot < len(slots) and slots[slot] == self.name]
        for plugin, tries in message.windows.items():
            self._api.adopt(plugin, [(age_ms * MS_NS, user) for age_ms, user in tries], now_ns)
        self.tenure.handed(mine, message.left_ms * MS_NS, now_ns)
        for plugin in message.warm:
            if self.owner(plugin) == self.name:
                self._warm(plugin)
        if mine:
            log.info("%s has handed over %d slots and %d warm plugins", name, len(mine), len(message.warm))

    # ------------------------------------------------------------------ this node
    def _look(self, now_ns: int) -> None:
        for link in tuple(self.links.values()):
            if not link.is_open and now_ns >= link.due_ns:
                link.open()
        if self.membership.state == "joining":
            self._begun_ns = self._begun_ns or now_ns
            waited = now_ns - self._begun_ns > self._settings.fleet.join_seconds * SECOND_NS
            if waited or (self._heard and self.membership.settled):
                self._become("leaving" if self.drained else "serving")
                self._metrics.health["fleet"] = ""
                log.info("the node %s serves, with %s", self.name, ", ".join(
                    name for name in sorted(self.membership.serving()) if name != self.name) or "no other")
                self.serve_hosts()
        if (provides := self._api.host_methods.local()) != self._provides:
            self._provides = provides
            self._tell_all()
        self._follow(now_ns)
        if now_ns >= self._second_ns:
            self._second_ns = now_ns + SECOND_LOOK_NS
            self.requests.expire(now_ns)
            self._host_calls.expire(now_ns)
            self._measure()

    def _become(self, state: Any) -> None:
        self.membership.become(state)
        self._tell_all()
        self._follow(time.monotonic_ns())

    def leave(self) -> None:
        """Owns nothing from now on, and tells the others so; what it has is answered."""
        if self.membership.state == "serving":
            log.info("the node %s leaves", self.name)
            self._become("leaving")

    def order(self, order: str) -> None:
        """``drain``: as ``leave``, and it goes on forwarding what its hosts call; ``rebalance``: it owns its part
        again."""
        if order == "drain":
            self.drained = True
            self.leave()
        elif self.drained and not self.requests.draining:
            self.drained = False
            self._become("serving")

    def order_node(self, name: str, order: Any) -> bool:
        """Has another node do that; False if it cannot be reached."""
        link = self.links.get(name)
        return link is not None and link.send(
            said.CONTROL, _encode(said.Order(order=order, by=self.name))) == "sent"

    # ------------------------------------------------------------------ what it looks like
    def nodes(self) -> list[dict[str, Any]]:
        """A row for each node of the roster, this one first."""
        counts: dict[str, int] = {}
        for spec in self._pool.specs():
            owner = self.membership.owner(spec.id)
            counts[owner] = counts.get(owner, 0) + 1
        rows = [{"node": self.name, "state": self.membership.state, "version": __version__,
                 "capacity": self.membership.weight, "role": "both" if self.executes else "router",
                 "endpoint": self._settings.fleet.advertise or self._settings.fleet.endpoint,
                 "plugins": counts.get(self.name, 0), "here": True, "reason": self.refused.get(self.name, "")}]
        for name, seen in sorted(self.membership.others.items()):
            rows.append({"node": name, "state": seen.state, "version": seen.version, "capacity": seen.weight,
                         "role": "both" if seen.executes else "router", "endpoint": self._nodes[name].endpoint,
                         "plugins": counts.get(name, 0), "here": False, "reason": ""})
        rows.extend({"node": name, "state": "refused", "version": "", "capacity": 0.0, "role": "", "endpoint": "",
                     "plugins": 0, "here": False, "reason": why}
                    for name, why in sorted(self.refused.items()) if name not in self._nodes and name != self.name)
        return rows

    def _measure(self) -> None:
        states: dict[str, int] = {self.membership.state: 1}
        for seen in self.membership.others.values():
            states[seen.state] = states.get(seen.state, 0) + 1
        for state in ("connecting", "joining", "serving", "leaving", "lost", "refused"):
            self._metrics.set("fleet_nodes", (state,), float(states.get(state, 0)))
        specs = self._pool.specs()
        if self._owned[:2] != (self._mapped, len(specs)):
            owned = sum(1 for spec in specs if self.membership.owner(spec.id) == self.name)
            self._owned = (self._mapped, len(specs), owned)
        self._metrics.set("fleet_owned_plugins", (), float(self._owned[2]))

    def close(self) -> None:
        """Ends the links."""
        for link in self.links.values():
            link.end()


