"""The bodies of requests, made from the structs of the wire: a field that the wire gets is one here.

What HTTP gives by itself may be left out: the user is that of the token, the id only names a call to cancel.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from apex_exec.door.answers import Problem
from apex_exec.errors import Code
from apex_exec.wire import messages as msg
from apex_exec.wire.error_paths import field_and_path

BY_TOKEN = ("id", "user_id")
"""Fields of the wire that may be left out here."""


def _body_of(kind: Any) -> Any:
    """``kind`` as the body of a request: without its tag, and with the payload as a map."""
    required: list[Any] = []
    optional: list[Any] = []
    for field in msgspec.structs.fields(kind):
        type_ = dict[str, Any] if field.type is Raw else field.type
        if field.name in BY_TOKEN or field.default is not msgspec.NODEFAULT:
            optional.append((field.name, type_ | UnsetType if field.type is Raw else type_ | None | UnsetType, UNSET))
        else:
            required.append((field.name, type_))
    made = msgspec.defstruct(f"{kind.__name__}Body", [*required, *optional], rename="camel", kw_only=True)
    made.__doc__ = kind.__doc__
    return made


InvokeBody: Any = _body_of(msg.Invoke)
DispatchBody: Any = _body_of(msg.Dispatch)


class CancelBody(msgspec.Struct):
    """Ends the pending call that the same caller has named ``target`` by its ``id``."""

    target: msg.Id


def checked(body: dict[str, Any], kind: Any) -> Any:
    """``body`` as ``kind``. Raises Problem with the place of what is wrong."""
    payload = body.get("payload", UNSET)
    if payload is not UNSET and not isinstance(payload, dict):
        raise Problem(Code.INVALID_INPUT, "payload: Expected `object`", details={"path": "$.payload"})
    try:
        made = msgspec.convert({key: value for key, value in body.items() if key != "payload"}, kind)
    except msgspec.ValidationError as error:
        text, path = field_and_path(error)
        raise Problem(Code.INVALID_INPUT, text, details={"path": path}) from None
    if payload is not UNSET and hasattr(made, "payload"):
        made.payload = payload
    return made


def given(value: Any) -> Any:
    """``value``, None if the field was left out."""
    return None if value is UNSET else value
