"""The plugins' writes as statements: the caller's rows and the operator's columns only. Pure.

Only names that the operator configured become part of a statement; a plugin's values are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.values import check_parameter

ROWS_CHANGED_MAX = 1000
"""The most rows that one call inserts, changes or deletes."""
VALUES_MAX = 30_000
"""The most values of one call, all rows together: PostgreSQL's protocol numbers 65,535 parameters, and SQLite takes
32,766 unless it was compiled otherwise."""
CONSTRAINTS = {
    "need": "", "unique": "", "own": "", "check": "a check of the table refuses these values",
    "link": "this row refers to one that does not exist, or another row refers to this one"}
"""The kinds of constraints, and the message for each kind that is not about columns."""


class Write(Struct):
    """One statement, and the facts for its audit record. ``bound`` names, for each of ``values``, the column that it is
    written to or compared with; plugins see the columns in ``shown``.

    The statement returns the columns in ``returning``, and after them those in ``key``: the owner's, and those by which
    an upsert finds a row. ``rows`` is how many rows the call brings, 0 if it brings none; ``is_single``: they were
    given as one row, and are answered so."""

    text: str
    values: list[Any]
    table: str
    event_type: str
    action: str
    columns: list[str]
    returning: list[str]
    bound: list[str]
    shown: tuple[str, ...]
    rows: int = 0
    is_single: bool = False
    key: tuple[str, ...] = ()
    otherwise: str = ""
    """What an upsert does with the caller's row that is there already; "" if it leaves that row as it is."""
    ending: str = ""

    def statement(self, uniques: Iterable[Sequence[str]] = ()) -> str:
        """The whole text. ``uniques`` are the columns of each unique key of the table; only an upsert needs them.

        A key that the owner's column is part of comes first: it says nothing about other users' rows. Raises ApiFailure
        if no key consists of the columns that the call names, with or without the owner's."""
        if not self.key:
            return self.text + self.ending
        keys = {frozenset(name.lower() for name in unique) for unique in uniques if unique}
        owner, *columns = self.key
        for found in ((owner, *columns), columns):
            if frozenset(name.lower() for name in found) in keys:
                return (f"{self.text} ON CONFLICT ({', '.join(map(_quote, found))}) DO "
                        f"{self.otherwise or 'NOTHING'}{self.ending}")
        raise ApiFailure("invalid_params", f"on: {self.table} has no unique key of {', '.join(columns) or owner}, "
                                           "alone or with the owner's column")

    def others_row(self) -> ApiFailure:
        """The failure of an upsert that met another user's row: the same as an insert's."""
        return self.refused("unique", self.key[1:], "")

    def twice(self) -> ApiFailure:
        """The failure of an upsert whose rows have a key in common, so that their order would decide."""
        names = ", ".join(self.key[1:] or self.key)
        return ApiFailure("invalid_params", f"two rows of this call have the same {names}")

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


class _Maker:
    """Makes one statement for ``table`` and ``user_id``, and numbers its values."""

    def __init__(self, table: Table, user_id: str) -> None:
        self.table = table
        self.user_id = user_id
        self.values: list[Any] = []
        self.bound: list[str] = []

    def bind(self, name: str, value: Any) -> str:
        """``value``, written to or compared with the column ``name``, as a parameter."""
        self.bound.append(name)
        self.values.append(check_parameter(value, structured=True))
        return f"${len(self.values)}"

    def is_callers(self) -> str:
        """The condition that a row is the caller's."""
        return f"{_column(self.table, self.table.owner)} = {self.bind(self.table.owner, self.user_id)}"

    def rows(self, given: Sequence[dict[str, Any]]) -> str:
        """``INSERT INTO … VALUES …`` for rows with the same columns."""
        names = list(given[0])
        for number, row in enumerate(given):
            if row.keys() != given[0].keys():
                odd = ", ".join(sorted(row.keys() ^ given[0].keys()))
                raise ApiFailure("invalid_params", f"values[{number}]: the rows of one call have the same columns; not "
                                                   f"all have {odd}")
        if len(given) * len(names) > VALUES_MAX:
            raise ApiFailure("too_large", f"one call writes at most {VALUES_MAX:,} values")
        owner = self.bind(self.table.owner, self.user_id)
        placed = (f"({', '.join([owner, *(self.bind(name, row[name]) for name in names)])})" for row in given)
        columns = ", ".join(map(_quote, (self.table.owner, *names)))
        return f"INSERT INTO {_quote(self.table.name)} ({columns}) VALUES {', '.join(placed)}"

    def set(self, values: dict[str, Any]) -> str:
        """``UPDATE … SET …``."""
        if not values:
            raise ApiFailure("invalid_params", "an update must change at least one column")
        changes = ", ".join(f"{_quote(name)} = {self.bind(name, value)}" for name, value in values.items())
        return f"UPDATE {_quote(self.table.name)} SET {changes}"

    def where(self, conditions: dict[str, Any]) -> str:
        """``WHERE …``: the caller's rows with these values."""
        written = [self.is_callers()]
        for name, value in conditions.items():
            _check_column(self.table, name)
            if isinstance(value, dict | list):
                raise ApiFailure("invalid_params", f"where.{name} may not be a list or a map")
            column = _column(self.table, name)
            written.append(f"{column} IS NULL" if value is None else f"{column} = {self.bind(name, value)}")
        return f" WHERE {' AND '.join(written)}"

    def finish(self, text: str, action: str, columns: list[str], asked: bool | list[str] | None, **more: Any) -> Write:
        """The statement with the columns that it returns, ``asked`` or the upsert's key."""
        table = self.table
        names = list(table.columns) if asked is True else list(dict.fromkeys(asked or []))
        for name in names:
            _check_column(table, name)
        returned = ", ".join(_column(table, name) for name in (*names, *more.get("key", ())))
        event_type = "data.deletion" if action == "delete" else "data.modification"
        return Write(text, self.values, table.name, event_type, action, columns, names, self.bound, table.columns,
                     ending=f" RETURNING {returned}" * bool(returned), **more)


