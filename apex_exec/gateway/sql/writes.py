"""The plugins' writes as statements: the caller's rows and the operator's columns only. Pure.

Only names that the operator configured become part of a statement; a plugin's values are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.owners import Claim, quoted
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.values import check_parameter

ROWS_CHANGED_MAX = 1000
"""The most rows that one call inserts, changes or deletes."""
VALUES_MAX = 30_000
"""The most values of one call, all rows together: PostgreSQL's protocol numbers 65,535 parameters, and SQLite takes
32,766 unless it was compiled otherwise."""
TENANTS_MAX = 20
"""The most tenants of the rows of one call: each is looked up."""
CONSTRAINTS = {
    "need": "", "unique": "", "own": "", "check": "a check of the table refuses these values",
    "link": "this row refers to one that does not exist, or another row refers to this one"}
"""The kinds of constraints, and the message for each kind that is not about columns."""


class Write(Struct):
    """One statement, and the facts for its audit record. ``bound`` names, for each of ``values``, the column that it is
    written to or compared with ("": the caller's id in the owner's condition). A ``Claim`` among ``values`` is to be
    replaced by what it finds. ``guard``, if there is one, is a SELECT that fails unless the write may stand: it runs
    after the statement, in the same transaction.

    The statement returns the columns in ``returning``, and after them those in ``key``: the owner's, and those by which
    an upsert finds a row. ``rows`` is how many rows the call brings, 0 if it brings none; ``is_single``: they were
    given as one row, and are answered so."""

    text: str
    values: list[Any]
    on: Table
    event_type: str
    action: str
    columns: list[str]
    returning: list[str]
    bound: list[str]
    guard: str = ""
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
        for found in (self.key, self.named):
            if frozenset(name.lower() for name in found) in keys:
                return (f"{self.text} ON CONFLICT ({', '.join(map(quoted, found))}) DO "
                        f"{self.otherwise or 'NOTHING'}{self.ending}")
        names = ", ".join(self.named or self.key)
        raise ApiFailure("invalid_params", f"on: {self.table} has no unique key of {names}, alone or with the owner's "
                                           "column")

    @property
    def named(self) -> tuple[str, ...]:
        """The columns of the key without the owner's."""
        return tuple(name for name in self.key if name not in self.on.owner.columns)

    def others_row(self) -> ApiFailure:
        """The failure of an upsert that met another user's row: the same as an insert's."""
        return self.refused("unique", self.named, "")

    def twice(self) -> ApiFailure:
        """The failure of an upsert whose rows have a key in common, so that their order would decide."""
        names = ", ".join(self.named or self.key)
        return ApiFailure("invalid_params", f"two rows of this call have the same {names}")

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


class _Maker:
    """Makes one statement for ``table`` and ``user_id``, and numbers its values."""

    def __init__(self, table: Table, user_id: str) -> None:
        self.table = table
        self.user_id = user_id
        self.values: list[Any] = []
        self.bound: list[str] = []
        self._claims: dict[str, str] = {}

    def bind(self, name: str, value: Any) -> str:
        """``value``, written to or compared with the column ``name``, as a parameter."""
        if isinstance(value, Claim):
            return self._claim(name, value)
        self.bound.append(name)
        self.values.append(check_parameter(value, structured=True))
        return f"${len(self.values)}"

    def _claim(self, name: str, claim: Claim) -> str:
        """The parameter of a tenant that is looked up, once in a call. Raises ApiFailure for too many of them."""
        key = repr(claim.values)
        if key not in self._claims:
            if len(self._claims) >= TENANTS_MAX:
                raise ApiFailure("too_large", f"one call can write rows of at most {TENANTS_MAX} tenants; split it "
                                              "into several")
            self.bound.append(name)
            self.values.append(claim)
            self._claims[key] = f"${len(self.values)}"
        return self._claims[key]

    def is_callers(self) -> str:
        """The condition that a row is the caller's."""
        return self.table.condition(lambda: self.bind("", self.user_id))

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
        if not names and len(given) > 1:
            raise ApiFailure("invalid_params", "several rows need at least one column")
        if not names:
            return f"INSERT INTO {self.table.placed()} DEFAULT VALUES"
        placed = (f"({', '.join([self.bind(name, row[name]) for name in names])})" for row in given)
        return f"INSERT INTO {self.table.placed()} ({', '.join(map(quoted, names))}) VALUES {', '.join(placed)}"

    def set(self, values: dict[str, Any]) -> str:
        """``UPDATE … SET …``."""
        if not values:
            raise ApiFailure("invalid_params", "an update must change at least one column")
        changes = ", ".join(f"{quoted(name)} = {self.bind(name, value)}" for name, value in values.items())
        return f"UPDATE {self.table.placed()} SET {changes}"

    def where(self, conditions: dict[str, Any]) -> str:
        """``WHERE …``: the caller's rows with these values."""
        written = [self.is_callers()]
        for name, value in conditions.items():
            _check_column(self.table, name)
            if isinstance(value, dict | list):
                raise ApiFailure("invalid_params", f"where.{name} must not be a list or a map")
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
        return Write(text, self.values, table, event_type, action, columns, names, self.bound,
                     ending=f" RETURNING {returned}" * bool(returned), **more)

    def guard(self) -> str:
        """Nothing else in an insert asks the database whether it still decides whose the row is."""
        return f"SELECT {self.table.condition(str)}" if self.table.owner.decided_by_rls else ""


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
    given, rows, is_single = _rows(maker, request)
    asked = True if request.returning is None and is_single else request.returning
    return maker.finish(maker.rows(rows), "insert", given, asked, rows=len(rows), is_single=is_single,
                        guard=maker.guard())


