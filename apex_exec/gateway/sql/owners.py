"""Whose a row is: the kinds of owner that the operator may name for a table, and what each adds to a statement. Pure.

| ``data.tables.T.owner`` | a row is the caller's if |
|---|---|
| ``"user_id"`` | that column has the caller's id |
| ``{column, via, user, tenant}`` | ``via`` has a row with the caller as ``user`` and that ``column`` as ``tenant`` |
| ``"rls"`` | PostgreSQL's row-level security lets the caller see it |

Each kind renders its own condition, so that the code that writes a statement need not know the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from msgspec import Struct

from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure

RLS = "rls"
Quote = Callable[[str], str]

INACTIVE = "row-level security is not in force on "
"""How the error begins that a statement raises if row-level security does not bind it on a table whose owner is
``"rls"``: somebody has switched it off since the connection was made."""


class Claim(Struct, frozen=True):
    """The tenant of a row to be written: a value that is looked up in the write's own transaction.

    ``text`` selects at most two of the caller's tenants (with ``named``: the one that the plugin named)."""

    text: str
    values: list[Any]
    column: str
    named: bool

    def chosen(self, found: list[Any]) -> Any:
        """The tenant, of what ``text`` has found. Raises ApiFailure."""
        if self.named and not found:
            raise ApiFailure("column_not_allowed", f"{self.column} must be a tenant of the caller")
        if not found:
            raise ApiFailure("column_not_allowed", f"the caller belongs to no tenant, and {self.column} needs one")
        if len(found) > 1:
            raise ApiFailure("invalid_params", "the caller belongs to several tenants; choose one by giving "
                                               f"{self.column}")
        return found[0]


class ByColumn(Struct, frozen=True):
    """The column ``column`` has the user's id."""

    column: str
    decided_by_rls: ClassVar[bool] = False
    """Whether the database alone decides which rows are the caller's."""

    @property
    def setting(self) -> Any:
        """The owner as the configuration has it."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table itself that say whose a row is."""
        return (self.column,)

    @property
    def looked_up(self) -> tuple[str, tuple[str, ...]]:
        """(another table, its columns) that the condition reads; ("", ()) if there is none."""
        return "", ()

    def condition(self, table: str, caller: Callable[[], str], quote: Quote, *, lite: bool) -> str:
        """The condition for a row of ``table``, a name in quotes. ``caller`` makes a parameter for the caller's id."""
        return f"{table}.{quote(self.column)} = {caller()}"

    def inserted(self, values: Mapping[str, Any], user_id: str, *, lite: bool) -> dict[str, Any]:
        """The columns of a row to insert. Raises ApiFailure if ``values`` would make it somebody else's."""
        return {self.column: user_id, **self.changed(values, user_id, lite=lite)}

    def changed(self, values: Mapping[str, Any], user_id: str, *, lite: bool) -> dict[str, Any]:
        """The columns that an update sets. Raises ApiFailure if ``values`` would give the row away."""
        if values.get(self.column, user_id) != user_id:
            raise ApiFailure("column_not_allowed", f"{self.column} must be the caller's id; leave it out, and it is "
                                                   "filled in")
        return {name: value for name, value in values.items() if name != self.column}


