"""A fleet as one of its nodes sees it: who may be a member, who answers, who owns what. Pure.

The engine's list (the *roster*) says who may be a member, and tidies up. The links say who is there: a link that has
ended takes its node's plugins away at once, and the next owner follows from the map of those that are left. Nothing is
voted on. Two nodes that cannot see each other may both own a plugin for as long as the cut lasts; no other two do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from apex_exec.core.owners import owners, slot_of

State = Literal["connecting", "joining", "serving", "leaving", "lost", "refused"]
"""Of a node as another sees it. ``connecting``: never reached since it came onto the roster. ``joining``, ``serving``
and ``leaving`` are the node's own words. ``lost``: its link has ended. ``refused``: it let us not in, or speaks a wire
that we do not know."""
PLUGINS_KEPT = 65_536
"""Plugins whose owner is remembered; hosts can name others without end, and then they are all looked up anew."""


class Seen(msgspec.Struct):
    """One other node. ``executes`` is False of a router, which runs no plugin."""

    weight: float
    state: State = "connecting"
    executes: bool = True
    version: str = ""


class Membership:
    """What this node (``name``) knows. ``changed`` counts the maps that there have been; every change makes another."""

    def __init__(self, name: str, weight: float, *, executes: bool) -> None:
        self.name = name
        self.weight = weight
        self.executes = executes
        self.state: Literal["joining", "serving", "leaving"] = "joining"
        self.others: dict[str, Seen] = {}
        self.changed = 0
        self._owners: Sequence[str] | None = None
        self._of: dict[str, str] = {}

    # ------------------------------------------------------------------ what happens
    def roster(self, weights: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """The engine's list, this node left out. (names that are new, names that are gone)."""
        new = [name for name in weights if name not in self.others and name != self.name]
        gone = [name for name in self.others if name not in weights]
        for name in gone:
            del self.others[name]
        for name in new:
            self.others[name] = Seen(weights[name])
        moved = bool(gone)
        for name, seen in self.others.items():
            if seen.weight != weights[name]:
                seen.weight, moved = weights[name], moved or seen.state == "serving"
        if moved:
            self._remap()
        return new, gone

    def weigh(self, weight: float) -> None:
        """This node's own weight, as the others have it from its statement."""
        if weight != self.weight:
            self.weight = weight
            self._remap()

    def become(self, state: Literal["joining", "serving", "leaving"]) -> None:
        """This node's own state."""
        if state != self.state:
            self.state = state
            self._remap()

    def said(self, name: str, state: Literal["joining", "serving", "leaving"], *, executes: bool = True,
             version: str = "") -> bool:
        """``name`` has spoken of itself; False if it is not on the roster, or if that was known."""
        seen = self.others.get(name)
        if seen is None or (seen.state, seen.executes, seen.version) == (state, executes, version):
            return False
        seen.state, seen.executes, seen.version = state, executes, version
        self._remap()
        return True

    def lost(self, name: str, why: Literal["lost", "refused"] = "lost") -> bool:
        """The link to ``name`` has ended, or was not let in; False if nothing changes by that."""
        seen = self.others.get(name)
        if seen is None or seen.state == why:
            return False
        owned = seen.state == "serving"
        seen.state = why
        if owned:
            self._remap()
        return True

    # ------------------------------------------------------------------ what follows
    @property
    def settled(self) -> bool:
        """Whether every other node has been reached once, or could not be."""
        return all(seen.state != "connecting" for seen in self.others.values())

    def serving(self) -> dict[str, float]:
        """The nodes that own plugins now, by weight."""
        found = {name: seen.weight for name, seen in self.others.items() if seen.state == "serving" and seen.executes}
        if self.executes and self.state == "serving":
            found[self.name] = self.weight
        return found

    def owner(self, plugin: str) -> str:
        """The name of the node that owns ``plugin``; "" if no node does."""
        found = self._of.get(plugin)
        if found is None:
            if len(self._of) >= PLUGINS_KEPT:
                self._of.clear()
            slots = self.slots
            found = self._of[plugin] = slots[slot_of(plugin)] if slots else ""
        return found

    @property
    def slots(self) -> Sequence[str]:
        """The owner of each slot; () if no node serves."""
        if self._owners is None:
            self._owners = owners(self.serving())
        return self._owners

    def _remap(self) -> None:
        self.changed += 1
        self._owners = None
        self._of.clear()
