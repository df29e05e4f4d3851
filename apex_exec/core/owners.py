"""Which node of a fleet owns which plugin: weighted rendezvous hashing with a bound, over the members alone. Pure.

A plugin falls into one of SLOTS slots by its id, and each slot is given to a member: to the one that draws highest for
it (rendezvous hashing, Thaler and Ravishankar 1998; weighted as in Resch's "New hashing algorithms for data storage",
2015) and still has room. Nobody may have more than BOUND times its share (Mirrokni, Thorup, Zadimoghaddam 2018).

The bound counts slots and not plugins, for a reason: then the map depends on the members and on nothing else. Nodes
whose registries differ for a moment, or whose policies refuse different plugins for good, still agree on every owner;
with a bound over plugins one more plugin at one node would move others there alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

SLOTS = 4096
"""Some forty for each of a hundred nodes, so that the bound has something to divide; the whole map of ten nodes is made
in some 20 ms, when members change."""
BOUND = 1.1
WEIGHT_RATIO_MAX = 8.0
"""The largest weight that counts, as a multiple of the smallest. A node that lies about its capacity draws no more."""
MAPS_KEPT = 32
DRAWS_KEPT = 256
"""Nodes whose draws are remembered: a fleet, and those that have left it."""
_DRAW_BYTES = 8


def slot_of(plugin: str) -> int:
    """The slot of a plugin, the same on every node of every release."""
    return int.from_bytes(hashlib.blake2b(plugin.encode(), digest_size=2).digest(), "big") % SLOTS


def owners(weights: Mapping[str, float]) -> Sequence[str]:
    """The owner of each slot among the members, by name, each with its weight (above 0). () if there is no member.

    The latest maps are remembered: a node that goes and comes back takes the fleet from one to another and back."""
    return _owners(tuple(sorted(weights.items())), SLOTS) if weights else ()


@lru_cache(maxsize=MAPS_KEPT)
def _owners(members: tuple[tuple[str, float], ...], slots: int) -> Sequence[str]:
    counted = bounded(dict(members))
    names = sorted(counted)
    total = sum(counted.values())
    room = {name: math.ceil(BOUND * slots * counted[name] / total) for name in names}
    draws = [(name, counted[name], _draws(name, slots)) for name in names]
    found: list[str] = []
    for slot in range(slots):
        best, owner = -1.0, ""
        for name, weight, drawn in draws:
            if room[name] and (score := weight * drawn[slot]) > best:
                best, owner = score, name
        room[owner] -= 1
        found.append(owner)
    return tuple(found)


def bounded(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights as they count. One that is not positive and finite counts as the smallest of the others, or as 1."""
    good = [weight for weight in weights.values() if math.isfinite(weight) and weight > 0]
    least = min(good, default=1.0)
    return {name: min(weight, WEIGHT_RATIO_MAX * least) if math.isfinite(weight) and weight > 0 else least
            for name, weight in weights.items()}


@lru_cache(maxsize=DRAWS_KEPT)
def _draws(name: str, slots: int) -> tuple[float, ...]:
    """What the node draws for each slot: -1/ln(u) with u uniform between 0 and 1. Times a weight, the highest of
    several wins with a probability in proportion to its weight."""
    stream = hashlib.shake_256(b"apex-exec owner v1\n" + name.encode()).digest(slots * _DRAW_BYTES)
    numbers = (int.from_bytes(stream[at:at + _DRAW_BYTES], "big") for at in range(0, len(stream), _DRAW_BYTES))
    return tuple(-1.0 / math.log((number + 1) / (2**64 + 2)) for number in numbers)
