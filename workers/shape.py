"""How many values a MessagePack body has, and how deep they nest: counted on the bytes, before anything is decoded.
Pure.

Both sides of the link share this, so that a worker can say at once of an effect what the supervisor would say later.
What the supervisor counts decides.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

CONTAINERS_MAX = 65_536
"""The most lists and maps of one message or result; each costs about a microsecond. If each has 16 bytes of content,
the size limit applies first."""
COUNTED_AT_ONCE, COUNTED_ROUNDS = 16_384, 16
"""How many values are visited to count the containers among them. After that, every byte that may open one counts."""
LOOP_BYTES, LOOP_VALUES = 65_536, 1000
LOOP_CONTAINERS, LOOP_CONTAINERS_QUICK = 1024, 4096
"""What ``too_dear`` accepts. A list costs 1.3 µs if Python visits it, and 0.15 µs if only C does."""
INT_MAX = 2**53 - 1
"""The largest integer that a JavaScript number represents exactly; the smallest is its negative."""
QUICK_LEVELS = 8
"""How deep a value may nest that C alone checks."""
_FLOAT_MAX = 1.7976931348623157e308
SHORT_BYTES = 2048
"""To look at 2 KiB takes 2 µs, which is less than it takes to step over their values."""
STEPPED_OVER = 64
"""Long texts stand in few values: in a row of a table, in a message, in an effect. More are not looked for."""
# Bytes that cannot open a container. Deleting them leaves an upper bound of the containers in a body.
NOT_CONTAINER = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


def _sizes() -> list[int]:
    """By first byte: the distance to the next value's first byte; 0 if a length in the value determines it."""
    sizes = [1] * 256
    for head in range(0xA0, 0xC0):
        sizes[head] = 1 + (head & 0x1F)
    for heads, size in (((0xCC, 0xD0), 2), ((0xCD, 0xD1, 0xD4, 0xDC, 0xDE), 3), ((0xD5,), 4),
                        ((0xCA, 0xCE, 0xD2, 0xDD, 0xDF), 5), ((0xD6,), 6), ((0xCB, 0xCF, 0xD3), 9), ((0xD7,), 10),
                        ((0xD8,), 18)):
        for head in heads:
            sizes[head] = size
    for head in _LENGTHS:
        sizes[head] = 0
    return sizes


_LENGTHS = {0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6),
            0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5)}
