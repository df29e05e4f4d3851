"""What the supervisor gets to know of plugins' settings: the values, decrypted, in sets of one owner each.

The rows decide. After a change the supervisor gets the set that changed; at a start, a reload and after any transaction
whose outcome is unknown it gets everything, in place of what it had. A plugin with a secret that cannot be read is
*locked*: it is not served, and the reason is shown, since it would otherwise run as if the secret had been deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from apex_exec.config import Settings
from apex_exec.errors import Refusal
from apex_exec.registry.context import Context
from apex_exec.registry.plugin_settings import rows as db_
from apex_exec.registry.plugin_settings.rows import Row
from apex_exec.registry.plugin_settings.secret_keys import SecretKeys, load

PART_BYTES_MAX = 262_144
"""Of one message: the loop takes less than a millisecond for it."""

Set = tuple[str, str, bytes]
"""(scope, owner, the values in MessagePack)."""


def sets_of(rows: Iterable[Row], keys: SecretKeys | Refusal | None) -> tuple[list[Set], str]:
    """The readable values of ``rows``, which are in order, and why others cannot be read ("" if there are none)."""
    sets: list[Set] = []
    locked = ""
    for (scope, owner), owned in groupby(rows, lambda row: (row.scope, row.owner)):
        values: dict[str, Any] = {}
        for row in owned:
            try:
                values[row.name] = _read(row, keys)
            except Refusal as error:
                locked = locked or f"secrets_unavailable: {error.message}"
        sets.append((scope, owner, db_.packed(values)))
    return sets, locked


def _read(row: Row, keys: SecretKeys | Refusal | None) -> Any:
    if not row.secret:
        return db_.decoded(row.value)
    if not isinstance(keys, SecretKeys):
        assert keys is not None  # they were looked for: there is a secret
        raise keys
    return keys.decrypt(row.value, row.place)


def keys_for(ctx: Context, rows: Iterable[Row]) -> SecretKeys | Refusal | None:
    """The keys, if one of ``rows`` needs them, or why there are none."""
    return keys_of(ctx.settings, rows)


def keys_of(settings: Settings, rows: Iterable[Row]) -> SecretKeys | Refusal | None:
    """The same, without an open registry."""
    if not any(row.secret for row in rows):
        return None
    try:
        return load(settings)
    except Refusal as error:
        return error


def tell_change(ctx: Context, plugin: str, scope: str, owner: str) -> None:
    """Tells what one owner has now. Called under ``ctx.lock``, after the commit."""
    rows = ctx.store.transact(lambda db: db_.of_plugin(db, plugin))
    sets, locked = sets_of(rows, keys_for(ctx, rows))
    mine = [one for one in sets if one[:2] == (scope, owner)] or [(scope, owner, db_.packed({}))]
    ctx.tell_settings(plugin, mine, False, locked)


def tell_plugin(ctx: Context, plugin: str) -> None:
    """Tells everything that is set for a plugin, in place of what was. Under ``ctx.lock``."""
    rows = ctx.store.transact(lambda db: db_.of_plugin(db, plugin))
    tell_rows(ctx.tell_settings, plugin, rows, keys_for(ctx, rows))


def tell_rows(tell: Callable[[str, list[Set], bool, str], None], plugin: str, rows: Iterable[Row],
              keys: SecretKeys | Refusal | None) -> None:
    """``tell`` gets all that ``rows`` set for a plugin, in parts."""
    sets, locked = sets_of(rows, keys)
    part: list[Set] = []
    size, whole = 0, True
    for one in sets:
        if part and size + len(one[2]) > PART_BYTES_MAX:
            tell(plugin, part, whole, locked)
            part, size, whole = [], 0, False
        part.append(one)
        size += len(one[2])
    tell(plugin, part, whole, locked)


def tell_all(ctx: Context) -> list[str]:
    """Tells everything that is set for every plugin; for which. The caller says that there are no more."""
    named = ctx.store.transact(db_.plugins)
    for plugin in named:
        tell_plugin(ctx, plugin)
    return named
