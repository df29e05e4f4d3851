"""``insert``, ``update`` and ``delete`` as statements: the caller's rows and the operator's columns only. Pure.

Only names that the operator configured become part of a statement; a plugin's values are parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from apex_exec.catalogue.methods import Delete, Insert, Update
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.owners import Claim, quoted
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.values import check_parameter

ROWS_CHANGED_MAX = 1000
CONSTRAINTS = {
    "need": "", "unique": "", "own": "", "check": "a check of the table refuses these values",
    "link": "this row refers to one that does not exist, or another row refers to this one"}
"""The kinds of constraints, and the message for each kind that is not about columns."""


class Write(Struct):
    """One statement, and the facts for its audit record. An insert returns the columns in ``returning``; ``bound``
    names, for each of ``values``, the column that it is written to or compared with ("": the caller's id in the owner's
    condition). A ``Claim`` among ``values`` is to be replaced by what it finds. ``guard``, if there is one, is a SELECT
    that fails unless the write may stand: it runs after ``text``, in the same transaction."""

    text: str
    values: list[Any]
    on: Table
    event_type: str
    action: str
    columns: list[str]
    returning: list[str]
    bound: list[str]
    guard: str = ""

    @property
    def table(self) -> str:
        """The table's name, with its schema if the operator named one."""
        return self.on.name

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns that plugins see."""
        return self.on.columns

    def refused(self, kind: str, columns: Sequence[str], words: str) -> ApiFailure:
        """The failure for a constraint that the database enforced. A database names columns and constraints, which may
        be hidden. So the message names ``columns``, which the constraint is about, only if all of them are visible, and
        quotes ``words``, the database's text, only if somebody wrote it to be read (in a trigger). ``kind`` is one of
        ``CONSTRAINTS``."""
        if kind == "need":
            name = f"the column {columns[0]}" if columns and columns[0] in self.shown else (
                "a column that is not visible to plugins")
            return ApiFailure("constraint", f"{name} needs a value")
        if kind == "unique":
            shown = bool(columns) and all(name in self.shown for name in columns)
            names = f"this {', '.join(columns)}" if shown else "these values"
            return ApiFailure("constraint", f"another row already has {names}")
        return ApiFailure("constraint", CONSTRAINTS.get(kind) or words)


def compile_write(request: Insert | Update | Delete, tables: Mapping[str, Table], named: tuple[str, ...],
                  user_id: str) -> Write:
    """The statement for ``request`` of ``user_id``. Raises ApiFailure."""
    table = tables.get(request.table)
    if table is None or request.table not in named or not table.write:
        writable = sorted(name for name in named if name in tables and tables[name].write)
        raise ApiFailure("table_not_allowed", f"this plugin may not write {request.table!r}; it may write: "
                                              f"{', '.join(writable) or 'none'}")
    values: list[Any] = []
    bound: list[str] = []

    def bind(name: str, value: Any) -> str:
        bound.append(name)
        values.append(value if isinstance(value, Claim) else check_parameter(value, structured=True))
        return f"${len(values)}"

    place = table.placed()
    if isinstance(request, Insert):
        _check_columns(table, request.values)
        given = table.owner.changed(request.values, user_id, lite=table.lite)
        row = table.owner.inserted(request.values, user_id, lite=table.lite)
        names = ", ".join(quoted(name) for name in row)
        placeholders = ", ".join(bind(name, value) for name, value in row.items())
        filled = f"({names}) VALUES ({placeholders})" if row else "DEFAULT VALUES"
        returning = ", ".join(_column(table, name) for name in table.columns)
        text = f"INSERT INTO {place} {filled} RETURNING {returning}"
        # nothing else in an insert asks the database whether it still decides
        guard = f"SELECT {table.condition(str)}" if table.owner.decided_by_rls else ""
        return Write(text, values, table, "data.modification", "insert", list(given), list(table.columns), bound, guard)
    if isinstance(request, Update):
        _check_columns(table, request.values)
        given = table.owner.changed(request.values, user_id, lite=table.lite)
        if not given:
            raise ApiFailure("invalid_params", "an update must change at least one column")
        changes = ", ".join(f"{quoted(name)} = {bind(name, value)}" for name, value in given.items())
        text = f"UPDATE {place} SET {changes}"
        event_type, action, columns = "data.modification", "update", list(given)
    else:
        text = f"DELETE FROM {place}"
        event_type, action, columns = "data.deletion", "delete", []
    conditions = [table.condition(lambda: bind("", user_id))]
    for name, value in request.where.items():
        _check_column(table, name)
        if isinstance(value, dict | list):
            raise ApiFailure("invalid_params", f"where.{name} may not be a list or a map")
        column = _column(table, name)
        conditions.append(f"{column} IS NULL" if value is None else f"{column} = {bind(name, value)}")
    return Write(f"{text} WHERE {' AND '.join(conditions)}", values, table, event_type, action, columns, [], bound)


def _check_columns(table: Table, values: dict[str, Any]) -> None:
    """Raises ApiFailure for a column to set that is neither visible nor the owner's, which has rules of its own."""
    for name in values:
        if name not in table.owner.columns:
            _check_column(table, name)


def _check_column(table: Table, name: str) -> None:
    if name not in table.columns:
        raise ApiFailure("column_not_allowed", f"{table.name} has no visible column {name!r}; visible: "
                                               f"{', '.join(table.columns)}")


def _column(table: Table, name: str) -> str:
    """A column with its table's name: SQLite treats an unknown name that stands alone as a text, which equals itself.
    """
    return f"{table.placed()}.{quoted(name)}"
