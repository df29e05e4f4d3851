"""Every method of the plugins' API, declared once.

To add a method, write the struct of its parameters and one ``Method`` in ``ALL``, run
``python -m apex_exec.catalogue``, and write what the method does: the handlers of the gateway's methods are in
``gateway/router.py``. The supervisor's broker, the policy, the scan, both SDKs' ``Api`` and the fake platforms read
this table, or what is made from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

Name = Annotated[str, Meta(min_length=1, max_length=63)]
"""A table or a column: 63 bytes is what PostgreSQL keeps of one."""


class Query(Struct, gc=False, forbid_unknown_fields=True):
    """One SELECT over the caller's own rows; ``params`` are $1, $2, …"""

    sql: str
    params: Annotated[list[Any], Meta(max_length=100)] = []


class Insert(Struct, gc=False, forbid_unknown_fields=True):
    """One row, owned by the caller."""

    table: Name
    values: Annotated[dict[Name, Any], Meta(max_length=200)]


class Update(Struct, gc=False, forbid_unknown_fields=True):
    """New values for the caller's rows whose columns equal ``where``."""

    table: Name
    values: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]
    where: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]


class Delete(Struct, gc=False, forbid_unknown_fields=True):
    """The end of the caller's rows whose columns equal ``where``."""

    table: Name
    where: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]


class RenderWidget(Struct, gc=False, forbid_unknown_fields=True):
    """An effect: the platform shows ``component``. ``props``, a map, are not decoded before they are looked at."""

    component: str
    props: Raw = Raw(b"\x80")


class Emit(Struct, gc=False, forbid_unknown_fields=True):
    """An effect: the platform publishes ``event``. Its ``payload`` is not decoded before it is looked at."""

    event: str
    payload: Raw = Raw(b"\xc0")


class Fetch(Struct, gc=False, forbid_unknown_fields=True):
    """One HTTP request, redirects included. ``body`` is text, bytes or a JSON value."""

    url: Annotated[str, Meta(max_length=8192)]
    method: Annotated[str, Meta(max_length=16)] = "GET"
    headers: Annotated[dict[str, str], Meta(max_length=64)] = {}
    body: Any = None


Key = Annotated[str, Meta(min_length=1, max_length=200)]
"""What a stored value is found by: long enough for a path or a URL, short enough for an index of either database."""
LISTED_MAX = 200
"""Keys that one ``storage.list`` gives: some 60 kB; ``after`` continues behind the last of them."""


class StorageGet(Struct, gc=False, forbid_unknown_fields=True):
    """The value that stands under ``key``: of the caller, or ``common`` to all users of the plugin."""

    key: Key
    common: bool = False


class StorageSet(Struct, gc=False, forbid_unknown_fields=True):
    """``value`` under ``key``, in place of what stood there. It is not decoded before it is looked at."""

    key: Key
    value: Raw
    common: bool = False


class StorageDelete(Struct, gc=False, forbid_unknown_fields=True):
    """The end of what stands under ``key``."""

    key: Key
    common: bool = False


class StorageList(Struct, gc=False, forbid_unknown_fields=True):
    """Keys that begin with ``prefix`` and come after ``after``, in the order of their bytes."""

    prefix: Annotated[str, Meta(max_length=200)] = ""
    after: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=LISTED_MAX)] = LISTED_MAX
    common: bool = False


class HostMethod(Struct, gc=False, forbid_unknown_fields=True):
    """A method that the host provides; its parameters go to the host as they came."""

    method: Annotated[str, Meta(min_length=1, max_length=100)]
    params: Raw = Raw(b"\x80")


StorageRequest = StorageGet | StorageSet | StorageDelete | StorageList
Request = Query | Insert | Update | Delete | RenderWidget | Emit | Fetch | StorageRequest | HostMethod

Route = Literal["gateway", "effect", "host"]
"""Who does it: the gateway process; nobody, since the reply carries it to the host; or the host, who is asked."""


class Method(Struct, frozen=True):
    """One method of the API.

    A name with a dot, such as ``storage.get``, is a method of a part of the API: ``context.api.storage.get``.
    ``params`` is the struct that its parameters are decoded into, ``signature`` what the SDK's method takes, and
    ``python`` that method's name. ``javascript`` is a function from what the method takes in JavaScript to the map of
    its parameters, as the prelude and the fake platform run it, and ``typescript`` what stands behind the name in the
    types; without them the method takes that map. ``permission`` is "" if it depends on the parameters
    (``call``). ``event`` is the type of its audit event. A write's event comes with the write itself, by way of the
    outbox. ``is_exact``: what it is given comes back later as it was, so it is held to the rule for results, as what a
    host reads is; any other of the gateway's methods takes a UUID or a Decimal as text. ``rate`` names the limit that
    counts its calls. ``away`` is the code of a call that finds no gateway.
    """

    name: str
    python: str
    signature: str
    doc: str
    params: type[Any]
    permission: str
    route: Route = "gateway"
    event: str = "plugin.api"
    is_write: bool = False
    is_exact: bool = False
    javascript: str = "(params = {}) => params"
    typescript: str = "(params: Record<string, unknown>): Promise<Value>"
    rate: Literal["", "network"] = ""
    away: str = "data_unavailable"


