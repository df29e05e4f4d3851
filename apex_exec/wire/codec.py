"""The coding of host messages, with limits on size and depth. Pure; never blocks."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from apex_exec.errors import Code, WireError
from apex_exec.wire.error_paths import step, text_and_path
from apex_exec.wire.messages import HostRequest
from apex_exec.wire.values import (
    CONTAINERS_MAX,
    DEPTH_MAX,
    INT_MAX,
    containers_at_most,
    costly,
    decode_any,
    deeper_than,
)

PEEK_KEYS_MAX = 8
"""How many of a message's first keys are searched for its id if the message is not decoded."""
PEEK_ITEMS_MAX = 256
"""How many values are skipped during that search."""
_decode_request = msgspec.msgpack.Decoder(HostRequest).decode

_AnyId = Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[str, Meta(min_length=1, max_length=64)] | float


class _OnlyId(msgspec.Struct):
    id: _AnyId


_LEFT_OUT = re.compile(r"missing required field `(\w+)`")
MAP_FIELDS = ("args", "error")
"""The fields of the envelope that are maps and are decoded with it."""
_decode_fields = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_ANY_ID = msgspec.Raw(b"\x00")
_decode_id = msgspec.msgpack.Decoder(_AnyId).decode
_decode_only_id = msgspec.msgpack.Decoder(_OnlyId).decode
# Sizes by a value's first byte: for values of a fixed size, and for those with a length (its bytes, and ext's type).
_FIXED_BYTES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
                0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_LENGTH_BYTES = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
                 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}


def decode_request(body: bytes, bytes_max: int) -> HostRequest:
    """The one message in ``body``. Raises WireError with the wire code and, if it is known, ``details.path``."""
    if len(body) > bytes_max:
        raise WireError(Code.PAYLOAD_TOO_LARGE, f"the message has {len(body)} bytes, the limit is {bytes_max}")
    if containers_at_most(body) > DEPTH_MAX:
        check_depth(body)
    try:
        request: HostRequest = _decode_request(body)
        return request
    except msgspec.ValidationError as error:
        if "got `float`" in str(error):  # JavaScript has one number type: in the envelope, 5.0 means 5
            whole = _integral_envelope(body)
            if whole is not None:
                return decode_request(whole, len(whole))
        if "got `array`" in str(error) and (mapped := _with_maps(body)) is not None:
            return decode_request(mapped, len(mapped))
        text, path = text_and_path(error)
        if path == "$" and (left_out := _LEFT_OUT.search(text)):
            path = f"$.{left_out[1]}"
        is_nobodys = path in ("$.type", "$.id", "$")
        raise WireError(Code.PROTOCOL_ERROR if is_nobodys else Code.INVALID_INPUT, text,
                        {"path": path} if path != "$" else None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if path := _unreadable(body):
            raise WireError(Code.INVALID_INPUT, f"{path}: not UTF-8 text, or not a valid value (half an emoji, a date "
                            "out of range)", {"path": path}) from None
        raise WireError(Code.PROTOCOL_ERROR, "the body is not a MessagePack map of this protocol") from None


def _unreadable(body: bytes) -> str:
    """The path of the envelope's first field that cannot be read, if the message is otherwise valid; else ""."""
    try:
        fields = _decode_fields(body)
        if not isinstance(decode_any(bytes(fields["type"])), str):
            return ""
        _decode_id(fields.get("id", _ANY_ID))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError, OverflowError):
        return ""
    for key, value in fields.items():
        try:
            decode_any(bytes(value))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
            return f"${step(key)}"
    return ""


def _with_maps(body: bytes) -> bytes | None:
    """``body`` with empty maps in place of the envelope's empty arrays, as PHP and Lua write them; None if there is
    none."""
    try:
        message = decode_any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError, OverflowError):
        return None
    if not isinstance(message, dict):
        return None
    empty = [key for key in MAP_FIELDS if message.get(key) == []]
    return msgspec.msgpack.encode({**message, **dict.fromkeys(empty, {})}) if empty else None


