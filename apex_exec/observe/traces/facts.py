"""What a trace may say of an API call: a closed list, so that no payload, SQL, path, secret or user gets there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

TABLES_MAX = 8
"""How many tables of a query are named; may fire first: what one statement may name at all."""

Facts = dict[str, str | int]


def facts_of(method: str, facts: Mapping[str, Any], hosts: Collection[str]) -> Facts:
    """The attributes of one API call. ``facts`` are those of its audit record; ``hosts`` are those that the plugin's
    manifest names.

    Tables are those of the configuration. A host is named only if the manifest names exactly this one: the label that
    stands for the ``*`` of ``*.example.com`` is the plugin's own choice, and may be made of anything.
    """
    reads = _READS.get(method)
    return {} if reads is None else reads(facts, hosts)


def _of_query(facts: Mapping[str, Any], _hosts: Collection[str]) -> Facts:
    out: Facts = {}
    if tables := facts.get("tables"):
        out["db.collection.name"] = ", ".join(sorted(tables)[:TABLES_MAX])
    if isinstance(rows := facts.get("rowCount"), int):
        out["db.response.returned_rows"] = rows
    return out


def _of_fetch(facts: Mapping[str, Any], hosts: Collection[str]) -> Facts:
    out: Facts = {}
    if facts.get("httpMethod") in _HTTP_METHODS:
        out["http.request.method"] = facts["httpMethod"]
    if isinstance(status := facts.get("status"), int):
        out["http.response.status_code"] = status
    if isinstance(redirects := facts.get("redirects"), int) and redirects:
        out["apex_exec.fetch.redirects"] = redirects
    host = facts.get("host")
    if isinstance(host, str) and any(host == named.rpartition(":")[0] or host == named for named in hosts):
        out["server.address"] = host
    return out


_HTTP_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_READS: dict[str, Callable[[Mapping[str, Any], Collection[str]], Facts]] = {"query": _of_query, "fetch": _of_fetch}
