"""One event to many plugins: who runs when, with how much time, and what comes of it. Pure.

``catalogue.hooks`` says for each hook how it runs: ``all`` at once; in a ``chain``, each plugin seeing what the last
good one left; or one after another until the ``first`` answers. In order, each gets the time remaining divided by the
plugins still to run, so one that hangs does not starve the rest.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from apex_exec.catalogue.hooks import Hook


class Part(Struct):
    """Run ``plugin`` now, with ``payload``, until ``deadline_ns``."""

    plugin: str
    payload: dict[str, Any]
    deadline_ns: int


class Dispatch:
    """The course of one dispatch. ``plugins`` are in (priority, id) order."""

    def __init__(self, hook: Hook, plugins: list[str], payload: dict[str, Any], deadline_ns: int) -> None:
        self._hook = hook
        self._plugins = plugins
        self._payload = payload
        self._deadline_ns = deadline_ns
        self._waiting = list(plugins)
        self._running = 0
        self._given: dict[str, Any] = {}
        self._carried = {param: payload[param] for param in hook.carries if payload.get(param) is not None}
        self._answer: Any = None
        self.partial = False

    @property
    def finished(self) -> bool:
        """True where nothing runs and nothing is still to run."""
        return not self._running and not self._waiting

    def begin(self, now_ns: int) -> list[Part]:
        """The parts to start first."""
        return self._next(now_ns, len(self._waiting) if self._hook.mode == "all" else 1)

    def settled(self, plugin: str, ok: bool, result: Any, now_ns: int) -> list[Part]:
        """One part has its outcome, and if that is ``ok`` also what it gives (``wire.hooks.parts_of``). The parts to
        start now."""
        self._running -= 1
        if not ok:
            self.partial = True
        elif self._hook.mode == "chain":
            self._carried.update((param, result[field]) for param, field in self._hook.carries.items()
                                 if field in result)
        elif result is None:
            pass  # a void hook, or a plugin that leaves the answer to the next
        elif self._hook.mode == "all":
            self._given[plugin] = result
        else:
            self._answer = result
            self._waiting.clear()
        return [] if self._running else self._next(now_ns, 1)

    def result(self) -> Any:
        """The reply's ``result``."""
        hook = self._hook
        if hook.void:
            return None
        if hook.mode == "chain":
            return {**(hook.default or {}), **{hook.carries[param]: value for param, value in self._carried.items()}}
        if hook.mode == "first":
            return hook.default if self._answer is None else self._answer
        given = [self._given[plugin] for plugin in self._plugins if plugin in self._given]
        return {hook.collects: [item for items in given for item in items]} if hook.collects else given

    def _next(self, now_ns: int, count: int) -> list[Part]:
        parts = []
        for plugin in self._waiting[:count]:
            share_ns = self._deadline_ns - now_ns
            if self._hook.mode != "all":
                share_ns //= len(self._waiting)
            payload = {**self._payload, **self._carried} if self._carried else self._payload
            parts.append(Part(plugin, payload, now_ns + max(1, share_ns)))
        del self._waiting[:count]
        self._running += len(parts)
        return parts
