"""What a hook may return: null, bool, finite float, int within ±(2^53−1), str, bin, array, map, aware timestamp.

The supervisor's check decides, and this one only helps. But only here do we see what MessagePack would silently turn
into something else (a UUID into a string, a set into an array).
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from workers.wire import DEPTH_MAX

INT_MAX = 2**53 - 1
FORBIDDEN_KEY = "__proto__"
"""No map may have this key, because a JavaScript host cannot use it."""
_encode = msgspec.msgpack.Encoder().encode
_SCALARS = frozenset((type(None), bool, int, float, str, bytes))


class NotAValue(Exception):
    """The value cannot be sent; ``path`` says where the fault is."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def is_plain(value: Any) -> bool:
    """True if nothing in ``value`` could change on its way: exactly the built-in types. Ranges are not checked."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _SCALARS and not is_plain(item)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:
            if type(item) not in _SCALARS and not is_plain(item):
                return False
        return True
    return False


def check_value(value: Any, path: str = "$", depth: int = 0) -> None:
    """Raises NotAValue if ``value`` contains something that the protocol cannot carry."""
    if value is None or isinstance(value, bool | bytes):
        return
    if depth > DEPTH_MAX:
        raise NotAValue(path[:200], f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotAValue(path, "a string that is not UTF-8 (a lone surrogate)") from None
    elif isinstance(value, int):
        if not -INT_MAX <= value <= INT_MAX:
            raise NotAValue(path, "an integer beyond ±(2^53−1): return str(value)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotAValue(path, "a float that is not finite: return None")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_value(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotAValue(path, "a map key that is not a string: use str(key)")
            if key == FORBIDDEN_KEY:
                raise NotAValue(f"{path}.{key}", "a map may not have this key")
            check_value(key, path, depth)
            check_value(item, f"{path}.{key[:64]}", depth + 1)
    elif not (isinstance(value, datetime) and value.tzinfo is not None):
        name = type(value).__name__
        raise NotAValue(path, f"a {name}, which MessagePack cannot carry here: {_instead(type(value), name)}")


def encoded(value: Any, path: str = "$", depth: int = 0) -> bytes:
    """``value`` as MessagePack, nothing in it changed. Raises NotAValue, RecursionError."""
    if not is_plain(value):
        check_value(value, path, depth)
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        check_value(value, path, depth)
        raise NotAValue(path, str(error)) from None


_INSTEAD = {"Decimal": "write str(value)", "Fraction": "write str(value)", "UUID": "write str(value)",
            "date": "write value.isoformat()", "time": "write value.isoformat()",
            "timedelta": "write value.total_seconds()",
            "datetime": "give it a time zone, value.replace(tzinfo=UTC), or write value.isoformat()",
            "set": "write sorted(value)", "frozenset": "write sorted(value)", "generator": "write list(value)",
            "bytearray": "write bytes(value)", "memoryview": "write bytes(value)", "ndarray": "write value.tolist()"}
"""Looked up by the class's name, so that none of these classes has to be loaded."""


def _instead(kind: type, name: str) -> str:
    members = vars(kind)
    if "_member_map_" in members:
        return "write value.value"
    if "__dataclass_fields__" in members:
        return "write dataclasses.asdict(value)"
    return _INSTEAD.get(name, "return maps, lists, texts, numbers, bytes or datetimes with a time zone")
