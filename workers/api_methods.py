"""The methods of the platform's API, as plugin code calls them; by ``python -m apex_exec.catalogue``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StorageMethods:
    """The methods of ``api.storage``. ``call`` is what makes a call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def get(self, key: str, common: bool = False) -> Any:
        """What the plugin keeps under ``key``, or None (``data:read``)."""
        return self._call("storage.get", key=key, common=common)

    def set(self, key: str, value: Any, common: bool = False) -> Any:
        """Keeps ``value`` under ``key``, in place of what stood there (``data:write``)."""
        return self._call("storage.set", key=key, value=value, common=common)

    def delete(self, key: str, common: bool = False) -> Any:
        """Forgets what stands under ``key``; whether anything did (``data:write``)."""
        return self._call("storage.delete", key=key, common=common)

    def list(self, prefix: str = "", after: str = "", limit: int = 200, common: bool = False) -> Any:
        """The keys that begin with ``prefix``, with size and time, in order (``data:read``)."""
        return self._call("storage.list", prefix=prefix, after=after, limit=limit, common=common)


class ApiMethods:
    """Every method of the API. What it returns is what the supervisor answered."""

    def _call(self, api_method: str, /, **params: Any) -> Any:
        raise NotImplementedError

    def _effect(self, api_method: str, /, **params: Any) -> Any:
        return self._call(api_method, **params)

    def query(self, sql: str, params: list[Any] | None = None) -> Any:
        """Rows of the caller's own data (``data:read``)."""
        return self._call("query", sql=sql, params=params or [])

    def insert(self, table: str, values: dict[str, Any] | list[dict[str, Any]],
               returning: bool | list[str] | None = None) -> Any:
        """Adds one row owned by the caller, or a list of rows (``data:write``)."""
        return self._call("insert", table=table, values=values, returning=returning)

    def upsert(self, table: str, values: dict[str, Any] | list[dict[str, Any]], on: str | list[str],
               update: list[str] | None = None, returning: bool | list[str] | None = None) -> Any:
        """Adds rows, or changes the caller's row with the same values in the columns ``on`` (``data:write``)."""
        return self._call("upsert", table=table, values=values, on=on, update=update, returning=returning)

    def update(self, table: str, values: dict[str, Any], where: dict[str, Any],
               returning: bool | list[str] | None = None) -> Any:
        """Changes the caller's rows that match ``where`` (``data:write``)."""
        return self._call("update", table=table, values=values, where=where, returning=returning)

    def delete(self, table: str, where: dict[str, Any], returning: bool | list[str] | None = None) -> Any:
        """Deletes the caller's rows that match ``where`` (``data:write``)."""
        return self._call("delete", table=table, where=where, returning=returning)

    def render_widget(self, component: str, props: dict[str, Any] | None = None) -> Any:
        """Asks the platform to render ``component`` (``ui:render``)."""
        return self._effect("renderWidget", component=component, props=props or {})

    def emit(self, event: str, payload: Any = None) -> Any:
        """Asks the platform to emit ``event`` (``events:emit``)."""
        return self._effect("emit", event=event, payload=payload)

    def fetch(self, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None,
              timeout_ms: float | None = None, retry: bool = False, read_as: str = "auto") -> Any:
        """One HTTP request through the gateway (``network:fetch``)."""
        return self._call("fetch", url=url, method=method, headers=headers or {}, body=body, timeout_ms=timeout_ms,
                          retry=retry, read_as=read_as)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """A host method (admin permissions)."""
        return self._call("call", method=method, params=params or {})

    @property
    def storage(self) -> StorageMethods:
        """``api.storage.…``."""
        return StorageMethods(self._call)
