"""One event to many plugins: who runs when, with how much time, and what comes of it. Pure.

``onDashboardLoad`` and ``onAuthSuccess`` run everywhere at once. ``onDataFetch`` runs in order, each plugin seeing the
last good ``transformedData`` as ``data``. ``onActionExecute`` runs in order until one returns a result. In order, each
gets the time remaining divided by the plugins still to run, so one that hangs does not starve the rest.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

AT_ONCE = ("onDashboardLoad", "onAuthSuccess")


class Part(Struct):
    """Run ``plugin`` now, with ``payload``, until ``deadline_ns``."""

    plugin: str
    payload: dict[str, Any]
    deadline_ns: int


class Dispatch:
    """The course of one dispatch. ``plugins`` are in (priority, id) order."""

    def __init__(self, hook: str, plugins: list[str], payload: dict[str, Any], deadline_ns: int) -> None:
        self._hook = hook
        self._plugins = plugins
        self._payload = payload
        self._deadline_ns = deadline_ns
        self._waiting = list(plugins)
        self._running = 0
        self._widgets: dict[str, list[Any]] = {}
        self._data = payload.get("data")
        self._answer: Any = None
        self.partial = False

    @property
    def finished(self) -> bool:
        """True where nothing runs and nothing is still to run."""
        return not self._running and not self._waiting

    def begin(self, now_ns: int) -> list[Part]:
        """The parts to start first."""
        return self._next(now_ns, len(self._waiting) if self._hook in AT_ONCE else 1)

    def settled(self, plugin: str, ok: bool, result: Any, now_ns: int) -> list[Part]:
        """One part has its outcome, and if that is ``ok`` also what it gives (``wire.hooks.parts_of``). The parts to
        start now."""
        self._running -= 1
        if not ok:
            self.partial = True
        elif self._hook == "onDashboardLoad":
            self._widgets[plugin] = result
        elif self._hook == "onDataFetch" and result is not None:
            self._data = result
        elif self._hook == "onActionExecute" and result is not None:
            self._answer = result
            self._waiting.clear()
        return [] if self._running else self._next(now_ns, 1)

    def result(self) -> Any:
        """The reply's ``result``."""
        if self._hook == "onDashboardLoad":
            return {"customWidgets": [widget for plugin in self._plugins for widget in self._widgets.get(plugin, ())]}
        return {"transformedData": self._data} if self._hook == "onDataFetch" else self._answer

    def _next(self, now_ns: int, count: int) -> list[Part]:
        parts = []
        for plugin in self._waiting[:count]:
            share_ns = self._deadline_ns - now_ns
            if self._hook not in AT_ONCE:
                share_ns //= len(self._waiting)
            payload = self._payload
            if self._hook == "onDataFetch" and self._data is not None:
                payload = {**payload, "data": self._data}
            parts.append(Part(plugin, payload, now_ns + max(1, share_ns)))
        del self._waiting[:count]
        self._running += len(parts)
        return parts
