"""The value rule for what plugins return, and limits on what decoding a message may cost. Pure; never blocks.

We bound what a byte costs, not only how many bytes there are: a megabyte of empty lists decodes to a million objects
and took the loop up to four seconds, while a megabyte of text takes it less than one millisecond. So the lists and maps
of one message are counted on the bytes, before anything is decoded, and limited. Large messages are decoded with the
garbage collector paused, because it would visit all the new objects again and again.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import chain
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from apex_exec.errors import Code, WireError
from apex_exec.wire.error_paths import step

DEPTH_MAX = 64
CONTAINERS_MAX = 65_536
"""The most lists and maps of one message or result; each costs about a microsecond. If each has 16 bytes of content,
the size limit applies first."""
MEMBERS_MAX = 65_536
"""The most values in all lists and maps of one result. A list of a million nils is a megabyte and takes 6 ms to decode;
the work of walking over it depends on its members, not on its bytes."""
COUNTED_AT_ONCE, COUNTED_ROUNDS = 16_384, 16
"""How many values are visited to count the containers among them. After that, every byte that may open one counts."""
LOOP_BYTES, LOOP_VALUES = 65_536, 1000
LOOP_CONTAINERS, LOOP_CONTAINERS_QUICK = 1024, 4096
"""What ``check_in_loop`` accepts. A list costs 1.3 µs if Python visits it, and 0.15 µs if only C does."""
LARGE_BYTES = 65_536
"""A smaller body cannot have more lists and maps than this, so they are not counted."""
FORBIDDEN_KEY = "__proto__"
"""The key that no map may have. JavaScript hosts assign keys to objects, and this key would replace the object's
prototype, so their MessagePack libraries throw or rename it. Every other key arrives unchanged."""
_FORBIDDEN_BYTES = FORBIDDEN_KEY.encode()
INT_MAX = 2**53 - 1
"""The largest integer that a JavaScript number represents exactly; the smallest is its negative."""

_FLOAT_MAX = 1.7976931348623157e308
_FAST_LEVELS = 8
LIST_KEYS_FREE = 128
"""With at most this many lists and maps in a body, we do not search for list keys: that many keys with one hash cost
0.2 ms."""
_PLAIN = frozenset((type(None), bool, str, bytes))
_CHECKED = frozenset((int, float, list, dict, datetime))

_Int = Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)]
_Float = Annotated[float, Meta(ge=-_FLOAT_MAX, le=_FLOAT_MAX)]  # refuses NaN and infinities


def _value_type(levels: int, leaf: Any) -> Any:
    """Values nested at most ``levels`` deep, with text as keys of maps and without bytes and timestamps, checked in C.
    (msgspec cannot distinguish text from bytes in one type.)"""
    nested: Any = leaf
    for _ in range(levels):
        nested = leaf | list[nested] | dict[str, nested]
    return nested


_decode_any = msgspec.msgpack.Decoder().decode
_decode_fast = msgspec.msgpack.Decoder(_value_type(_FAST_LEVELS, None | bool | _Int | _Float | str)).decode
_decode_plain = msgspec.msgpack.Decoder(_value_type(_FAST_LEVELS, None | bool | int | float | str)).decode

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


def decode_any(body: bytes | msgspec.Raw) -> Any:
    """The value of ``body``, whatever its type. A large one is decoded without the garbage collector.

    Raises what msgspec raises, and msgspec.ValidationError for many list keys. Python hashes a list of numbers without
    a secret, so the author of the body can give all of them one hash: 3,000 such keys (45 kB) keep the process busy for
    a quarter of a second, 50,000 for a minute. Text and bytes are hashed with a secret.
    """
    whole = bytes(body)
    check_keys(whole)
    return at_rest(_decode_any, whole)


def check_keys(body: bytes, values_max: int = 2**62) -> None:
    """Raises msgspec.ValidationError for a body with many lists and maps in which a list is a key. Call it before
    decoding without an expected type.

    In ordinary bodies, whose keys are text, C finds that out; others are walked over, and may have ``values_max``
    values.
    """
    if containers_at_most(body) <= LIST_KEYS_FREE:
        return
    try:
        at_rest(_decode_plain, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if fault := fault_of_shape(body, values_max):
            raise msgspec.ValidationError(fault) from None


def costly(body: bytes) -> bool:
    """Whether ``body`` has more lists and maps than a message may have."""
    return len(body) > CONTAINERS_MAX and containers_at_most(body) > CONTAINERS_MAX and (
        containers(body) > CONTAINERS_MAX)


def at_rest(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """``decode(body)``, without the garbage collector if ``body`` is large. Raises what ``decode`` raises."""
    if len(body) <= LARGE_BYTES or not gc.isenabled():
        return decode(body)
    gc.disable()
    try:
        return decode(body)
    finally:
        gc.enable()


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


def check_value(raw: bytes) -> Any:
    """The decoded value of ``raw`` if it satisfies the protocol's value rule. Raises INVALID_OUTPUT with the path.

    msgspec alone checks small ordinary values. Bytes, timestamps, deep nesting, and values large enough to have too
    many members are checked level by level, each level as a whole.
    """
    large = len(raw) > LARGE_BYTES  # a smaller value cannot have more members than a result may have
    if large and costly(bytes(raw)):  # it may be a msgspec.Raw
        raise WireError(Code.INVALID_OUTPUT, f"more than {CONTAINERS_MAX} lists and maps", {"path": "$"})
    try:
        if _FORBIDDEN_BYTES not in bytes(raw):
            value = at_rest(_decode_fast, raw)
            if not large or _is_well([[value]]):
                return value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # what follows either accepts the value or finds the place
    if containers_at_most(bytes(raw)) > LIST_KEYS_FREE and (fault := fault_of_shape(bytes(raw), MEMBERS_MAX)):
        raise WireError(Code.INVALID_OUTPUT, fault, {"path": "$"})
    try:
        value = at_rest(_decode_any, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        raise WireError(Code.INVALID_OUTPUT, "the value is not MessagePack", {"path": "$"}) from None
    if not _is_well([[value]]):
        _check([value])
    return value


class TooDear(Exception):
    """Checking the value would take the loop too long; ``str()`` says what it has too many of."""


def check_in_loop(raw: bytes) -> Any:
    """``check_value`` for a check while everybody waits: at most two milliseconds. Raises TooDear for a value that
    could take longer: over LOOP_BYTES with more than LOOP_VALUES values, or with too many lists and maps."""
    if len(raw) > LOOP_BYTES and not has_few_values(raw, LOOP_VALUES):
        raise TooDear(f"over {LOOP_BYTES} bytes with more than {LOOP_VALUES} values")
    found = containers_at_most(raw)
    if found > LOOP_CONTAINERS:
        found = containers(raw, 1)
        if found > LOOP_CONTAINERS_QUICK:
            raise TooDear(f"more than {LOOP_CONTAINERS_QUICK} lists and maps")
        if found > LOOP_CONTAINERS:
            try:
                _decode_fast(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise TooDear(f"more than {LOOP_CONTAINERS} lists and maps, with bytes or timestamps in them or more "
                              f"than {_FAST_LEVELS} deep") from None
    return check_value(raw)


def _is_well(level: list[Any]) -> bool:
    """Whether ``level`` satisfies the rule, checked in C as far as possible. False only means that ``_check`` has to
    find the place. Raises INVALID_OUTPUT for too many members."""
    members = 0
    for _ in range(DEPTH_MAX + 1):
        lists = [item for item in level if type(item) is list]
        inside: list[Any] = list(chain.from_iterable(lists))
        if len(lists) < len(level):
            maps = [item for item in level if type(item) is dict]
            if set(map(type, chain.from_iterable(maps))) - {str} or any(FORBIDDEN_KEY in item for item in maps):
                return False
            inside += chain.from_iterable(map(dict.values, maps))
        members += len(inside)
        if members > MEMBERS_MAX:
            raise WireError(Code.INVALID_OUTPUT, f"more than {MEMBERS_MAX} values", {"path": "$"})
        kinds = set(map(type, inside))
        if not kinds <= _PLAIN and not _leaves_are_well(inside, kinds):
            return False
        if not (list in kinds or dict in kinds):
            return True
        level = [item for item in inside if type(item) is list or type(item) is dict]
    return not any(level)  # what is inside them is too deep


def _leaves_are_well(members: Any, kinds: set[type]) -> bool:
    """Whether all of ``members``, which are of these ``kinds``, are allowed; whole lists are checked in C."""
    well = kinds <= _PLAIN | _CHECKED
    if well and int in kinds:
        whole = members if len(kinds) == 1 else [member for member in members if type(member) is int]
        well = min(whole) >= -INT_MAX and max(whole) <= INT_MAX
    if well and float in kinds:
        well = all(map(math.isfinite, members if len(kinds) == 1 else [m for m in members if type(m) is float]))
    if well and datetime in kinds:
        well = all(member.tzinfo is not None for member in members if type(member) is datetime)
    return well


class _At:
    """A list or map within the value, and its position: ``key`` in ``above``."""

    __slots__ = ("above", "inside", "key")

    def __init__(self, inside: Any, above: _At | None, key: Any) -> None:
        self.inside = inside
        self.above = above
        self.key = key

    def path(self, key: Any) -> str:
        """The path of the member ``key``, cut to 200 characters."""
        steps = []
        at: _At | None = self
        while at is not None:
            steps.append(step(key))
            key, at = at.key, at.above
        return ("$" + "".join(reversed(steps[:-1])))[:200]  # the last step is the list that ``_check`` begins with


def _refused(at: _At, key: Any, why: str) -> WireError:
    path = at.path(key)
    return WireError(Code.INVALID_OUTPUT, f"{path}: {why}", {"path": path})


def _check(root: list[Any]) -> None:
    """Checks the value in ``root`` against the rule, level by level."""
    level = [_At(root, None, 0)]
    for depth in range(DEPTH_MAX + 2):
        below: list[_At] = []
        for at in level:
            inside = at.inside
            if type(inside) is dict:
                if set(map(type, inside)) - {str}:
                    path = at.above.path(at.key) if at.above is not None else "$"
                    raise WireError(Code.INVALID_OUTPUT, f"{path}: a key is not a string", {"path": path})
                if FORBIDDEN_KEY in inside:
                    raise _refused(at, FORBIDDEN_KEY, "a map may not have this key")
                members: Any = inside.values()
            else:
                members = inside
            kinds = set(map(type, members))
            if members and depth > DEPTH_MAX:
                first = next(iter(inside)) if type(inside) is dict else 0
                raise _refused(at, first, f"nested deeper than {DEPTH_MAX} levels")
            if not kinds <= _PLAIN:
                _check_leaves(at, members, kinds)
            if list in kinds or dict in kinds:
                pairs: Iterable[Any] = inside.items() if type(inside) is dict else enumerate(inside)
                below += [_At(child, at, key) for key, child in pairs if type(child) is list or type(child) is dict]
        if not below:
            return
        level = below


def _check_leaves(at: _At, members: Any, kinds: set[type]) -> None:
    """Raises for the first member that is not allowed; whole lists are checked in C if all is well."""
    if _leaves_are_well(members, kinds):
        return
    pairs = at.inside.items() if type(at.inside) is dict else enumerate(at.inside)
    for key, member in pairs:
        kind = type(member)
        if kind is int and not -INT_MAX <= member <= INT_MAX:
            raise _refused(at, key, "integer beyond ±(2^53−1): return str(value)")
        if kind is float and not math.isfinite(member):
            raise _refused(at, key, f"{member} is not finite: return None")
        if (kind not in _PLAIN and kind not in _CHECKED) or (kind is datetime and member.tzinfo is None):
            raise _refused(at, key, f"a value of type {kind.__name__} cannot be sent")
