"""Checks payloads and results against their hook's declaration (``catalogue.hooks``), using msgspec.

Generic parts stay undecoded; ``values.check_value`` checks results against the value rule.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from apex_exec.catalogue.hooks import HOOKS, Widget
from apex_exec.common.names import UUID
from apex_exec.errors import Code, WireError
from apex_exec.wire.error_paths import text_and_path
from apex_exec.wire.values import check_value, decode_any


def check_user(user_id: str) -> str:
    """``user_id`` in lower case. Raises INVALID_INPUT if it is not a UUID of 8-4-4-4-12 hexadecimal digits."""
    lowered = user_id.lower()
    if not UUID.fullmatch(lowered):
        raise WireError(Code.INVALID_INPUT, "userId is not a UUID of 8-4-4-4-12 hexadecimal", {"path": "$.userId"})
    return lowered


def is_decodable(payload: bytes) -> bool:
    """Whether all of ``payload`` is MessagePack."""
    try:
        decode_any(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _with_maps(hook: str, payload: Raw) -> Raw | None:
    """``payload`` with empty maps in place of empty arrays, as PHP and Lua write them; None if there is none."""
    try:
        value = decode_any(payload)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    if value == []:
        return Raw(_encode({}))
    empty = [field for field in HOOKS[hook].map_fields if isinstance(value, dict) and value.get(field) == []]
    return Raw(_encode({**value, **dict.fromkeys(empty, {})})) if empty else None


def check_payload(hook: str, payload: Raw, user_id: str) -> Raw:
    """``payload`` as the plugin gets it. Raises INVALID_INPUT with ``details.path`` if it does not fit ``hook`` or
    names another user. Only the hook's own fields are checked, not what is below them."""
    try:
        decoded = HOOKS[hook].decode_params(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _with_maps(hook, payload)
        if mended is not None:
            return check_payload(hook, mended, user_id)
        text, path = text_and_path(error)
        raise WireError(Code.INVALID_INPUT, f"payload: {text}", {"path": f"$.payload{path[1:]}"}) from None
    named = getattr(decoded, "user_id", UNSET)
    if named is not UNSET and named.lower() != user_id:
        raise WireError(Code.INVALID_INPUT, "payload.userId must be the caller", {"path": "$.payload.userId"})
    return payload


class Rendering(Struct, frozen=True):
    """What a plugin may render. ``denied`` says why it may render nothing ("" if it may); ``components`` are those that
    the platform renders (empty: any)."""

    denied: str = ""
    components: frozenset[str] = frozenset()


ANYTHING = Rendering()


def check_result(hook: str, result: bytes, rendering: Rendering = ANYTHING) -> None:
    """Raises INVALID_OUTPUT with ``details.path`` if ``result`` breaks the value rule or the hook's schema, or has a
    widget whose component the platform does not render. Raises PERMISSION_DENIED if it has widgets but the plugin may
    not render."""
    value = check_value(result)
    declared = HOOKS[hook]
    try:
        found: Any = msgspec.convert(value, declared.result)
    except msgspec.ValidationError as error:
        text, path = text_and_path(error)
        raise WireError(Code.INVALID_OUTPUT, f"result: {text}", {"path": path}) from None
    if declared.renders and found.custom_widgets:
        _check_widgets(found.custom_widgets, rendering)


def _check_widgets(widgets: list[Widget], rendering: Rendering) -> None:
    """Checks a widget in a result by the rules of ``renderWidget``, because it is rendered in the same way."""
    if rendering.denied:
        raise WireError(Code.PERMISSION_DENIED, f"customWidgets: {rendering.denied}", {"method": "renderWidget"})
    if not rendering.components:
        return
    for index, widget in enumerate(widgets):
        if widget.component not in rendering.components:
            path = f"$.customWidgets[{index}].component"
            raise WireError(Code.INVALID_OUTPUT, f"{path}: the platform does not render {widget.component[:64]!r}",
                            {"path": path})


_decode_text = msgspec.msgpack.Decoder(str).decode
_decode_fields = msgspec.msgpack.Decoder(dict[str, Raw] | None).decode
_decode_widgets = msgspec.msgpack.Decoder(list[dict[str, Raw]]).decode
_decode_items = msgspec.msgpack.Decoder(list[Raw]).decode
_encode = msgspec.msgpack.Encoder().encode
_NIL = b"\xc0"


def parts_of(name: str, result: bytes, plugin: str) -> Any:
    """The parts of a result that passed ``check_result`` of which ``core.dispatch`` makes its reply. We decode no more
    than necessary; the rest stays encoded, because it may be a megabyte.

    A hook that ``collects`` returns that list, with ``plugin`` as a prefix to the ids of widgets. A chain returns the
    fields for the next plugin, without those that are nil. Any other hook returns the whole result, or None if it has
    not answered; a void hook returns None.
    """
    hook = HOOKS[name]
    if hook.void:
        return None
    if hook.collects:
        found = (_decode_fields(result) or {})[hook.collects]
        if not hook.renders:
            return [Raw(item) for item in _decode_items(found)]
        return [{**widget, "id": Raw(_encode(f"{plugin}/{_decode_text(widget['id'])}"))}
                for widget in _decode_widgets(found)]
    if hook.mode == "chain":
        fields = _decode_fields(result) or {}
        return {field: Raw(fields[field]) for field in hook.carries.values()
                if field in fields and bytes(fields[field]) != _NIL}
    answer = (_decode_fields(result) or {}).get(hook.answers, _NIL) if hook.answers else result
    return None if bytes(answer) == _NIL else Raw(result)
