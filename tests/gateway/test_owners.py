"""Whose a row is, if more than a column with a user's id says it: tenants, row-level security, schemas, views."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.tables import OUTBOX, read_tables
from tests.gateway.conftest import ROLE, A, B, postgres_data
from tests.gateway.owned import owned, owner, tables_of
from tests.support.postgres import Postgres

EVERY = ["sqlite membership", "sqlite schemas", "sqlite views", "postgres membership", "postgres rls",
         "postgres schemas", "postgres views"]


C = "cccccccc-0000-4000-8000-000000000003"


class Site:
    """A database with owners of one kind, and how a plugin names its tables."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, name: str = "owned") -> None:
        self.lite, self.kind = request.param.startswith("sqlite"), request.param.split()[1]
        self.named = tuple(tables_of(self.kind))
        self.data = owned(self.kind, folder if self.lite else request.getfixturevalue("postgres"), name)

    def name(self, table: str) -> str:
        return f"app.{table}" if self.kind == "schemas" else table

    def query(self, text: str, params: list[Any] | None = None, user: str = A) -> Any:
        return self.data.query(text.replace("ORDERS", self.name("orders")).replace("NOTES", self.name("notes")), params,
                               user, self.named)

    def ids(self, table: str, user: str = A) -> list[int]:
        return [row["id"] for row in self.query(f"SELECT id FROM {table} ORDER BY id", user=user)]

    def write(self, request: Insert | Upsert | Update | Delete, user: str = A) -> Any:
        return self.data.write(type(request)(self.name(request.table), *(
            getattr(request, name) for name in request.__struct_fields__[1:])), user, self.named)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(request, tmp_path)
    yield made
    made.data.close()


def code_of(work: Any) -> str:
    with pytest.raises(ApiFailure) as failed:
        work()
    return failed.value.code


@pytest.mark.parametrize("site", EVERY, indirect=True)
def test_a_query_returns_the_rows_of_the_callers_tenants(site: Site) -> None:
    shared = [] if site.kind == "rls" else [9, 10]
    for table in ("ORDERS", "NOTES"):
        assert site.ids(table) == [2, 4, 6, 8, *shared]
        assert site.ids(table, B) == [1, 3, 5, 7, *shared]
        assert site.ids(table, C) == []
    joined = ("SELECT o.id, n.tag FROM ORDERS o JOIN NOTES n ON n.id = o.id LEFT JOIN users u ON u.id = o.user_id "
              "WHERE o.id < $1 ORDER BY o.id")
    assert site.query(joined, [5]) == [{"id": 2, "tag": "tag2"}, {"id": 4, "tag": "tag4"}]
    assert site.query("SELECT count(*) AS n FROM ORDERS WHERE item LIKE 'SECRET%'") == [{"n": 0}]
    assert site.query("WITH orders AS (SELECT 7 AS id) SELECT id FROM orders") == [{"id": 7}]


@pytest.mark.parametrize("site", ["sqlite schemas", "postgres schemas"], indirect=True)
def test_a_table_of_a_schema_has_its_schema_before_it_and_no_other_table_is_meant(site: Site) -> None:
    """A CTE never has a schema; a name without one is not a table of ``app``."""
    assert site.ids("app.orders") == site.ids('"app"."orders"') == site.ids("APP.Orders") == [2, 4, 6, 8, 9, 10]
    assert site.query("WITH orders AS (SELECT 77 AS id) SELECT count(*) FROM app.orders") == [{"count": 6}]
    assert site.query("SELECT orders.id FROM app.orders WHERE orders.id IN (SELECT id FROM app.notes WHERE id < 5)"
                      ) == [{"id": 2}, {"id": 4}]
    for text in ("SELECT id FROM orders", "SELECT id FROM public.orders", 'SELECT id FROM "app.orders"',
                 "SELECT id FROM App.members", "SELECT * FROM members", "SELECT * FROM app.members",
                 'SELECT id FROM "APP".orders', "SELECT id FROM main.users u", "SELECT id FROM x.app.orders",
                 "SELECT * FROM pg_catalog.pg_user", "SELECT * FROM information_schema.tables",
                 "WITH members AS (SELECT 1) SELECT * FROM app.members"):
        assert code_of(lambda text=text: site.query(text)) in ("table_not_allowed", "sql_forbidden"), text
    with pytest.raises(ApiFailure, match=r"use orders\.id"):
        site.query("SELECT app.orders.id FROM app.orders")