ALL = (
    Method("query", "query", "sql: str, params: list[Any] | None = None",
           "Rows of the caller's own data (``data:read``).", Query, "data:read", event="data.access",
           javascript="(sql, params = []) => ({ sql, params })",
           typescript="<Row = Record<string, Value>>(sql: string, params?: readonly unknown[]): Promise<Row[]>"),
    Method("insert", "insert", "table: str, values: dict[str, Any]",
           "Adds one row owned by the caller (``data:write``).", Insert, "data:write", event="data.modification",
           is_write=True, javascript="(table, values) => ({ table, values })",
           typescript="(table: string, values: Record<string, unknown>): Promise<Value>"),
    Method("update", "update", "table: str, values: dict[str, Any], where: dict[str, Any]",
           "Changes the caller's rows that match ``where`` (``data:write``).", Update, "data:write",
           event="data.modification", is_write=True, javascript="(table, values, where) => ({ table, values, where })",
           typescript="(table: string, values: Record<string, unknown>, "
           "where: Record<string, unknown>): Promise<Value>"),
    Method("delete", "delete", "table: str, where: dict[str, Any]",
           "Deletes the caller's rows that match ``where`` (``data:write``).", Delete, "data:write",
           event="data.deletion", is_write=True,
           javascript="(table, where) => ({ table, where })",
           typescript="(table: string, where: Record<string, unknown>): Promise<Value>"),
    Method("renderWidget", "render_widget", "component: str, props: dict[str, Any] | None = None",
           "Asks the platform to render ``component`` (``ui:render``).", RenderWidget, "ui:render", route="effect",
           javascript="(widget, props) => isObject(widget) ? "
           "{ component: widget.component, props: widget.props ?? {} } : { component: widget, props: props ?? {} }",
           typescript="(widget: { component: string; props?: Record<string, unknown> }): Promise<void>"),
    Method("emit", "emit", "event: str, payload: Any = None",
           "Asks the platform to emit ``event`` (``events:emit``).", Emit, "events:emit", route="effect",
           javascript="(event, message = null) => "
           "({ event, payload: isOnly(message, 'payload') ? message.payload ?? null : message })",
           typescript="(event: string, message?: { payload?: unknown }): Promise<void>"),
    Method("fetch", "fetch",
           'url: str, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None',
           "One HTTP request through the gateway (``network:fetch``).", Fetch, "network:fetch", rate="network",
           away="fetch_failed", javascript="(url, { method = 'GET', headers = {}, body = null } = {}) => "
           "({ url: asText(url), method, headers, body })",
           typescript="(url: string | { toString(): string }, init?: { method?: string; "
           "headers?: Record<string, string>; body?: unknown }): Promise<Fetched>"),
    Method("storage.get", "storage.get", "key: str, common: bool = False",
           "What the plugin keeps under ``key``, or None (``data:read``).", StorageGet, "data:read",
           event="data.access",
           javascript="(key, { common = false } = {}) => ({ key, common })",
           typescript="<Kept = Value>(key: string, options?: { common?: boolean }): Promise<Kept | null>"),
    Method("storage.set", "storage.set", "key: str, value: Any, common: bool = False",
           "Keeps ``value`` under ``key``, in place of what stood there (``data:write``).", StorageSet, "data:write",
           event="data.modification", is_write=True, is_exact=True,
           javascript="(key, value, { common = false } = {}) => ({ key, value, common })",
           typescript="(key: string, value: unknown, options?: { common?: boolean }): Promise<null>"),
    Method("storage.delete", "storage.delete", "key: str, common: bool = False",
           "Forgets what stands under ``key``; whether anything did (``data:write``).", StorageDelete, "data:write",
           event="data.deletion", is_write=True, javascript="(key, { common = false } = {}) => ({ key, common })",
           typescript="(key: string, options?: { common?: boolean }): Promise<boolean>"),
    Method("storage.list", "storage.list",
           'prefix: str = "", after: str = "", limit: int = 200, common: bool = False',
           "The keys that begin with ``prefix``, with size and time, in order (``data:read``).", StorageList,
           "data:read", event="data.access",
           javascript="({ prefix = '', after = '', limit = 200, common = false } = {}) => "
           "({ prefix, after, limit, common })",
           typescript="(options?: { prefix?: string; after?: string; limit?: number; common?: boolean }): "
           "Promise<{ key: string; bytes: number; updatedAt: Date }[]>"),
    Method("call", "call", "method: str, params: dict[str, Any] | None = None", "A host method (admin permissions).",
           HostMethod, "", route="host",
           javascript="(method, params = {}) => ({ method, params })",
           typescript="(method: string, params?: Record<string, unknown>): Promise<Value>"),
)

PARTS = tuple(dict.fromkeys(method.name.partition(".")[0] for method in ALL if "." in method.name))
"""The parts of the API that have methods of their own: ``storage``."""
METHODS: dict[str, Method] = {method.name: method for method in ALL}
"""Every method by its name on the wire; also the values of the ``method`` label."""

_DECODERS = {method.name: msgspec.msgpack.Decoder(method.params) for method in ALL}


def decode(method: str, params: bytes) -> Request:
    """The request that ``params`` are. Raises msgspec.ValidationError or DecodeError, KeyError on another method."""
    request: Request = _DECODERS[method].decode(params)
    return request
