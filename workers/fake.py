"""A fake platform for a plugin's own tests: its API answers from memory and records the calls.

``FakePlatform(plugin, rows={"SELECT …": [{…}]})`` and ``platform.call("onDataFetch", params)``. Like the real platform
it refuses whatever the plugin does not declare; it does not parse SQL, and it fetches nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from workers import contract
from workers.sdk import Api, ApiError, HookContext, PermissionDenied, Plugin

_WRITES = ("insert", "upsert", "update", "delete")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When everything was stored, as far as the fake platform knows: its tests do not depend on a clock."""
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_ABSENT = object()
USER = "11111111-2222-4333-8444-555555555555"


class FakePlatform:
    """Answers API calls. ``asked`` lists every call in order, as (method, parameters).

    ``rows`` maps a query's text to its rows (any other query returns none), ``responses`` maps a URL to what ``fetch``
    returns (any other is ``host_not_allowed``), and ``methods`` maps a host method to its result (any other is
    ``not_provided``). ``storage`` is what ``api.storage`` keeps, by (user, key); the user of what is common is "".
    ``written`` maps a write ("insert", "upsert", "update", "delete") to its answer, or to a function of its parameters;
    without one, an insert and an upsert answer with the rows that they were given, and an update and a delete with one
    row that was changed.
    """

    def __init__(self, plugin: Plugin | dict[str, Any], *, rows: dict[str, list[dict[str, Any]]] | None = None,
                 responses: dict[str, Any] | None = None, methods: dict[str, Any] | None = None,
                 written: dict[str, Any] | None = None, storage: dict[tuple[str, str], Any] | None = None,
                 user_id: str = USER) -> None:
        is_map = isinstance(plugin, dict)
        self.hooks: dict[str, Any] = plugin["hooks"] if isinstance(plugin, dict) else plugin.hooks
        self.permissions = list(plugin.get("permissions", [])) if isinstance(plugin, dict) else plugin.permissions
        self.plugin_id = str(plugin["id"] if is_map else plugin.id)  # type: ignore[index,union-attr]  # by is_map
        self.user_id = user_id
        self.rows = rows or {}
        self.responses = responses or {}
        self.methods = methods or {}
        self.written = written or {}
        self.storage = dict(storage or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []

    @property
    def effects(self) -> list[tuple[str, dict[str, Any]]]:
        """The rendered and emitted effects, in order."""
        return [(method, params) for method, params in self.asked if method in contract.EFFECTS]

    def call(self, hook: str, params: dict[str, Any] | None = None, *, timeout_ms: float = 5000) -> Any:
        """Runs a hook as a worker does and returns its result; an exception from the hook propagates."""
        function = self.hooks[hook]
        is_async = inspect.iscoroutinefunction(function)
        context = HookContext(self.user_id, self.plugin_id, hook, time.monotonic_ns() + int(timeout_ms * 1e6),
                              Api(self._ask, 0, is_async), logging.getLogger("plugin"))
        given: dict[str, Any] = dict(params or {})
        if hook in contract.FILLS_USER:
            given.setdefault("userId", self.user_id)
        names = inspect.signature(function).parameters
        arguments = {name: value for name, value in (("context", context), ("params", given)) if name in names}
        result = function(**arguments)
        if is_async:
            loop = asyncio.new_event_loop()
            try:
                result = loop.run_until_complete(result)
            finally:
                loop.close()
        field = contract.WIDGETS.get(hook, "")
        if field and isinstance(result, dict) and result.get(field) and "ui:render" not in self.permissions:
            raise PermissionDenied("permission_denied", f"{field} need ui:render", method="renderWidget")
        return result

    def _ask(self, _seq: int, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((method, params))
        if method == "call":
            name = str(params["method"])
            wanted = next((p for prefix, p in contract.PREFIXES.items() if name.startswith(prefix)), "")
        else:
            wanted = contract.PERMISSIONS[method]
        if wanted not in self.permissions:
            raise PermissionDenied("permission_denied", f"{method} needs {wanted or 'an admin permission'}",
                                   method=method)
        if method in _WRITES:
            return self._write(method, params)
        if method.startswith("storage."):
            return self._keep(method.removeprefix("storage."), params)
        if method == "query":
            return self.rows.get(params["sql"], [])
        if method == "fetch":
            return self._known(self.responses, params["url"], "host_not_allowed", method)
        if method == "call":
            return self._known(self.methods, params["method"], "not_provided", method)
        return None

    def _write(self, method: str, params: dict[str, Any]) -> Any:
        """What the gateway would answer, as far as it can be known without a database."""
        asked = params.get("returning")
        if asked and method != "insert" and "data:read" not in self.permissions:
            raise PermissionDenied("permission_denied", f"{method} with returning also needs data:read", method=method)
        if method in self.written:
            answer = self.written[method]
            return answer(params) if callable(answer) else answer
        values = params.get("values", {}) if method in ("insert", "upsert") else {}
        is_single = isinstance(values, dict)
        rows = [values] if is_single else values
        answer = {"rowCount": len(rows)}
        if asked is None and method == "insert" and is_single:
            asked = True
        if asked:
            shown = [row if asked is True else {name: row.get(name) for name in asked} for row in rows]
            answer |= {"row": shown[0]} if is_single and method in ("insert", "upsert") else {"rows": shown}
        return answer

    def _keep(self, verb: str, params: dict[str, Any]) -> Any:
        """``api.storage``: values are copied on their way in and out, as the real storage does."""
        user = "" if params["common"] else self.user_id
        if verb == "list":
            begin, after = params["prefix"].encode(), params["after"].encode()
            keys = sorted(key.encode() for owner, key in self.storage if owner == user)
            found = [key.decode() for key in keys if key.startswith(begin) and key > after][: params["limit"]]
            return [{"key": key, "bytes": len(_encode(self.storage[user, key])), "updatedAt": EPOCH} for key in found]
        place = (user, params["key"])
        if verb == "set":
            self.storage[place] = _decode(_encode(params["value"]))
            return None
        if verb == "delete":
            return self.storage.pop(place, _ABSENT) is not _ABSENT
        return _decode(_encode(self.storage.get(place)))

    @staticmethod
    def _known(table: dict[str, Any], key: str, code: str, method: str) -> Any:
        if key not in table:
            raise ApiError(code, f"the fake platform does not know {key}", method=method)
        return table[key]
