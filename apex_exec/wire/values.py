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
from typing import Any

import msgspec

from apex_exec.errors import Code, WireError
from apex_exec.wire.error_paths import step
from workers.shape import (
    CONTAINERS_MAX,
    INT_MAX,
    LOOP_BYTES,
    LOOP_VALUES,
    QUICK_LEVELS,
    SHORT_BYTES,
    STEPPED_OVER,
    containers,
    containers_at_most,
    decode_quick,
    deeper_than,
    fault_of_shape,
    has_few_values,
    nested_type,
    too_dear,
)

__all__ = ["CONTAINERS_MAX", "INT_MAX", "LOOP_BYTES", "LOOP_VALUES", "SHORT_BYTES", "STEPPED_OVER", "containers",
           "containers_at_most", "deeper_than", "fault_of_shape", "has_few_values"]
DEPTH_MAX = 64
MEMBERS_MAX = 65_536
"""The most values in all lists and maps of one result. A list of a million nils is a megabyte and takes 6 ms to decode;
the work of walking over it depends on its members, not on its bytes."""
LARGE_BYTES = 65_536
"""A smaller body cannot have more lists and maps than this, so they are not counted."""
FORBIDDEN_KEY = "__proto__"
"""The key that no map may have. JavaScript hosts assign keys to objects, and this key would replace the object's
prototype, so their MessagePack libraries throw or rename it. Every other key arrives unchanged."""
_FORBIDDEN_BYTES = FORBIDDEN_KEY.encode()
LIST_KEYS_FREE = 128
"""With at most this many lists and maps in a body, we do not search for list keys: that many keys with one hash cost
0.2 ms."""
_PLAIN = frozenset((type(None), bool, str, bytes))
_CHECKED = frozenset((int, float, list, dict, datetime))

_decode_any = msgspec.msgpack.Decoder().decode
_decode_plain = msgspec.msgpack.Decoder(nested_type(QUICK_LEVELS, None | bool | int | float | str)).decode


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
            value = at_rest(decode_quick, raw)
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
    could take longer."""
    if fault := too_dear(raw):
        raise TooDear(fault)
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