"""Heads followed by a length: the bytes of the length, and all bytes before the content."""
_SIZES = _sizes()
_IS_CONTAINER = [int(0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF) for b in range(256)]
_IS_LIST = [0x90 <= b <= 0x9F or b in (0xDC, 0xDD) for b in range(256)]
_COUNTED = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Heads of lists and maps that are followed by a count, and the bytes of the count."""


def containers_at_most(body: bytes) -> int:
    """An upper bound of the lists and maps in ``body``: the bytes that could open one.

    A text that stands among the first STEPPED_OVER values is not looked at, so a body that is one long text costs 6 µs
    at most. A megabyte of short values takes 0.5 to 8 ms.
    """
    end = len(body)
    if end <= SHORT_BYTES:
        return len(body.translate(None, NOT_CONTAINER))
    at, found = _stepped(body, 0, STEPPED_OVER)
    return found if at >= end else found + len(body[at:].translate(None, NOT_CONTAINER))


def _stepped(body: bytes, at: int, values: int) -> tuple[int, int]:
    """Where the value after the next ``values`` begins, from ``at`` on, and how many of these are lists and maps."""
    sizes, is_container, end, found = _SIZES, _IS_CONTAINER, len(body), 0
    for _ in range(values):
        if at >= end:
            break
        head = body[at]
        found += is_container[head]
        size = sizes[head]
        if size:
            at += size
        else:
            width, before = _LENGTHS[head]
            at += before + int.from_bytes(body[at + 1 : at + 1 + width], "big")
    return at, found


def containers(body: bytes, rounds: int = COUNTED_ROUNDS) -> int:
    """The number of lists and maps in ``body``, or some number above CONTAINERS_MAX. After ``rounds`` times
    COUNTED_AT_ONCE values an upper bound for the rest is added.

    Text and bytes are skipped, so only a large number of values takes long (about 0.1 µs each).
    """
    at = found = 0
    for _ in range(rounds):
        at, more = _stepped(body, at, COUNTED_AT_ONCE)
        found += more
        if at >= len(body) or found > CONTAINERS_MAX:
            return found
    return found + containers_at_most(body[at:])


def has_few_values(body: bytes, most: int) -> bool:
    """Whether ``body`` has at most ``most`` values. Text and bytes are skipped; 0.1 µs for each value."""
    sizes, at, end = _SIZES, 0, len(body)
    for _ in range(most):
        if at >= end:
            return True
        size = sizes[body[at]]
        if size:
            at += size
        else:
            width, before = _LENGTHS[body[at]]
            at += before + int.from_bytes(body[at + 1 : at + 1 + width], "big")
    return at >= end


def fault_of_shape(body: bytes, values_max: int = 2**62) -> str:
    """Why ``body`` may not be decoded without an expected type; "" if it may be. The reasons are a list as the key of a
    map, and more than ``values_max`` values, which is known before we walk over them.

    Takes about 0.15 µs for each value. A body that is not MessagePack has no such fault.
    """
    sizes, is_container, is_list = _SIZES, _IS_CONTAINER, _IS_LIST
    at, end, members = 0, len(body), 0
    above: list[tuple[int, bool]] = []
    left, in_map = 1, False  # values left in the current list, or keys and values left in the current map
    while True:
        while left:
            if at >= end:
                return ""
            head = body[at]
            if in_map and not left & 1 and is_list[head]:
                return "a map's key is a list"
            left -= 1
            if is_container[head]:
                above.append((left, in_map))
                width = _COUNTED.get(head, 0)
                left = int.from_bytes(body[at + 1 : at + 1 + width], "big") if width else head & 0x0F
                members += left
                if members > values_max:
                    return f"more than {values_max} values"
                in_map = head <= 0x8F or head >= 0xDE
                left *= 1 + in_map
                at += 1 + width
            elif sizes[head]:
                at += sizes[head]
            else:
                width, before = _LENGTHS[head]
                at += before + int.from_bytes(body[at + 1 : at + 1 + width], "big")
        if not above:
            return ""
        left, in_map = above.pop()


_Int = Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)]
_Float = Annotated[float, Meta(ge=-_FLOAT_MAX, le=_FLOAT_MAX)]  # refuses NaN and infinities


def nested_type(levels: int, leaf: Any) -> Any:
    """Values nested at most ``levels`` deep, with text as keys of maps and without bytes and timestamps, checked in C.
    (msgspec cannot distinguish text from bytes in one type.)"""
    nested: Any = leaf
    for _ in range(levels):
        nested = leaf | list[nested] | dict[str, nested]
    return nested


decode_quick = msgspec.msgpack.Decoder(nested_type(QUICK_LEVELS, None | bool | _Int | _Float | str)).decode
"""Decodes a value without bytes and timestamps, at most QUICK_LEVELS deep and within the ranges of the value rule."""


def too_dear(raw: bytes) -> str:
    """What ``raw`` has too many of to be looked through while everybody waits; "" if that takes two milliseconds at
    most. Too many are over LOOP_VALUES values in over LOOP_BYTES, or too many lists and maps."""
    if len(raw) > LOOP_BYTES and not has_few_values(raw, LOOP_VALUES):
        return f"over {LOOP_BYTES} bytes with more than {LOOP_VALUES} values"
    found = containers_at_most(raw)
    if found > LOOP_CONTAINERS:
        found = containers(raw, 1)
        if found > LOOP_CONTAINERS_QUICK:
            return f"more than {LOOP_CONTAINERS_QUICK} lists and maps"
        if found > LOOP_CONTAINERS:
            try:
                decode_quick(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return (f"more than {LOOP_CONTAINERS} lists and maps, with bytes or timestamps in them or more than "
                        f"{QUICK_LEVELS} deep")
    return ""


def deeper_than(value: Any, levels: int) -> bool:
    """Whether ``value`` nests deeper than ``levels``: some value is inside more lists and maps than that."""
    level: list[Any] = [value]
    for _ in range(levels + 1):
        below: list[Any] = []
        empty = True
        for item in level:
            children = item.values() if type(item) is dict else item if type(item) is list else ()
            if children:
                empty = False
                kinds = set(map(type, children))
                if list in kinds or dict in kinds:
                    below += [child for child in children if type(child) is list or type(child) is dict]
        if empty:
            return False
        if not below:
            below = [None]  # what is inside them is one level deeper, and nothing is deeper than that
        level = below
    return True
