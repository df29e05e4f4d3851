"""The door as OpenAPI 3.1, made from the structs that its requests are decoded by and its answers are made of."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from apex_exec import __version__
from apex_exec.door import bodies
from apex_exec.door.answers import JSON, PROBLEM, STATUS
from apex_exec.wire import messages as msg

VALUES = (
    'Values that JSON does not have are maps with one key: bytes {"$bin": base64}, moments {"$time": RFC 3339}, '
    'integers beyond 2**53 {"$int": decimal}. A map of your own that looks like one of these gets one more dollar.')


class Problem(msgspec.Struct, rename="camel"):
    """Problem details (RFC 9457). ``started``: plugin code may have run; ``retryable``: the same request may be sent
    again without running anything twice."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    started: bool
    retryable: bool
    plugin: str | UnsetType = UNSET
    action: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET
    usage: msg.Usage | UnsetType = UNSET


class Cancelled(msgspec.Struct, tag="cancelled", tag_field="type"):
    """``found`` is false if no call of that name was pending."""

    target: msg.Id
    found: bool


class AuditPage(msgspec.Struct):
    """Events, oldest first; ``next`` is the ``after`` of the next request."""

    events: list[dict[str, Any]]
    next: int
    first: int
    last: int


def document() -> dict[str, Any]:
    """The whole document."""
    answers = [_answer_of(msg.Result), _answer_of(msg.Dispatched), Cancelled, _answer_of(msg.PluginList)]
    shapes, components = msgspec.json.schema_components(
        [bodies.InvokeBody, bodies.DispatchBody, bodies.CancelBody, *answers, AuditPage, Problem],
        ref_template="#/components/schemas/{name}")
    invoke, dispatch, cancel, result, dispatched, cancelled, plugins, page, problem = shapes
    keyed = [_header("Idempotency-Key", "string", "Sends this request once: the same answer while the key lives."),
             _header("Deadline-Ms", "integer", "Milliseconds for queue, start and run; the nearer of this and "
                     "`deadlineMs` counts."),
             _header("traceparent", "string", "W3C Trace Context; it stands in the ledger, and the daemon's spans "
                     "are below it if it exports traces.")]
    user = {"name": "userId", "in": "query", "schema": {"type": "string"},
            "description": "Those enabled for this user; default: the token's own."}
    after = {"name": "after", "in": "query", "schema": {"type": "integer", "minimum": 0},
             "description": "The number of the last event that you have."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "apex-exec: the HTTP door", "version": __version__, "license": {
            "name": "Apache-2.0", "identifier": "Apache-2.0"}, "description": VALUES},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": {
            "/v1/invoke": {"post": _post("invoke", "Runs one hook of one plugin.", invoke, result, problem, keyed)},
            "/v1/dispatch": {"post": _post("dispatch", "Sends one event to every enabled plugin that declares the "
                                           "hook.", dispatch, dispatched, problem, keyed)},
            "/v1/cancel": {"post": _post("cancel", "Ends a call that the same caller has named by `id`.", cancel,
                                         cancelled, problem, [])},
            "/v1/plugins": {"get": _get("plugins", "The enabled plugins.", plugins, problem, [user])},
            "/v1/audit": {"get": _get(
                "audit", "The ledger's events: one page, or a stream with `Accept: text/event-stream`.", page, problem,
                [after, *({"name": name, "in": "query", "schema": {"type": "string"}}
                          for name in ("plugin", "user", "type", "result"))], stream=True)},
            "/v1/openapi.json": {"get": _open("openapi", "This document.")},
            "/livez": {"get": _open("livez", "Whether the door runs.")},
            "/readyz": {"get": _open("readyz", "Whether the door has a daemon.")}},
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description":
                                           "A token of `apex-exec door token new`, or a JSON Web Token."}}}}


def _answer_of(kind: Any) -> Any:
    """An answer of the wire without its id, which belongs to the door's own connection."""
    config = kind.__struct_config__
    fields: list[Any] = []
    for field in msgspec.structs.fields(kind):
        if field.name != "id":
            fields.append((field.name, Any if field.type is msgspec.Raw else field.type))
    made = msgspec.defstruct(f"{kind.__name__}Answer", fields, tag_field=config.tag_field, tag=config.tag,
                             rename="camel", kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _header(name: str, type_: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": type_}, "description": description}


def _post(id_: str, summary: str, body: Any, answer: Any, problem: Any, parameters: list[Any]) -> dict[str, Any]:
    return {"operationId": id_, "summary": summary, "parameters": parameters,
            "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
            "responses": {"200": {"description": "Done", "content": {JSON: {"schema": answer}}},
                          "default": _problem(problem)}}


def _get(id_: str, summary: str, answer: Any, problem: Any, parameters: list[Any], *, stream: bool = False
         ) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": answer}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"operationId": id_, "summary": summary, "parameters": parameters,
            "responses": {"200": {"description": "Done", "content": content}, "default": _problem(problem)}}


def _open(id_: str, summary: str) -> dict[str, Any]:
    return {"operationId": id_, "summary": summary, "security": [], "responses": {
        "200": {"description": "Yes", "content": {JSON: {"schema": {"type": "object"}}}}}}


def _problem(problem: Any) -> dict[str, Any]:
    codes = ", ".join(sorted({f"{status}" for status in STATUS.values()} | {"401", "429"}))
    return {"description": f"It failed, with one of {codes}", "content": {PROBLEM: {"schema": problem}}}
