"""The storage's administrative operations, which run in the registrar: export, erase, the end of a removed plugin."""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from apex_exec.common.names import UUID
from apex_exec.common.sqlite import path_of
from apex_exec.errors import Code, Refusal
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
        """``remove``, a plugin's removal, which then also ends what it kept: another plugin may get its id."""
        def removed(context: Context, args: Any) -> Any:
            store = self.store(context)  # first: if it cannot be opened, the plugin stays, and what it kept with it
            done = remove(context, args)
            return {**done, "keptEntries": store.forget_plugin(args.id) if store is not None else 0}

        return removed


def checked_user(user: str) -> str:
    """The user's id as hosts send it. Raises Refusal."""
    lowered = user.lower()
    if UUID.fullmatch(lowered) is None:
        raise Refusal("bad_user", f"{user[:50]!a} is not a UUID", code=Code.INVALID_INPUT,
                      hint="8-4-4-4-12 hexadecimal digits")
    return lowered
