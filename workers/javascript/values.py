"""Values between MessagePack and the engine: JSON, with marks for what JSON has no word for.

``{MARK + "b": base64}`` is bytes, ``{MARK + "d": ms}`` a timestamp. Every zygote makes a new mark, so no payload and no
honest result is taken for one. A plugin that finds it out and forges one changes its own values only.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from workers.runtime.values import INT_MAX, NotAValue, check_value
from workers.wire import DEPTH_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MARK = secrets.token_hex(12)
_BYTES, _DATE = MARK + "b", MARK + "d"
_OPENING = bytes((*range(0xC4, 0xCA), *range(0xD4, 0xD9)))
"""The bytes that open binaries and extensions in MessagePack. In texts and numbers they mean nothing, and cost a closer
look. (``translate`` looks at a kilobyte in a microsecond, a regular expression in ten.)"""
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
LEVELS_MAX = 2 * DEPTH_MAX
"""Levels of a message of the prelude. The supervisor takes no value of more than DEPTH_MAX, and says where one is too
deep; this bound is for what no decoder should be asked to read. How deep CPython's own go depends on its version: 3.13
reads ten thousand levels."""
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_LONG = b"0" * 16
"""Every integer beyond ±(2^53−1) has at least 16 digits; here each digit is written as 0."""
_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_decode = msgspec.msgpack.Decoder().decode


def to_json(raw: bytes) -> tuple[str, bool]:
    """MessagePack as JSON, and whether it contains marks. Raises what msgspec raises."""
    return params_to_json(_decode(raw), not may_be_special(raw))


def params_to_json(value: Any, is_plain: bool) -> tuple[str, bool]:
    """The same for a value that was decoded. ``is_plain``: nothing in it needs a mark."""
    if is_plain or not _is_special(value):
        return _json(value).decode(), False
    return _json(_marked(value)).decode(), True


def may_be_special(raw: bytes) -> bool:
    """Whether the MessagePack may hold something that needs a mark."""
    return len(raw.translate(None, _OPENING)) < len(raw)


def _is_special(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return any(map(_is_special, value.values()))
    if kind is list:
        return any(map(_is_special, value))
    return kind is bytes or kind is datetime


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {_DATE: (value - _EPOCH) / timedelta(milliseconds=1)}
    return value


def read(text: str) -> tuple[dict[str, Any], bool]:
    """Parses one message of the prelude. Returns it, and whether some string in it is not Unicode (halves of surrogate
    pairs). Raises NotAValue if it is nested deeper than LEVELS_MAX."""
    try:
        message, is_odd = _decode_json(text), False
    except (msgspec.DecodeError, RecursionError):
        try:
            message, is_odd = json.loads(text), True
        except RecursionError:
            raise _too_deep() from None
    if not _is_shallow(text) and _levels(message) > LEVELS_MAX:
        raise _too_deep()
    return message, is_odd


def _too_deep() -> NotAValue:
    return NotAValue("$", "nested too deeply")


def _is_shallow(text: str) -> bool:
    """Whether the JSON ``text`` is certainly nested no deeper than LEVELS_MAX, at the cost of reading it once or twice
    in C. Brackets inside strings may hide that it is not deep."""
    if text.count("[") + text.count("{") <= LEVELS_MAX:
        return True
    brackets = text.encode("utf-8", "replace").translate(None, _NO_BRACKETS)
    for _ in range(LEVELS_MAX // 2):  # each round takes one or two levels away
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _levels(value: Any) -> int:
    """How deep ``value`` is nested; LEVELS_MAX + 1 for anything deeper than that."""
    levels, level = 0, [value]
    while levels <= LEVELS_MAX and (level := [one for one in level if isinstance(one, list | dict)]):
        levels += 1
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
    return levels


def from_json(value: Any, text: str, is_odd: bool) -> Any:
    """``value``, a part of the message ``text``, as plain data, bytes and datetimes. ``is_odd`` is what ``read`` said.

    Raises NotAValue with the path of what cannot be carried.
    """
    if is_odd:
        check_value(_as_floats(value))
    if MARK in text:
        value = _unmarked(value, "$")
    if _LONG in text.encode("utf-8", "replace").translate(_DIGITS):
        value = _as_floats(value)
    return value


def well_formed(text: str) -> str:
    """``text`` with a question mark for each half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _unmarked(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_unmarked(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key == _BYTES:
            try:
                return base64.b64decode(inner, validate=True)
            except (TypeError, ValueError, binascii.Error):
                raise NotAValue(path, "a forged mark") from None
        if key == _DATE:
            try:
                return _EPOCH + timedelta(milliseconds=inner)
            except OverflowError:
                raise NotAValue(path, "a Date outside the years 1 to 9999: return value.toISOString()") from None
            except TypeError:
                raise NotAValue(path, "a forged mark") from None
    return {key: _unmarked(item, f"{path}.{key[:64]}") for key, item in value.items()}


def _as_floats(value: Any) -> Any:
    """``value`` with each integer that is none in JavaScript as the float that it is there."""
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    return float(value) if type(value) is int and not -INT_MAX <= value <= INT_MAX else value
