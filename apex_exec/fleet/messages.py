"""What the supervisor and the process that knows the fleet's members say to each other."""

from __future__ import annotations

import msgspec


class Node(msgspec.Struct, array_like=True):
    """One member, from a statement whose signature holds. ``curves`` are its public keys (z85), the newest first: two
    while it changes its pair."""

    name: str
    endpoint: str
    curves: list[str]
    capacity: float


class Roster(msgspec.Struct, array_like=True, tag="roster"):
    """From the process: who may be a member now, this node included if its own statement holds. ``refused`` says of
    others why they may not, one line each; ``problem`` is why this is not the newest list, "" if it is."""

    nodes: list[Node]
    refused: dict[str, str]
    problem: str
