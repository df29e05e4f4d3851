"""What the nodes of a fleet say to each other beside PROTOCOL 1, on connections whose CURVE keys are nodes'.

Everything on such a connection has one frame before the body, which says what the body is: FORWARDED and the sender's
name before a request of PROTOCOL 1, CONTROL before one of the messages here. Replies repeat that frame, as all replies
do; a ``hostCall`` has none.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FORWARDED = b"1"
"""Before a host's request. The sender's name follows: a node takes only what the node at the other end had from a
host of its own, so that no call is forwarded twice."""
CONTROL = b"2"
WIRE = 1
"""The version of all this. Nodes whose lists of versions have none in common do not talk to each other."""

COUNTS_MAX = 10_000
"""Requests of the last minute in one message of a hand-over: half a megabyte. More is handed over in several."""
Text = Annotated[str, Meta(max_length=100)]
Version = Annotated[str, Meta(max_length=100, pattern=r"^[0-9A-Za-z.+_-]*$")]
"""It is written to logs and to terminals."""
Age = Annotated[int, Meta(ge=0, le=60_000)]
NodeState = Literal["joining", "serving", "leaving"]


class Said(msgspec.Struct, rename="camel", tag_field="type", kw_only=True):
    """The base of what nodes say."""


class NodeIs(Said, tag="node"):
    """The sender, as it is now: said when a link begins, and whenever something of it changes. ``provides`` are the
    host methods of its own hosts. ``answer`` is True of the first answer to it."""

    name: Text
    version: Version
    state: NodeState
    executes: bool
    protocol: Annotated[list[int], Meta(max_length=64)]
    provides: Annotated[list[Text], Meta(max_length=256)] = []
    answer: bool = False


class HandOver(Said, tag="handover"):
    """The sender has owned ``slots`` until now, and the receiver owns them. ``windows`` has what was counted in the
    last minute, by plugin: the age in ms and the user of each request. ``left_ms``: how long the sender would have had
    to wait itself. ``warm`` are the plugins that had a worker, the busiest first."""

    slots: Annotated[list[Annotated[int, Meta(ge=0, le=65_535)]], Meta(max_length=65_536)]
    left_ms: Annotated[int, Meta(ge=0)]
    windows: Annotated[dict[Text, Annotated[list[tuple[Age, Text]], Meta(max_length=COUNTS_MAX)]], Meta(
        max_length=COUNTS_MAX)] = {}
    warm: Annotated[list[Text], Meta(max_length=1000)] = []


class Order(Said, tag="order"):
    """An operator at another node orders this one to leave, or to come back."""

    order: Literal["drain", "rebalance"]
    by: Text


NodeMessage = NodeIs | HandOver | Order
decode = msgspec.msgpack.Decoder(NodeMessage).decode