class ByMembership(Struct, frozen=True):
    """The column ``column`` has a tenant. ``via`` says who belongs to which: its columns are ``user`` and ``tenant``.
    """

    column: str
    via: str
    user: str
    tenant: str
    decided_by_rls: ClassVar[bool] = False

    @property
    def setting(self) -> Any:
        """The owner as the configuration has it."""
        return {"column": self.column, "via": self.via, "user": self.user, "tenant": self.tenant}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table itself that say whose a row is."""
        return (self.column,)

    @property
    def looked_up(self) -> tuple[str, tuple[str, ...]]:
        """(another table, its columns) that the condition reads."""
        return self.via, (self.user, self.tenant)

    def _tenants(self, caller: str, quote: Quote, *, lite: bool, first: str = "") -> str:
        via = placed(self.via, quote, lite=lite)
        return (f"SELECT {first}{via}.{quote(self.tenant)} FROM {via} WHERE {via}.{quote(self.user)} = {caller}")

    def tenants_text(self, *, lite: bool) -> str:
        """A query for at most two tenants of the user who is its only parameter, as texts in the column ``tenant``."""
        tenant = f"{placed(self.via, quoted, lite=lite)}.{quoted(self.tenant)}"
        inner = f"{self._tenants('$1', quoted, lite=lite, first='DISTINCT ')} AND {tenant} IS NOT NULL LIMIT 2"
        return f'SELECT CAST("_1".{quoted(self.tenant)} AS text) AS tenant FROM ({inner}) AS "_1"'

    def condition(self, table: str, caller: Callable[[], str], quote: Quote, *, lite: bool) -> str:
        """The condition for a row of ``table``, a name in quotes. ``caller`` makes a parameter for the caller's id.

        On PostgreSQL the tenants become an array before the first row is read: its index on the column serves an array
        too, and no hash join keeps all rows of one tenant in memory.
        """
        tenants = self._tenants(caller(), quote, lite=lite)
        column = f"{table}.{quote(self.column)}"
        return f"{column} IN ({tenants})" if lite else f"{column} = ANY (ARRAY({tenants}))"

    def inserted(self, values: Mapping[str, Any], user_id: str, *, lite: bool) -> dict[str, Any]:
        """The columns of a row to insert. Without a tenant in ``values``, the caller's only one is meant."""
        if self.column in values:
            return self.changed(values, user_id, lite=lite)
        return {self.column: self._claim([user_id], lite=lite), **values}

    def changed(self, values: Mapping[str, Any], user_id: str, *, lite: bool) -> dict[str, Any]:
        """The columns that an update sets. A row may move to another tenant of the caller."""
        done = dict(values)
        if self.column in values:
            value = values[self.column]
            if value is None or isinstance(value, dict | list):
                raise ApiFailure("column_not_allowed", f"{self.column} must be a tenant of the caller")
            done[self.column] = self._claim([user_id, value], lite=lite)
        return done

    def _claim(self, values: list[Any], *, lite: bool) -> Claim:
        tenant = f"{placed(self.via, quoted, lite=lite)}.{quoted(self.tenant)}"
        named = f" AND {tenant} = $2" if len(values) > 1 else ""
        text = self._tenants("$1", quoted, lite=lite, first="DISTINCT ")
        return Claim(f"{text} AND {tenant} IS NOT NULL{named} LIMIT 2", values, self.column, bool(named))


class ByDatabase(Struct, frozen=True):
    """PostgreSQL's row-level security decides; every statement fails on which it is not in force."""

    decided_by_rls: ClassVar[bool] = True
    setting: ClassVar[Any] = RLS
    columns: ClassVar[tuple[str, ...]] = ()
    looked_up: ClassVar[tuple[str, tuple[str, ...]]] = ("", ())

    def condition(self, table: str, caller: Callable[[], str], quote: Quote, *, lite: bool) -> str:
        """The condition that row-level security binds this statement. It is computed once, before the first row.

        By then the statement has locked the table, so that nobody can switch row-level security off meanwhile. The text
        in the cast contains a function, because PostgreSQL would convert a constant one, and fail, at once.
        """
        return (f"(SELECT CASE WHEN pg_catalog.row_security_active('{table}'::pg_catalog.regclass) THEN TRUE ELSE CAST("
                f"'{INACTIVE}' || CAST('{table}'::pg_catalog.regclass AS text) AS BOOLEAN) END)")

    def inserted(self, values: Mapping[str, Any], user_id: str, *, lite: bool) -> dict[str, Any]:
        """The columns of a row to insert: whether it may be, and whose it is, the database says."""
        return dict(values)

    changed = inserted


Owner = ByColumn | ByMembership | ByDatabase


def read_owner(key: str, setting: Any) -> Owner:
    """The owner that the configuration's ``key`` names. Raises ConfigError."""
    if isinstance(setting, str):
        return ByDatabase() if setting == RLS else ByColumn(setting)
    names = ByMembership.__struct_fields__
    if not isinstance(setting, Mapping) or set(setting) != set(names) or not all(
            isinstance(value, str) for value in setting.values()):
        raise ConfigError(f'{key}: write a column\'s name, "rls", or {{{", ".join(names)}}} with a name each, as in '
                          '{column = "tenant_id", via = "tenant_memberships", user = "user_id", tenant = "tenant_id"}')
    return ByMembership(**setting)


def placed(name: str, quote: Quote, *, lite: bool) -> str:
    """The table ``name``, which may have a schema before it, as a statement has it. SQLite has no schemas: there the
    table's own name has the dot."""
    return quote(name) if lite else ".".join(map(quote, name.split(".")))


def quoted(name: str) -> str:
    """``name`` in the quotes of both databases."""
    return f'"{name}"'  # names are matched when the operator's configuration is read
