"""The rows of ``conftest`` with other kinds of owners: tenants by membership, row-level security, schemas, views.

Tenant 1 is A's, 2 is B's, and both are members of 3. Rows of tenant 3 are in every database; a row without a tenant,
and the rows of 2, are only in those that have B's. What A must not see begins with SECRET.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sqlite import Sqlite
from tests.gateway.conftest import ROLE, TABLES, A, B, Data, postgres_data, sqlite_data
from tests.support.postgres import Postgres

KINDS = ("membership", "rls", "schemas", "views")


def owner(via: str = "members") -> dict[str, str]:
    return {"column": "tenant_id", "via": via, "user": "member_id", "tenant": "of_tenant"}


def tables_of(kind: str) -> dict[str, Any]:
    """``data.tables`` of a kind: the tables of ``conftest``, whose rows belong to whoever that kind says."""
    shown = {name: TABLES[name] for name in ("users", "orders", "notes")}
    columns = {name: list(entry["columns"]) for name, entry in shown.items()}
    if kind == "rls":
        return {name: {**entry, "owner": "rls"} for name, entry in shown.items()}
    if kind == "schemas":
        return {"users": shown["users"],
                "app.orders": {"owner": owner("app.members"), "columns": [*columns["orders"], "tenant_id"]},
                "app.notes": {"owner": owner("app.members"), "columns": columns["notes"], "write": True}}
    if kind == "views":
        return {"users": shown["users"], "orders": {"owner": owner("of_today"), "columns": columns["orders"]},
                "notes": {"owner": owner("of_today"), "columns": columns["notes"]}}
    return {"users": shown["users"], "orders": {"owner": owner(), "columns": [*columns["orders"], "tenant_id"]},
            "notes": {"owner": owner(), "columns": [*columns["notes"], "tenant_id"], "write": True}}


def tenants_of(users: str) -> list[str]:
    """Statements that give the rows of ``conftest`` tenants, and add those of several users and of nobody."""
    given = [(A, "1"), (A, "1"), (A, "3"), (A, "NULL"), *([(B, "2"), (B, "3")] if "B" in users else [])]
    done = ["CREATE TABLE members (member_id uuid, of_tenant integer, left_at text)",
            *(f"INSERT INTO members VALUES ('{member}', {tenant}, NULL)" for member, tenant in given),
            "ALTER TABLE orders ADD COLUMN tenant_id integer", "ALTER TABLE notes RENAME TO before",
            "CREATE TABLE notes (id integer PRIMARY KEY, user_id uuid, text text NOT NULL, tag text, "
            "tenant_id integer)",
            "INSERT INTO notes SELECT id, user_id, text, tag, NULL FROM before", "DROP TABLE before",
            f"UPDATE orders SET tenant_id = CASE user_id WHEN '{A}' THEN 1 ELSE 2 END",
            f"UPDATE notes SET tenant_id = CASE user_id WHEN '{A}' THEN 1 ELSE 2 END"]
    rows = [(9, "3", "item"), (10, "3", "item"), *([(11, "NULL", "SECRET")] if "B" in users else [])]
    for number, tenant, text in rows:
        done.append(f"INSERT INTO orders VALUES ({number}, '{B}', '{text} {number}', {number}.50, 1, {tenant})")
        done.append(f"INSERT INTO notes VALUES ({number}, '{B}', '{text} note', 'tag{number}', {tenant})")
    return done


def _moved(kind: str, *, lite: bool, users: str) -> list[str]:
    """Statements that make the database of ``conftest`` one of this kind."""
    if kind == "rls":
        return [f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY" for name in TABLES]
    done = tenants_of(users)
    if kind == "schemas" and lite:
        done += [f'ALTER TABLE {name} RENAME TO "app.{name}"' for name in ("orders", "notes", "members")]
    elif kind == "schemas":
        done += ["CREATE SCHEMA app", f"GRANT USAGE ON SCHEMA app TO {ROLE}",
                 *(f"ALTER TABLE {name} SET SCHEMA app" for name in ("orders", "notes", "members"))]
    elif kind == "views":  # the second has an expression that the first wall would not let a plugin write
        done += ["INSERT INTO members VALUES "
                 f"('{A}', 2, 'yesterday')", "CREATE VIEW of_today AS SELECT * FROM members WHERE left_at IS NULL",
                 *(statement for name in ("orders", "notes") for statement in (
                     f"ALTER TABLE {name} RENAME TO all_{name}",
                     f"CREATE VIEW {name} AS SELECT t.*, random() AS odd FROM all_{name} t"))]
    if not lite:
        places = {"schemas": "app.orders, app.notes, app.members", "views": "orders, notes, of_today",
                  "membership": "notes, members"}
        done.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {places[kind]} TO {ROLE}")
    return done


def owned(kind: str, where: Path | Postgres, name: str, users: str = "AB") -> Data:
    """A database of ``kind``: in SQLite if ``where`` is a folder."""
    lite = isinstance(where, Path)
    tables = read_tables(tables_of(kind), "sqlite" if lite else "postgres")
    made: Data
    if isinstance(where, Path):
        made = sqlite_data(where / f"{name}.db", users)
        backend: Any = Sqlite(where / f"{name}.db", tables, "test")
    else:
        made = postgres_data(where, name, users, secured=kind == "rls")
        backend = PostgresBackend(f"postgresql+psycopg://{ROLE}@/{name}?host={where.folder}", tables, "test")
    for statement in _moved(kind, lite=lite, users=users):
        made.execute(statement)
    made.close()
    again = Data(backend, made.contents, made.execute)
    again.show(tables_of(kind), alone=True)
    return again