@pytest.mark.parametrize("site", ["sqlite membership", "postgres membership", "sqlite schemas", "postgres schemas"],
                         indirect=True)
def test_a_member_writes_rows_of_its_tenants_and_no_others(site: Site) -> None:
    before = site.ids("NOTES", B)
    # named, and a tenant of the caller's
    assert site.write(Insert("notes", {"id": 100, "text": "new", "tenant_id": 3}))[0] == 1
    assert site.ids("NOTES", B) == [*before, 100]
    assert site.write(Update("notes", {"tenant_id": 1, "text": "moved"}, {"id": 100})) == (1, None)
    assert site.ids("NOTES", B) == before and 100 in site.ids("NOTES")
    assert site.write(Update("notes", {"text": "ours"}, {"id": 9})) == (1, None)  # a row that B made
    assert site.write(Delete("notes", {"id": 10})) == (1, None)
    # not the caller's
    contents = str(site.data.contents())
    for request, code in [
            (Insert("notes", {"id": 101, "text": "x", "tenant_id": 2}), "column_not_allowed"),
            (Insert("notes", {"id": 101, "text": "x", "tenant_id": 99}), "column_not_allowed"),
            (Insert("notes", {"id": 101, "text": "x", "tenant_id": None}), "column_not_allowed"),
            (Insert("notes", {"id": 101, "text": "x", "tenant_id": [1, 2]}), "column_not_allowed"),
            (Insert("notes", {"id": 101, "text": "x", "tenant_id": "1 OR 1"}), ""),
            (Insert("notes", {"id": 101, "text": "x"}), "invalid_params"),  # A has two
            (Insert("notes", {"id": 101, "text": "x", "member_id": A}), "column_not_allowed"),
            (Update("notes", {"tenant_id": 2}, {"id": 2}), "column_not_allowed"),
            (Update("notes", {"tenant_id": None}, {"id": 2}), "column_not_allowed"),
            (Insert("members", {"member_id": A, "of_tenant": 2}), "table_not_allowed")]:
        assert code_of(lambda request=request: site.write(request)) == code or not code
    for request in (Update("notes", {"text": "taken"}, {"id": 1}), Delete("notes", {"id": 1}),
                    Update("notes", {"tenant_id": 1}, {"id": 1}), Delete("notes", {"id": 11})):
        assert site.write(request) == (0, None)
    assert _rows(site.data.contents()) == _rows(contents)


@pytest.mark.parametrize("site", ["sqlite membership", "postgres membership", "sqlite schemas", "postgres schemas"],
                         indirect=True)
