"""What a plugin may ask for through its API, typed: each method's parameters, decoded once at the edge. Pure."""

from __future__ import annotations

from typing import Annotated, Any

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


class HostMethod(Struct, gc=False, forbid_unknown_fields=True):
    """A method that the host provides; its parameters go to the host as they came."""

    method: Annotated[str, Meta(min_length=1, max_length=100)]
    params: Raw = Raw(b"\x80")


Request = Query | Insert | Update | Delete | RenderWidget | Emit | Fetch | HostMethod

METHODS: dict[str, type[Any]] = {
    "query": Query, "insert": Insert, "update": Update, "delete": Delete, "renderWidget": RenderWidget, "emit": Emit,
    "fetch": Fetch, "call": HostMethod,
}
"""Every method by its name on the wire; also the values of the ``method`` label."""

_DECODERS = {method: msgspec.msgpack.Decoder(kind) for method, kind in METHODS.items()}


def decode(method: str, params: bytes) -> Request:
    """The request that ``params`` are. Raises msgspec.ValidationError or DecodeError, KeyError on another method."""
    request: Request = _DECODERS[method].decode(params)
    return request
