"""What each hook takes and returns: the payload and result schemas of the document, checked by msgspec.

Generic parts stay undecoded; ``values.check_value`` holds results to the value rule.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from apex_exec.errors import Code, WireError
from apex_exec.wire.values import check_value

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class DashboardPayload(Struct, rename="camel"):
    dashboard_id: str
    user_id: str | UnsetType = UNSET


class DataFetchPayload(Struct, rename="camel"):
    query: str
    filters: dict[str, Raw]


class ActionPayload(Struct, rename="camel"):
    action: str
    context: dict[str, Raw]


class AuthPayload(Struct, rename="camel"):
    session_id: str
    user_id: str | UnsetType = UNSET


class Widget(Struct):
    id: str
    component: str
    props: dict[str, Any]


class DashboardResult(Struct, rename="camel"):
    custom_widgets: list[Widget]


class DataFetchResult(Struct, rename="camel"):
    transformed_data: Any


class ActionResult(Struct):
    result: Any
    metadata: dict[str, Any]


PAYLOAD_TYPES: dict[str, type[Struct]] = {
    "onDashboardLoad": DashboardPayload,
    "onDataFetch": DataFetchPayload,
    "onActionExecute": ActionPayload,
    "onAuthSuccess": AuthPayload,
}
RESULT_TYPES: dict[str, type] = {
    "onDashboardLoad": DashboardResult,
    "onDataFetch": DataFetchResult,
    "onActionExecute": ActionResult,
    "onAuthSuccess": type(None),
}
_PAYLOADS = {hook: msgspec.msgpack.Decoder(kind) for hook, kind in PAYLOAD_TYPES.items()}


def check_user(user_id: str) -> str:
    """``user_id`` lower-cased. Raises INVALID_INPUT where it is no UUID of 8-4-4-4-12 hexadecimal."""
    lowered = user_id.lower()
    if not _UUID.fullmatch(lowered):
        raise WireError(Code.INVALID_INPUT, "userId is not a UUID of 8-4-4-4-12 hexadecimal", {"path": "$.userId"})
    return lowered


def check_payload(hook: str, payload: bytes, user_id: str) -> None:
    """Raises INVALID_INPUT with ``details.path`` where ``payload`` does not fit ``hook`` or names another user."""
    try:
        decoded = _PAYLOADS[hook].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text, _, path = str(error).partition(" - at ")
        where = "$.payload" + path.strip("`").removeprefix("$")
        raise WireError(Code.INVALID_INPUT, f"payload: {text}", {"path": where}) from None
    named = getattr(decoded, "user_id", UNSET)
    if named is not UNSET and named.lower() != user_id:
        raise WireError(Code.INVALID_INPUT, "payload.userId is not the caller", {"path": "$.payload.userId"})


def check_result(hook: str, result: bytes) -> None:
    """Raises INVALID_OUTPUT with ``details.path`` where ``result`` breaks the value rule or the hook's schema."""
    value = check_value(result)
    try:
        msgspec.convert(value, RESULT_TYPES[hook])
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        raise WireError(Code.INVALID_OUTPUT, f"result: {text}", {"path": path.strip("`") or "$"}) from None