def test_upserts_and_batches_keep_to_the_callers_tenants(site: Site) -> None:
    rows = [{"id": 9, "text": "ours", "tenant_id": 3}, {"id": 110, "text": "new", "tenant_id": 1}]
    assert site.write(Upsert("notes", rows, "id", returning=["id", "text"])) == (
        2, [{"id": 9, "text": "ours"}, {"id": 110, "text": "new"}])
    assert site.query("SELECT text FROM NOTES WHERE id = 9", user=B) == [{"text": "ours"}]
    assert 110 in site.ids("NOTES") and 110 not in site.ids("NOTES", B)
    assert site.write(Upsert("notes", {**rows[1], "tenant_id": 3}, "id")) == (1, None)  # to another tenant of A's
    assert 110 in site.ids("NOTES", B)
    contents = str(site.data.contents())
    taken = {"id": 1, "text": "taken", "tenant_id": 3}
    for request, code in [
            (Upsert("notes", taken, "id", None, True), "constraint"),
            (Upsert("notes", [rows[0], taken], "id"), "constraint"),
            (Upsert("notes", {**taken, "id": 11}, "id", ["text"]), "constraint"),
            (Upsert("notes", {**rows[0], "tenant_id": 2}, "id"), "column_not_allowed"),
            (Insert("notes", [{**taken, "id": 120}, {**taken, "id": 121, "tenant_id": 2}]), "column_not_allowed"),
            (Upsert("notes", {"id": 9, "text": "x"}, "id"), "invalid_params"),  # A has two
            (Upsert("notes", [rows[0], rows[0]], "id"), "invalid_params"),
            (Upsert("notes", taken, "text"), "invalid_params"),
            (Insert("notes", [{**taken, "id": 200 + n, "tenant_id": n} for n in range(30)]), "too_large")]:
        assert code_of(lambda request=request: site.write(request)) == code, request
    assert site.write(Upsert("notes", taken, "id", [], ["text"])) == (0, None)
    assert _rows(site.data.contents()) == _rows(contents)


@pytest.mark.parametrize("site", ["sqlite membership", "postgres membership"], indirect=True)
def test_the_only_tenant_of_a_caller_need_not_be_named_and_a_caller_without_one_writes_nothing(site: Site) -> None:
    alone, nobody = C, "dddddddd-0000-4000-8000-000000000004"
    site.data.execute(f"INSERT INTO members VALUES ('{alone}', 4, NULL)")
    site.data.execute(f"INSERT INTO members VALUES ('{alone}', 4, NULL)")
    site.data.execute(f"INSERT INTO members VALUES ('{alone}', NULL, NULL)")
    assert site.write(Insert("notes", {"id": 200, "text": "x"}), alone)[1]["tenant_id"] == 4
    assert site.ids("NOTES", alone) == [200]
    assert code_of(lambda: site.write(Insert("notes", {"id": 201, "text": "x"}), nobody)) == "column_not_allowed"
    assert code_of(lambda: site.write(Insert("notes", {"id": 201, "text": "x", "tenant_id": 4}), nobody)) == (
        "column_not_allowed")
    site.data.execute(f"DELETE FROM members WHERE member_id = '{alone}'")  # revoked: at once
    assert site.ids("NOTES", alone) == []
    assert site.write(Update("notes", {"text": "y"}, {"id": 200}), alone) == (0, None)
    assert code_of(lambda: site.write(Insert("notes", {"id": 202, "text": "x", "tenant_id": 4}), alone)) == (
        "column_not_allowed")
    records = site.data.run(site.data.backend.waiting(100))
    assert [(one.action, one.columns, one.row_count) for one in records] == [
        ("insert", ["id", "text"], 1), ("update", ["text"], 0)]


@pytest.mark.parametrize("site", ["postgres rls"], indirect=True)
def test_what_row_level_security_decides_is_read_and_written_as_its_policies_say(site: Site) -> None:
    own = Insert("notes", {"id": 100, "text": "mine"})
    assert code_of(lambda: site.write(own)) == "constraint"  # the policy wants user_id, which nobody set
    site.data.execute("ALTER TABLE notes ALTER user_id SET DEFAULT "
                      "(current_setting('request.jwt.claims', true)::json->>'sub')::uuid")
    assert site.write(own)[1] == {"id": 100, "text": "mine", "tag": None}
    assert 100 in site.ids("NOTES") and 100 not in site.ids("NOTES", B)
    assert site.write(Update("notes", {"text": "taken"}, {"id": 1})) == (0, None)
    assert site.write(Delete("notes", {"id": 1})) == (0, None)
    assert site.write(Update("notes", {"text": "changed"}, {"id": 2})) == (1, None)
    two = [{"id": 2, "text": "again"}, {"id": 101, "text": "new"}]
    assert site.write(Upsert("notes", two, "id", returning=["text"])) == (2, [{"text": "again"}, {"text": "new"}])
    before = site.data.contents()
    for taken in ({"id": 1, "text": "taken"}, [{"id": 2, "text": "x"}, {"id": 1, "text": "taken"}]):
        assert code_of(lambda taken=taken: site.write(Upsert("notes", taken, "id", returning=True))) == "constraint"
    assert site.data.contents() == before
    site.data.execute("CREATE POLICY none_so ON notes AS RESTRICTIVE FOR ALL USING (true) WITH CHECK (text <> 'no')")
    with pytest.raises(ApiFailure) as failed:
        site.write(Update("notes", {"text": "no"}, {"id": 2}))
    assert failed.value.code == "constraint" and "none_so" not in failed.value.message
    assert "row-level security" in failed.value.message


