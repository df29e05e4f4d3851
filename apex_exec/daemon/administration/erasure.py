"""What is known of one person, and its end: the ledger's key, plugins' storage, enablements, the marketplace's books.

The key goes last. Whatever ends the erasure before, the same operation can be run again and finishes it. Every call
blocks.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from apex_exec.config import Settings
from apex_exec.daemon.administration.ledger_arguments import EraseArgs
from apex_exec.errors import Code, Refusal
from apex_exec.ledger import people
from apex_exec.ledger.audit import database_path
from apex_exec.ledger.reading import open_readonly
from apex_exec.ledger.records import LedgerError
from apex_exec.market import people as market_people
from apex_exec.market import service as market
from apex_exec.registry import lifecycle
from apex_exec.registry import people as registry_people
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context
from apex_exec.registry.database import forget_old_pages
from apex_exec.registry.plugin_settings import rows as setting_rows
from apex_exec.registry.plugin_settings.publishing import tell_change
from apex_exec.registry.specs import commit
from apex_exec.storage.arguments import EraseArgs as StorageEraseArgs
from apex_exec.storage.operations import KeptByPlugins, checked_user
from apex_exec.storage.tables import entries


class Erasure:
    """``kept`` is the plugins' storage."""

    def __init__(self, kept: KeptByPlugins) -> None:
        self._kept = kept

    def erase(self, context: Context, args: EraseArgs) -> dict[str, Any]:
        """Erases a user. Raises Refusal. The answer names the pseudonym and never the user, since it is on record."""
        user = checked_user(args.user)
        if not args.reason.strip():
            raise Refusal("reason_missing", "an erasure needs a reason", code=Code.INVALID_INPUT,
                          hint="say why with --reason, such as the number of the request; do not name the person")
        if user in args.reason.lower():
            raise Refusal("reason_names_user", "the reason is recorded for good, so it must not name the person",
                          code=Code.INVALID_INPUT, hint="give the number of the request")
        database = database_path(context.settings.audit.url, context.settings.state_path)
        try:
            pseudonym = people.pseudonym_for_erasure(database, user)
            kept = self._kept.erase(context, StorageEraseArgs(user=user))
            ended = _end_enablements(context, user)
            with context.lock:
                self._forget_settings(context, user)
                rows = commit(context, lambda db: registry_people.rename(db, registry_people.TABLES, user, pseudonym),
                              ended)
                forget_old_pages(context.store.engine)
                rows += market.erase(context, user, pseudonym)
            plain, month = _plain_events(database, user)
            people.erase(database, user, "" if market.month_is_closed(context, month) else month)
            market.forget_usage(context)  # a bill that was computed meanwhile has the id
        except LedgerError as error:
            raise Refusal("ledger_unusable", str(error), hint="check that the disk has room, and try again") from None
        return {"pseudonym": pseudonym, "keptEntries": kept["erased"], "endedEnablements": len(ended), "rows": rows,
                "plainEvents": plain, "reason": args.reason}

    @staticmethod
    def _forget_settings(context: Context, user: str) -> None:
        """Deletes what is set for this user alone, of every plugin."""
        for plugin in context.store.transact(lambda db: setting_rows.drop_user(db, user)):
            tell_change(context, plugin, "user", user)


def _end_enablements(context: Context, user: str) -> list[str]:
    """Ends what is enabled for this user alone; for which plugins. A plugin that is enabled for everybody stays."""
    ended = []
    for plugin, users in context.store.transact(registry.enabled_for).items():
        if user not in users:
            continue
        ended.append(plugin)
        if registry.EVERYBODY in users:
            def close(db: Any, plugin: str = plugin) -> int:
                return registry.close_enablement(db, plugin, context.now_ns(), user)

            commit(context, close, [plugin])
        else:
            lifecycle.disable(context, plugin, user, "erased")
    return ended


def _plain_events(database: Any, user: str) -> tuple[int, str]:
    """How many events of before there were pseudonyms hold the id itself: they stay until their retention ends. And the
    month of the last of them ("" if there is none)."""
    with contextlib.suppress(LedgerError), contextlib.closing(open_readonly(database)) as db:
        try:
            count, moment = db.execute(
                "SELECT count(*), max(json_extract(CAST(body AS TEXT), '$.timestamp')) FROM events "
                "WHERE instr(CAST(body AS TEXT), ?)", (user,)).fetchone()
            return int(count), str(moment or "")[:7]
        except sqlite3.Error as error:
            raise LedgerError(f"{database} cannot be read: {error}") from error
    return 0, ""


def everything_about(settings: Settings, user: str) -> Iterator[dict[str, Any]]:
    """What the daemon's stores know of a user beside the ledger's events: the pseudonym, what plugins keep, rows of the
    registry and of the marketplace. Only reads. Raises Refusal, LedgerError."""
    database = database_path(settings.audit.url, settings.state_path)
    with contextlib.closing(people.Names(database)) as names:
        yield {"store": "people", "userId": user, "pseudonym": names.pseudonym(user) or None}
    for found in registry_people.read_about("storage", settings.database_url(settings.storage.url), (entries,), user):
        row = found["row"]
        yield {"store": "storage", "plugin": row["plugin"], "key": bytes(row["key"]).decode(),
               "value": msgspec.msgpack.decode(bytes(row["value"])), "updatedNs": row["updated_ns"]}
    yield from registry_people.read_about("registry", settings.database_url(settings.registry.url),
                                          registry_people.TABLES, user)
    yield from registry_people.read_about("market", settings.database_url(settings.market.url), market_people.TABLES,
                                          user)
