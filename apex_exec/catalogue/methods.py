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


Row = Annotated[dict[Name, Any], Meta(max_length=200)]
"""One row of a write, by column."""
Rows = Annotated[list[Row], Meta(min_length=1)]
"""Several rows in one call. The gateway bounds their number, with a code of its own."""
Returning = bool | Annotated[list[Name], Meta(max_length=200)] | None
"""The columns of the written rows that the answer holds: True for all that are visible."""


class Insert(Struct, gc=False, forbid_unknown_fields=True):
    """One row, or several, owned by the caller. None as ``returning``: the row itself, if ``values`` is one row."""

    table: Name
    values: Row | Rows
    returning: Returning = None


class Upsert(Struct, gc=False, forbid_unknown_fields=True):
    """Rows that are inserted, or change the caller's row that has the same values in the columns ``on``.

    ``update`` names the columns that are changed then: by default all that ``values`` gives, without ``on``; none if it
    is empty."""

    table: Name
    values: Row | Rows
    on: Name | Annotated[list[Name], Meta(min_length=1, max_length=16)]
    update: Annotated[list[Name], Meta(max_length=200)] | None = None
    returning: Returning = None


class Update(Struct, gc=False, forbid_unknown_fields=True):
    """New values for the caller's rows whose columns equal ``where``."""

    table: Name
    values: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]
    where: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]
    returning: Returning = None


class Delete(Struct, gc=False, forbid_unknown_fields=True):
    """The end of the caller's rows whose columns equal ``where``."""

    table: Name
    where: Annotated[dict[Name, Any], Meta(min_length=1, max_length=200)]
    returning: Returning = None


class RenderWidget(Struct, gc=False, forbid_unknown_fields=True):
    """An effect: the platform shows ``component``. ``props``, a map, are not decoded before they are looked at."""

    component: str
    props: Raw = Raw(b"\x80")


class Emit(Struct, gc=False, forbid_unknown_fields=True):
    """An effect: the platform publishes ``event``. Its ``payload`` is not decoded before it is looked at."""

    event: str
    payload: Raw = Raw(b"\xc0")


class Fetch(Struct, gc=False, forbid_unknown_fields=True):
    """One HTTP request, redirects included. ``body`` is text, bytes or a JSON value.

    ``timeout_ms`` bounds it within the invocation's time. ``retry``: the request is sent once more if the server ends a
    kept connection without an answer. ``read_as`` says what the response's body is to be."""

    url: Annotated[str, Meta(max_length=8192)]
    method: Annotated[str, Meta(max_length=16)] = "GET"
    headers: Annotated[dict[str, str], Meta(max_length=64)] = {}
    body: Any = None
    timeout_ms: Annotated[float, Meta(ge=1, le=3_600_000)] | None = None
    retry: bool = False
    read_as: Literal["auto", "text", "bytes"] = "auto"


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
Request = Query | Insert | Upsert | Update | Delete | RenderWidget | Emit | Fetch | StorageRequest | HostMethod

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


_PY_ROWS = "dict[str, Any] | list[dict[str, Any]]"
_PY_RETURNING = "returning: bool | list[str] | None = None"
_TS_ROWS = "Record<string, unknown> | readonly Record<string, unknown>[]"
_TS_RETURNING = "returning?: boolean | readonly string[]"

ALL = (
    Method("query", "query", "sql: str, params: list[Any] | None = None",
           "Rows of the caller's own data (``data:read``).", Query, "data:read", event="data.access",
           javascript="(sql, params = []) => ({ sql, params })",
           typescript="<Row = Record<string, Value>>(sql: string, params?: readonly unknown[]): Promise<Row[]>"),
    Method("insert", "insert", f"table: str, values: {_PY_ROWS}, {_PY_RETURNING}",
           "Adds one row owned by the caller, or a list of rows (``data:write``).", Insert, "data:write",
           event="data.modification", is_write=True,
           javascript="(table, values, { returning } = {}) => ({ table, values, returning })",
           typescript=f"<Row = Record<string, Value>>(table: string, values: {_TS_ROWS}, "
           f"options?: {{ {_TS_RETURNING} }}): Promise<Written<Row>>"),
    Method("upsert", "upsert", f"table: str, values: {_PY_ROWS}, on: str | list[str], update: list[str] | None = None, "
           f"{_PY_RETURNING}",
           "Adds rows, or changes the caller's row with the same values in the columns ``on`` (``data:write``).",
           Upsert, "data:write", event="data.modification", is_write=True,
           javascript="(table, values, { on, update, returning } = {}) => ({ table, values, on, update, returning })",
           typescript=f"<Row = Record<string, Value>>(table: string, values: {_TS_ROWS}, options: "
           f"{{ on: string | readonly string[]; update?: readonly string[]; {_TS_RETURNING} }}): "
           "Promise<Written<Row>>"),
    Method("update", "update", f"table: str, values: dict[str, Any], where: dict[str, Any], {_PY_RETURNING}",
           "Changes the caller's rows that match ``where`` (``data:write``).", Update, "data:write",
           event="data.modification", is_write=True,
           javascript="(table, values, where, { returning } = {}) => ({ table, values, where, returning })",
           typescript="<Row = Record<string, Value>>(table: string, values: Record<string, unknown>, "
           f"where: Record<string, unknown>, options?: {{ {_TS_RETURNING} }}): Promise<Written<Row>>"),
    Method("delete", "delete", f"table: str, where: dict[str, Any], {_PY_RETURNING}",
           "Deletes the caller's rows that match ``where`` (``data:write``).", Delete, "data:write",
           event="data.deletion", is_write=True,
           javascript="(table, where, { returning } = {}) => ({ table, where, returning })",
           typescript="<Row = Record<string, Value>>(table: string, where: Record<string, unknown>, "
           f"options?: {{ {_TS_RETURNING} }}): Promise<Written<Row>>"),
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
           'url: str, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None, '
           'timeout_ms: float | None = None, retry: bool = False, read_as: str = "auto"',
           "One HTTP request through the gateway (``network:fetch``).", Fetch, "network:fetch", rate="network",
           away="fetch_failed", javascript="(url, { method = 'GET', headers = {}, body = null, timeoutMs, retry, "
           "readAs } = {}) => ({ url: asText(url), method, headers, body, timeout_ms: timeoutMs, retry, "
           "read_as: readAs })",
           typescript="(url: string | { toString(): string }, init?: { method?: string; "
           "headers?: Record<string, string>; body?: unknown; timeoutMs?: number; retry?: boolean; "
           'readAs?: "auto" | "text" | "bytes" }): Promise<Fetched>'),
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

API_AT_ONCE = 8
"""API calls of one invocation that may be open at once. The SDKs let more of them wait; a worker that bypasses the SDK
is refused."""
PARTS = tuple(dict.fromkeys(method.name.partition(".")[0] for method in ALL if "." in method.name))
"""The parts of the API that have methods of their own: ``storage``."""
METHODS: dict[str, Method] = {method.name: method for method in ALL}
"""Every method by its name on the wire; also the values of the ``method`` label."""

_DECODERS = {method.name: msgspec.msgpack.Decoder(method.params) for method in ALL}


def decode(method: str, params: bytes) -> Request:
    """The request that ``params`` are. Raises msgspec.ValidationError or DecodeError, KeyError on another method."""
    request: Request = _DECODERS[method].decode(params)
    return request