@pytest.mark.parametrize("change", [
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY", "ALTER ROLE {role} BYPASSRLS",
    "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY, OWNER TO {role}"])
@pytest.mark.parametrize("site", ["postgres rls"], indirect=True)
def test_row_level_security_that_is_switched_off_while_we_run_shows_nothing(site: Site, change: str) -> None:
    site.data.execute("ALTER TABLE notes ALTER user_id DROP NOT NULL")
    assert site.ids("NOTES") == [2, 4, 6, 8]  # its connection has been looked at
    site.write(Update("notes", {"text": "x"}, {"id": 2}))
    site.data.execute(change.format(role=ROLE))
    before = str(site.data.contents())
    try:
        for work in (lambda: site.query("SELECT * FROM NOTES"),
                     lambda: site.query("SELECT count(*) FROM users u, NOTES"),
                     lambda: site.write(Insert("notes", {"id": 300, "text": "x"})),
                     lambda: site.write(Update("notes", {"text": "y"}, {"id": 1})),
                     lambda: site.write(Delete("notes", {"id": 1}))):
            assert code_of(work) == "data_unavailable"
        assert str(site.data.contents()) == before
    finally:
        site.data.execute(f"ALTER ROLE {ROLE} NOBYPASSRLS")


@pytest.mark.parametrize(("prepare", "said"), [
    ("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY", 'data.tables.notes.owner is "rls", but row-level security is'),
    ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", 'ALTER TABLE "notes" ENABLE ROW LEVEL SECURITY, FORCE ROW'),
    ("ALTER ROLE plugins BYPASSRLS", "BYPASSRLS"), ("ALTER ROLE plugins SUPERUSER", "superuser"),
    ("DROP TABLE notes", "there is no such table"),
    ("ALTER TABLE notes RENAME TO base; CREATE VIEW notes AS SELECT * FROM base", "it is a view")])