def _upsert(maker: _Maker, request: Upsert) -> Write:
    owners = maker.table.owner.columns
    given, rows, is_single = _rows(maker, request)
    on = [name for name in dict.fromkeys([request.on] if isinstance(request.on, str) else request.on)
          if name not in owners]
    for name in on:
        _check_column(maker.table, name)
        if name not in rows[0]:
            raise ApiFailure("invalid_params", f"on: every row needs a value for {name}")
    changed = [name for name in given if name not in on] if request.update is None else request.update
    for name in changed:
        if name not in given:
            raise ApiFailure("invalid_params", f"update: {name} is not among the columns in values")
    text = maker.rows(rows)
    otherwise = ""
    if request.update is None or changed:
        # If there is nothing to change, a column gets the value that it has, and the row counts and is returned.
        changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}"
                            for name in dict.fromkeys(changed or on or owners))
        otherwise = f"UPDATE SET {changes} WHERE {maker.is_callers()}"
    made = maker.finish(text, "upsert", given, request.returning, rows=len(rows), is_single=is_single,
                        key=(*owners, *on), otherwise=otherwise, guard=maker.guard())
    keys = [repr([row[name] for name in made.key]) for row in rows]
    if otherwise and len(set(keys)) < len(keys):
        raise made.twice()
    return made


def _update(maker: _Maker, request: Update) -> Write:
    _check_columns(maker.table, request.values)
    given = maker.table.owner.changed(request.values, maker.user_id, lite=maker.table.lite)
    text = maker.set(given) + maker.where(request.where)
    return maker.finish(text, "update", list(given), request.returning)


def _delete(maker: _Maker, request: Delete) -> Write:
    text = f"DELETE FROM {maker.table.placed()}{maker.where(request.where)}"
    return maker.finish(text, "delete", [], request.returning)


_COMPILERS: dict[type, Callable[[_Maker, Any], Write]] = {
    Insert: _insert, Upsert: _upsert, Update: _update, Delete: _delete}


def _rows(maker: _Maker, request: Insert | Upsert) -> tuple[list[str], list[dict[str, Any]], bool]:
    """(the columns that the plugin may set and has given, the rows with the owner's columns, whether they were given as
    one row)."""
    table, is_single = maker.table, isinstance(request.values, dict)
    given: Any = [request.values] if is_single else request.values
    if len(given) > ROWS_CHANGED_MAX:
        raise ApiFailure("row_limit", f"one call can write at most {ROWS_CHANGED_MAX} rows; split it into several")
    for row in given:
        _check_columns(table, row)
    columns = list(table.owner.changed(given[0], maker.user_id, lite=table.lite))
    return columns, [table.owner.inserted(row, maker.user_id, lite=table.lite) for row in given], is_single


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
