"""Values of the protocol as JSON and back: nothing is lost on the way, and nothing becomes something else.

JSON has no bytes, no moments and, as JavaScript reads it, no integers beyond 2**53. Each of these is a map with one
key: ``{"$bin": base64}``, ``{"$time": RFC 3339}``, ``{"$int": decimal}``. A map that looks like one of them, but is
none, gets one more dollar: ``{"$$bin": …}``. What JSON says twice, or what would become infinite, is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.errors import Code, WireError
from apex_exec.wire.values import CONTAINERS_MAX, INT_MAX

WIRE_INT_MIN, WIRE_INT_MAX = -(2**63), 2**64 - 1
"""What MessagePack carries."""
_SPECIAL = re.compile(r"\$+(?:bin|time|int)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)")
_INT = re.compile(r"-?(?:0|[1-9]\d{0,19})")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)
"""Also one that does not end: if it did not match, each quote in it would be looked at as another beginning, which
takes hours for a megabyte."""


def decode(body: bytes) -> dict[str, Any]:
    """The object in ``body``. Raises WireError: PROTOCOL_ERROR if it is not a JSON object, PAYLOAD_TOO_LARGE if it
    nests too deep or has too many lists and maps, INVALID_INPUT for a value that the protocol does not have."""
    if body.count(b"[") + body.count(b"{") > CONTAINERS_MAX:
        bare = _STRINGS.sub(b"", body)
        if bare.count(b"[") + bare.count(b"{") > CONTAINERS_MAX:
            raise WireError(Code.PAYLOAD_TOO_LARGE, f"the body has more than {CONTAINERS_MAX} lists and maps")
    try:
        found = _decode(body.decode())
    except RecursionError:
        raise WireError(Code.PAYLOAD_TOO_LARGE, "the body is nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number with thousands of digits
        raise WireError(Code.PROTOCOL_ERROR, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise WireError(Code.PROTOCOL_ERROR, "the body is not a JSON object")
    return found


def encode(value: Any) -> bytes:
    """A reply as JSON."""
    return _encode(plain(value))


def plain(value: Any) -> Any:
    """``value`` in what JSON has."""
    kind = type(value)
    if kind is str or value is None or kind is bool or kind is float:
        return value
    if kind is dict:
        if len(value) == 1:
            (key, inner), = value.items()
            return {f"${key}" if _SPECIAL.fullmatch(key) else key: plain(inner)}
        return {key: plain(inner) for key, inner in value.items()}
    if kind is list:
        return [plain(inner) for inner in value]
    if kind is int:
        return value if -INT_MAX <= value <= INT_MAX else {"$int": str(value)}
    if kind is bytes:
        return {"$bin": base64.b64encode(value).decode()}
    if kind is datetime:
        return {"$time": value.astimezone(UTC).isoformat().replace("+00:00", "Z")}
    raise WireError(Code.INTERNAL, f"a {kind.__name__} cannot be written as JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One JSON object, once what is in it has been read."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise WireError(Code.INVALID_INPUT, f"an object has the key {twice[:50]!a} twice; remove one of them")
    if len(pairs) == 1 and (key := pairs[0][0])[:1] == "$" and _SPECIAL.fullmatch(key):
        return {key[1:]: pairs[0][1]} if key[1] == "$" else _value(key, pairs[0][1])
    return made


def _value(key: str, written: Any) -> Any:
    try:
        if isinstance(written, str):
            if key == "$bin":
                return base64.b64decode(written, validate=True)
            if key == "$time" and _TIME.fullmatch(written):
                return datetime.fromisoformat(written)
            if key == "$int" and _INT.fullmatch(written):
                return _whole(written)
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise WireError(Code.INVALID_INPUT, f'{{"{key}": …}} is not {_MEANT[key]}; a map with this one key is written '
                    f'{{"${key}": …}}')


_MEANT = {"$bin": "base64 of RFC 4648 with its padding", "$int": "an integer of 64 bits",
          "$time": "a moment with its offset and at most microseconds, such as 2026-01-31T12:00:00Z"}


def _whole(text: str) -> int:
    number = int(text)
    if not WIRE_INT_MIN <= number <= WIRE_INT_MAX:
        raise WireError(Code.INVALID_INPUT, "an integer does not fit in 64 bits; send it as a string")
    return number


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise WireError(Code.INVALID_INPUT, f"the number {text[:40]} is too large for a float")
    return number


def _constant(text: str) -> Any:
    raise WireError(Code.INVALID_INPUT, f"{text} is not valid JSON; write a string, or null")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_whole,
                           parse_constant=_constant).decode
_encode = msgspec.json.Encoder().encode