def test_row_level_security_that_binds_nobody_is_refused(postgres: Postgres, prepare: str, said: str,
                                                         tmp_path: Path) -> None:
    made = owned("rls", postgres, "unbound")
    try:
        for statement in prepare.split("; "):
            made.execute(statement)
        with pytest.raises(ApiFailure) as failed:
            made.query("SELECT 1 AS n")
        assert failed.value.code == "data_unavailable" and said in failed.value.message, failed.value.message
        assert said in checked(tmp_path, f"postgresql://{ROLE}@/unbound?host={postgres.folder}", tables_of("rls"))
    finally:
        made.execute(f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS")
        made.close()


def checked(folder: Path, url: str, tables: dict[str, Any]) -> str:
    """The one line with which ``config check`` refuses these tables; empty if it does not."""
    written = [f'data.url = "{url}"']
    for name, entry in tables.items():
        of = entry["owner"]
        of = f'"{of}"' if isinstance(of, str) else ", ".join(f'{key} = "{one}"' for key, one in of.items()).join("{}")
        written.append(f'[data.tables."{name}"]\nowner = {of}\ncolumns = {entry["columns"]}\n'
                       f"write = {str(entry.get('write', False)).lower()}")
    path = folder / "config.toml"
    path.write_text("\n".join(written))
    done = subprocess.run([sys.executable, "-m", "apex_exec", "config", "check", str(path)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"})
    if not done.returncode:
        return ""
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout
    return done.stderr


@pytest.mark.parametrize(("tables", "said"), [
    ({"orders": {"owner": "rls"}}, 'data.tables.orders.owner: SQLite has no row-level security, which "rls"'),
    ({"orders": {"owner": {"column": "a", "via": "m", "user": "u"}}}, "orders.owner: write a column's name"),
    ({"orders": {"owner": {**owner(), "more": "x"}}}, "data.tables.orders.owner: write a column's name"),
    ({"orders": {"owner": owner("m;")}}, "data.tables.orders.owner.via: 'm;' is not a table's name"),
    ({"orders": {"owner": owner("pg_authid")}}, "data.tables.orders.owner.via: pg_authid is not for plugins"),
    ({"orders": {"owner": {**owner(), "tenant": "a b"}}}, "data.tables.orders: 'a b' is not a plain name"),
    ({"orders": {"owner": owner(), "columns": ["Tenant_ID"]}}, "two of its columns differ only in case"),
    ({"a.b.orders": {"owner": "user_id"}}, "'a.b.orders' is not a table's name"),
    ({"pg_catalog.x": {"owner": "user_id"}}, "is not for plugins"),
    ({"orders": {"owner": owner()}, "members": {"owner": "member_id", "write": True}},
     "data.tables.members.write: this table says who belongs to which tenant"),
    ({"orders": {"owner": owner("app.members")}, "Members": {"owner": "member_id", "write": True}},
     "data.tables.Members.write: this table says who belongs to which tenant")])
def test_an_owner_that_cannot_be_is_one_line(tmp_path: Path, tables: dict[str, Any], said: str) -> None:
    filled = {name: {"columns": ["id"], **entry} for name, entry in tables.items()}
    with pytest.raises(ConfigError) as failed:
        read_tables(filled, "sqlite")
    assert said in str(failed.value) and "\n" not in str(failed.value)
    if "rls" in said or "column's name" in said:
        assert said in checked(tmp_path, f"sqlite:///{tmp_path}/data.db", filled)


BROKEN = [("DROP TABLE members", "members"), ("ALTER TABLE members RENAME of_tenant TO of_t", "of_tenant"),
          ("REVOKE ALL ON members FROM plugins", "permission denied"),
          ("ALTER TABLE members ALTER of_tenant TYPE text", "operator does not exist")]


@pytest.mark.parametrize(("prepare", "said"), BROKEN)
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_a_membership_that_cannot_be_looked_up_fails_closed_and_only_config_check_says_why(
        request: pytest.FixtureRequest, tmp_path: Path, backend: str, prepare: str, said: str) -> None:
    lite = backend == "sqlite"
    if lite and ("ALTER of" in prepare or "REVOKE" in prepare):
        return  # SQLite compares any type, and has no rights
    where: Any = tmp_path if lite else request.getfixturevalue("postgres")
    url = f"sqlite:///{tmp_path}/broken.db" if lite else f"postgresql://{ROLE}@/broken?host={where.folder}"
    for before in (True, False):  # when the gateway first connects, and while it runs
        made = owned("membership", where, "broken")
        try:
            assert checked(tmp_path, url, tables_of("membership")) == ""
            if not before:
                made.query("SELECT id FROM orders")
                made.write(Delete("notes", {"id": 2}))
            made.execute(prepare)
            for write in (None, Delete("notes", {"id": 2}), Insert("notes", {"id": 77, "text": "x", "tenant_id": 1})):
                with pytest.raises(ApiFailure) as failed:
                    made.query("SELECT id FROM orders") if write is None else made.write(write)
                assert "members" not in failed.value.message and "of_tenant" not in failed.value.message
                assert failed.value.code in ("data_unavailable", "sql_error"), failed.value.message
            assert said in checked(tmp_path, url, tables_of("membership"))
        finally:
            made.close()
        (tmp_path / "broken.db").unlink(missing_ok=True)


def test_the_callers_id_may_be_a_uuid_in_one_table_and_a_text_in_another(postgres: Postgres) -> None:
    made = postgres_data(postgres, "two_types")
    try:
        made.execute("CREATE TABLE visits (owner text, n integer)")
        made.execute(f"INSERT INTO visits VALUES ('{A}', 1), ('{B}', 2)")
        made.execute(f"GRANT SELECT ON visits TO {ROLE}")
        made.show({"visits": {"owner": "owner", "columns": ["n"]}})
        assert made.query("SELECT v.n, count(o.id) FROM visits v LEFT JOIN orders o ON o.id > v.n GROUP BY v.n",
                          named=("visits", "orders")) == [{"n": 1, "count": 4}]
    finally:
        made.close()


names = st.sampled_from(["id", "text", "tag", "tenant_id", "tenant_id", "user_id", "member_id", "of_tenant",
                         "TENANT_ID"])
things = st.one_of(st.integers(-1, 12), st.sampled_from([A, B, "1", "2", "3", "2.0", " 2", "tag1", "x", "' OR 1=1 --"]),
                   st.none(), st.booleans(), st.binary(max_size=2), st.just([2]), st.just({"a": 2}), st.just(2.0))
maps = st.dictionaries(names, things, max_size=4)
tables = st.sampled_from(["notes", "notes", "notes", "orders", "members", "app.members"])
several = st.one_of(maps, st.lists(maps, min_size=1, max_size=2))
requests = st.one_of(st.builds(Insert, tables, several), st.builds(Update, tables, maps, maps),
                     st.builds(Delete, tables, maps), st.builds(Upsert, tables, several, st.sampled_from(
                         ["id", "id", "tenant_id", ["id", "tenant_id"], "member_id", "tag"])))


@pytest.fixture(scope="module", params=["sqlite membership", "postgres membership", "postgres schemas",
                                        "postgres rls"])
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As ``site``, for many examples."""
    made = Site(request, tmp_path_factory.mktemp("lasting"), "lasting")
    if made.kind == "rls":
        made.data.execute("ALTER TABLE notes ALTER user_id SET DEFAULT "
                          "(current_setting('request.jwt.claims', true)::json->>'sub')::uuid")
    else:
        made.data.execute(f"INSERT INTO {made.name('members')} VALUES ('{C}', 2, NULL)")
    with contextlib.suppress(ApiFailure):  # refused; it makes the outbox
        made.write(Insert("notes", {"id": 1}))
    before = kept(made)
    yield made
    assert kept(made) == before
    made.data.close()


@pytest.mark.slow
@given(request=requests)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_write_reaches_a_row_or_a_tenant_that_is_not_the_callers(lasting: Site, request: Any) -> None:
    before = beyond(lasting)
    try:
        lasting.write(request)
    except ApiFailure as failure:
        assert failure.code != "data_unavailable"
    assert beyond(lasting) == before


def beyond(site: Site) -> Any:
    """What A may not write: the rows of tenant 2 (or B's)."""
    return site.query("SELECT * FROM NOTES ORDER BY id", user=B if site.kind == "rls" else C)


def kept(site: Site) -> Any:
    """Who belongs where, and the rows without a tenant."""
    held = site.data.contents()
    rows = held if site.lite else [f"{table} {row}" for table, found in held.items() for row in found]
    return sorted(row for row in rows if OUTBOX not in row and (
        "members" in row or row.endswith((",NULL);", ", None)"))))


def _rows(contents: Any) -> Any:
    """The contents without the outbox."""
    return [row for row in str(contents).splitlines() if "outbox" not in row]