def _integral_envelope(body: bytes) -> bytes | None:
    """``body`` with the envelope's integral floats as integers; None if there is none (so we never recurse twice)."""
    try:
        message = decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return None
    if not isinstance(message, dict):
        return None
    changed = False
    for key in ("id", "target", "deadlineMs", "callId"):
        value = message.get(key)
        if isinstance(value, float) and value.is_integer() and abs(value) <= INT_MAX:
            message[key] = int(value)
            changed = True
    versions = message.get("protocol")
    if isinstance(versions, list) and any(isinstance(item, float) and item.is_integer() for item in versions):
        message["protocol"] = [int(x) if isinstance(x, float) and x.is_integer() else x for x in versions]
        changed = True
    return msgspec.msgpack.encode(message) if changed else None


def id_of(body: bytes, code: Code) -> int | str | None:
    """The id of a refused message. A body that is not MessagePack has none; a body that is too large is not decoded for
    it."""
    if code is Code.PAYLOAD_TOO_LARGE:
        return peek_id(body)
    try:
        return _whole_id(_decode_only_id(body).id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def peek_id(body: bytes) -> int | str | None:
    """The id in a body that is too large or otherwise refused, if it is among the first keys; otherwise None.

    This walks over the heads of the values and decodes nothing: the work is bounded by PEEK_KEYS_MAX and
    PEEK_ITEMS_MAX, whatever the size and nesting of the body.
    """
    try:
        head = body[0]
        if head & 0xF0 == 0x80:
            count, at = head & 0x0F, 1
        elif head in (0xDE, 0xDF):
            size = 2 if head == 0xDE else 4
            count, at = int.from_bytes(body[1 : 1 + size], "big"), 1 + size
        else:
            return None
        budget = PEEK_ITEMS_MAX
        for _ in range(min(count, PEEK_KEYS_MAX)):
            is_id = body[at : at + 3] == b"\xa2id"
            at, budget = _skip(body, at, budget)
            begin = at
            at, budget = _skip(body, at, budget)
            if is_id:
                return _whole_id(_decode_id(body[begin:at]))
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError):
        pass
    return None


def _whole_id(value: int | str | float) -> int | str | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() and 0 <= value <= INT_MAX else None
    return value


def _skip(body: bytes, at: int, budget: int) -> tuple[int, int]:
    """The end of the value at ``at``, and what is left of ``budget``. Raises IndexError if the end is unknown."""
    left = 1
    while left:
        if budget <= 0:
            raise IndexError
        budget -= 1
        left -= 1
        head = body[at]
        at += 1
        if head <= 0x7F or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
            continue
        if head <= 0x8F:
            left += 2 * (head & 0x0F)
        elif head <= 0x9F:
            left += head & 0x0F
        elif head <= 0xBF:
            at += head & 0x1F
        elif head in _FIXED_BYTES:
            at += _FIXED_BYTES[head]
        elif head in _LENGTH_BYTES:
            size, extra = _LENGTH_BYTES[head]
            at += size + extra + int.from_bytes(body[at : at + size], "big")
        elif head in (0xDC, 0xDD, 0xDE, 0xDF):
            size = 2 if head in (0xDC, 0xDE) else 4
            left += int.from_bytes(body[at : at + size], "big") * (1 if head <= 0xDD else 2)
            at += size
        else:
            raise IndexError
        if at > len(body):
            raise IndexError
    return at, budget


def check_depth(body: bytes) -> None:
    """Raises PAYLOAD_TOO_LARGE if ``body`` nests deeper than DEPTH_MAX or has more than CONTAINERS_MAX lists and maps,
    and PROTOCOL_ERROR if it does not decode."""
    if costly(body):
        raise WireError(Code.PAYLOAD_TOO_LARGE, f"more than {CONTAINERS_MAX} lists and maps")
    try:
        value = decode_any(body)
    except RecursionError:
        raise WireError(Code.PAYLOAD_TOO_LARGE, f"nested deeper than {DEPTH_MAX} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, ValueError):
        raise WireError(Code.PROTOCOL_ERROR, "the body is not MessagePack") from None
    if deeper_than(value, DEPTH_MAX):
        raise WireError(Code.PAYLOAD_TOO_LARGE, f"nested deeper than {DEPTH_MAX} levels")


encode = msgspec.msgpack.Encoder().encode
"""Encodes a message as its body."""
