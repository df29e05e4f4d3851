"""The storage's administrative operations, which run in the registrar: export, erase, the end of a removed plugin."""

from __future__ import annotations

import functools
import threading
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.names import UUID
from apex_exec.common.sqlite import path_of
from apex_exec.errors import Code, Refusal
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.operations import Handler
from apex_exec.storage.arguments import EraseArgs, ExportArgs
from apex_exec.storage.store import Store

PART_BYTES_MAX = 1024 * 1024
"""Values of one answer of ``plugin.storage.export``: with one more entry they still fit into a message."""
_decode = msgspec.msgpack.Decoder().decode


class KeptByPlugins:
    """The storage, opened when it is first needed. ``handlers`` by operation."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._opened: Store | None = None
        self.handlers: dict[str, Handler] = {"plugin.storage.export": self.export, "plugin.storage.erase": self.erase}

    def store(self, context: Context) -> Store | None:
        """The storage; None while no plugin has kept anything yet. Raises Refusal."""
        with self._opening:
            url = context.settings.database_url(context.settings.storage.url)
            if self._opened is None and ((path := path_of(url)) is None or path.is_file()):
                self._opened = Store(url)
            return self._opened

    def export(self, context: Context, args: ExportArgs) -> dict[str, Any]:
        """One part of what plugins keep of a user: ``entries``, and ``next`` if there are more. Raises Refusal."""
        user, store = checked_user(args.user), self.store(context)
        if len(args.after) != 2:  # noqa: PLR2004 - plugin and key
            raise Refusal("bad_after", "`after` is a plugin and a key", code=Code.INVALID_INPUT,
                          hint="pass what `next` was in the last answer")
        rows, more = store.export(user, args.plugin, (args.after[0], args.after[1].encode()), PART_BYTES_MAX) \
            if store is not None else ([], False)
        entries = [{"plugin": plugin, "key": key.decode(), "value": _decode(value), "updatedNs": at_ns}
                   for plugin, key, value, at_ns in rows]
        return {"user": user, "entries": entries,
                "next": [entries[-1]["plugin"], entries[-1]["key"]] if more else None}

    def erase(self, context: Context, args: EraseArgs) -> dict[str, Any]:
        """Deletes what plugins keep of a user. Raises Refusal."""
        user, store = checked_user(args.user), self.store(context)
        count, plugins = store.erase(user, args.plugin) if store is not None else (0, [])
        return {"user": user, "erased": count, "plugins": plugins}

    def with_removal(self, remove: Handler) -> Handler:
        """``remove``, a plugin's removal, which then also ends what it kept: another plugin may get its id. A note in
        the storage says so first; ``settle`` finds it if this process is killed in between."""
        def removed(context: Context, args: Any) -> Any:
            store = self.store(context)  # first: if it cannot be opened, the plugin stays, and what it kept with it
            if store is None:
                return {**remove(context, args), "keptEntries": 0}
            with context.lock:  # `settle` takes no note back whose removal is under way
                if made := context.store.transact(lambda db: _versions_made(db, args.id)):
                    store.begin_end(args.id, max(made))
                    context.at_point("removal-noted")
                try:
                    done = remove(context, args)
                except Refusal:
                    self.settle(context)
                    raise
                return {**done, "keptEntries": store.forget_plugin(args.id)}

        return removed

    def settle(self, context: Context) -> None:
        """Finishes removals that were begun: what a plugin kept goes unless the plugin is still there, as itself and
        not as another one that has got its id. Raises Refusal."""
        store = self.store(context)
        if store is None:
            return
        with context.lock:
            for plugin, version_ns in store.ending().items():
                if version_ns in context.store.transact(functools.partial(_versions_made, plugin=plugin)):
                    store.take_back_end(plugin)
                else:
                    store.forget_plugin(plugin)

    def gate(self, context: Context, _manifest: Manifest, _user: str) -> None:
        """A plugin is not enabled before it is known that nothing is left of another one with its id. Raises Refusal.
        """
        self.settle(context)


def _versions_made(db: sa.Connection, plugin: str) -> set[int]:
    """When each version of a plugin was made; nothing if it is not registered."""
    return {version.created_ns for version in registry.list_versions(db, plugin)}


def checked_user(user: str) -> str:
    """The user's id as hosts send it. Raises Refusal."""
    lowered = user.lower()
    if UUID.fullmatch(lowered) is None:
        raise Refusal("bad_user", f"{user[:50]!a} is not a UUID", code=Code.INVALID_INPUT,
                      hint="8-4-4-4-12 hexadecimal digits")
    return lowered
