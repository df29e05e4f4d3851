"""What each hook takes and returns: the payload and result schemas of the document, checked by msgspec.

Generic parts stay undecoded; ``values.check_value`` holds results to the value rule.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from apex_exec.common.names import UUID
from apex_exec.errors import Code, WireError
from apex_exec.wire.error_paths import told
from apex_exec.wire.values import check_value, decode_any


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


WIDGETS_MAX = 1000
"""Of one plugin on one dashboard. A dispatch holds those of every plugin at once and prefixes each one's id."""


class DashboardResult(Struct, rename="camel"):
    custom_widgets: Annotated[list[Widget], Meta(max_length=WIDGETS_MAX)]


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
    if not UUID.fullmatch(lowered):
        raise WireError(Code.INVALID_INPUT, "userId is not a UUID of 8-4-4-4-12 hexadecimal", {"path": "$.userId"})
    return lowered


MAP_FIELDS = {"onDataFetch": ("filters",), "onActionExecute": ("context",)}
"""Fields that are maps. PHP and Lua write an empty one as an empty array."""


def is_decodable(payload: bytes) -> bool:
    """Whether ``payload`` is MessagePack throughout."""
    try:
        decode_any(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _with_maps(hook: str, payload: Raw) -> Raw | None:
    """``payload`` with an empty map where an empty array stands for one; None if there is none."""
    try:
        value = decode_any(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    if value == []:
        return Raw(_encode({}))
    empty = [field for field in MAP_FIELDS.get(hook, ()) if isinstance(value, dict) and value.get(field) == []]
    return Raw(_encode({**value, **dict.fromkeys(empty, {})})) if empty else None


def check_payload(hook: str, payload: Raw, user_id: str) -> Raw:
    """``payload`` as the plugin gets it. Raises INVALID_INPUT with ``details.path`` if it does not fit ``hook`` or
    names another user. What lies below the hook's own fields is not looked at."""
    try:
        decoded = _PAYLOADS[hook].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _with_maps(hook, payload)
        if mended is not None:
            return check_payload(hook, mended, user_id)
        text, path = told(error)
        raise WireError(Code.INVALID_INPUT, f"payload: {text}", {"path": f"$.payload{path[1:]}"}) from None
    named = getattr(decoded, "user_id", UNSET)
    if named is not UNSET and named.lower() != user_id:
        raise WireError(Code.INVALID_INPUT, "payload.userId is not the caller", {"path": "$.payload.userId"})
    return payload


class Rendering(Struct, frozen=True):
    """What a plugin may render: ``denied`` says why it may render nothing ("" if it may), and ``components`` are those
    that the platform renders (empty: any)."""

    denied: str = ""
    components: frozenset[str] = frozenset()


ANYTHING = Rendering()


def check_result(hook: str, result: bytes, rendering: Rendering = ANYTHING) -> None:
    """Raises INVALID_OUTPUT with ``details.path`` if ``result`` breaks the value rule or the hook's schema, or holds a
    widget whose component is not rendered; PERMISSION_DENIED if it holds widgets of a plugin that may not render."""
    value = check_value(result)
    try:
        found: Any = msgspec.convert(value, RESULT_TYPES[hook])
    except msgspec.ValidationError as error:
        text, path = told(error)
        raise WireError(Code.INVALID_OUTPUT, f"result: {text}", {"path": path}) from None
    if hook == "onDashboardLoad" and found.custom_widgets:
        _check_widgets(found.custom_widgets, rendering)


def _check_widgets(widgets: list[Widget], rendering: Rendering) -> None:
    """A widget in a result is rendered as one of ``renderWidget`` is, so that the same rules bind it."""
    if rendering.denied:
        raise WireError(Code.PERMISSION_DENIED, f"customWidgets: {rendering.denied}", {"method": "renderWidget"})
    if not rendering.components:
        return
    for index, widget in enumerate(widgets):
        if widget.component not in rendering.components:
            path = f"$.customWidgets[{index}].component"
            raise WireError(Code.INVALID_OUTPUT, f"{path}: the platform does not render {widget.component[:64]!r}",
                            {"path": path})


class _DashboardParts(Struct, rename="camel"):
    custom_widgets: list[dict[str, Raw]]


class _DataParts(Struct, rename="camel"):
    transformed_data: Raw


class _ActionParts(Struct):
    result: Raw


_PARTS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    hook: msgspec.msgpack.Decoder(kind) for hook, kind in {
        "onDashboardLoad": _DashboardParts, "onDataFetch": _DataParts, "onActionExecute": _ActionParts}.items()}
_decode_text = msgspec.msgpack.Decoder(str).decode
_encode = msgspec.msgpack.Encoder().encode
_NIL = b"\xc0"


def parts_of(hook: str, result: bytes, plugin: str) -> Any:
    """What a dispatch makes of a result that ``check_result`` let pass. It looks inside as far as it must; the rest
    stays as it came, since it may be a megabyte.

    ``onDashboardLoad`` gives the widgets as maps, their ids prefixed with ``plugin``; ``onDataFetch`` the data;
    ``onActionExecute`` the whole result. The last two are None if the hook gave nil; ``onAuthSuccess`` gives nothing.
    """
    if hook not in _PARTS:
        return None
    found = _PARTS[hook].decode(result)
    if hook == "onDashboardLoad":
        return [{**widget, "id": Raw(_encode(f"{plugin}/{_decode_text(widget['id'])}"))}
                for widget in found.custom_widgets]
    if hook == "onDataFetch":
        return None if bytes(found.transformed_data) == _NIL else Raw(found.transformed_data)
    return None if bytes(found.result) == _NIL else Raw(result)