def compile_write(request: Insert | Upsert | Update | Delete, tables: Mapping[str, Table], named: tuple[str, ...],
                  user_id: str) -> Write:
    """The statement for ``request`` of ``user_id``. Raises ApiFailure."""
    table = tables.get(request.table)
    if table is None or request.table not in named or not table.write:
        writable = sorted(name for name in named if name in tables and tables[name].write)
        raise ApiFailure("table_not_allowed", f"this plugin may not write {request.table!r}; it may write: "
                                              f"{', '.join(writable) or 'none'}")
    maker = _Maker(table, user_id)
    compiled: Write = _COMPILERS[type(request)](maker, request)
    return compiled


def _insert(maker: _Maker, request: Insert) -> Write:
    rows, is_single = _rows(maker, request)
    asked = True if request.returning is None and is_single else request.returning
    return maker.finish(maker.rows(rows), "insert", list(rows[0]), asked, rows=len(rows), is_single=is_single)


def _upsert(maker: _Maker, request: Upsert) -> Write:
    table = maker.table
    rows, is_single = _rows(maker, request)
    on = [name for name in dict.fromkeys([request.on] if isinstance(request.on, str) else request.on)
          if name != table.owner]
    for name in on:
        _check_column(table, name)
        if name not in rows[0]:
            raise ApiFailure("invalid_params", f"on: every row needs a value for {name}")
    changed = [name for name in rows[0] if name not in on] if request.update is None else request.update
    for name in changed:
        if name not in rows[0]:
            raise ApiFailure("invalid_params", f"update: {name} is none of the columns in values")
    text = maker.rows(rows)
    otherwise = ""
    if request.update is None or changed:
        # If there is nothing to change, a column gets the value that it has, and the row counts and is returned.
        changes = ", ".join(f"{_quote(name)} = excluded.{_quote(name)}"
                            for name in dict.fromkeys(changed or on or [table.owner]))
        otherwise = f"UPDATE SET {changes} WHERE {maker.is_callers()}"
    made = maker.finish(text, "upsert", list(rows[0]), request.returning, rows=len(rows), is_single=is_single,
                        key=(table.owner, *on), otherwise=otherwise)
    keys = [repr([row[name] for name in on]) for row in rows]
    if otherwise and len(set(keys)) < len(keys):
        raise made.twice()
    return made


def _update(maker: _Maker, request: Update) -> Write:
    given = _given(maker.table, request.values, maker.user_id)
    text = maker.set(given) + maker.where(request.where)
    return maker.finish(text, "update", list(given), request.returning)


def _delete(maker: _Maker, request: Delete) -> Write:
    text = f"DELETE FROM {_quote(maker.table.name)}{maker.where(request.where)}"
    return maker.finish(text, "delete", [], request.returning)


_COMPILERS: dict[type, Callable[[_Maker, Any], Write]] = {
    Insert: _insert, Upsert: _upsert, Update: _update, Delete: _delete}


def _rows(maker: _Maker, request: Insert | Upsert) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a call, without the owner's column, and whether they were given as one row."""
    is_single = isinstance(request.values, dict)
    rows: Any = [request.values] if is_single else request.values
    if len(rows) > ROWS_CHANGED_MAX:
        raise ApiFailure("row_limit", f"one call writes at most {ROWS_CHANGED_MAX} rows")
    return [_given(maker.table, row, maker.user_id) for row in rows], is_single


def _given(table: Table, values: dict[str, Any], user_id: str) -> dict[str, Any]:
    """The columns to set, without the owner's: it is always the caller."""
    for name, value in values.items():
        if name == table.owner:
            if value != user_id:
                raise ApiFailure("column_not_allowed", f"{name} can only be the caller")
        else:
            _check_column(table, name)
    return {name: value for name, value in values.items() if name != table.owner}


def _check_column(table: Table, name: str) -> None:
    if name not in table.columns:
        raise ApiFailure("column_not_allowed", f"{table.name} has no visible column {name!r}; visible: "
                                               f"{', '.join(table.columns)}")


def _column(table: Table, name: str) -> str:
    """A column with its table's name: SQLite treats an unknown name that stands alone as a text, which equals itself.
    """
    return f"{_quote(table.name)}.{_quote(name)}"


def _quote(name: str) -> str:
    return f'"{name}"'  # names were matched when the operator's configuration was read
