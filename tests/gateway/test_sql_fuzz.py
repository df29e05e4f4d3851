"""Whatever text a plugin sends, the compiler answers with a statement or a refusal, soon, and never trips."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.gateway import sqlite
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.owners import ByColumn, ByDatabase, ByMembership, placed
from apex_exec.gateway.sql.tables import Table, read_tables
from tests.gateway.sql_grammar import SOUP, Maker, moved, with_schemas

TABLES = read_tables({
    "users": {"owner": "id", "columns": ["id", "name", "email"]},
    "orders": {"owner": "user_id", "columns": ["id", "user_id", "item", "total", "n"]},
    "notes": {"owner": "user_id", "columns": ["id", "text", "tag"], "write": True}})
TENANT = {"column": "tenant_id", "via": "app.members", "user": "member_id", "tenant": "of_tenant"}


def other_owners(backend: str) -> dict[str, Table]:
    """The same tables, with an owner of each kind, and beside ``orders`` one in a schema."""
    return read_tables({
        "users": {"owner": "id", "columns": ["id", "name", "email"]},
        "orders": {"owner": TENANT, "columns": ["id", "user_id", "item", "total", "n"]},
        "app.orders": {"owner": "user_id", "columns": ["id", "user_id", "item", "total", "n"]},
        "notes": {"owner": "rls" if backend == "postgres" else TENANT, "columns": ["id", "text", "tag"]}}, backend)


SECONDS_MAX = 5.0
"""Far above what any text takes (20 ms alone on a machine): a busy machine must not fail the test."""


CALLED = re.compile(r"(?<![\w.\"@])([a-z_][a-z0-9_.]*)\(")
FENCES = {
    ByColumn: r"FROM {place} WHERE {place}\.{column} = \$\d",
    ByMembership: r"FROM {place} WHERE {place}\.{column} (= ANY \(ARRAY|IN )\(SELECT {via}\.[`\"]of_tenant[`\"] "
                  r"FROM {via} WHERE {via}\.[`\"]member_id[`\"] = \$\d",
    ByDatabase: r"FROM {place} WHERE \(SELECT CASE WHEN pg_catalog\.row_security_active\(''::pg_catalog\.regclass\) "
                "THEN"}
"""How a table is read, by the kind of its owner."""
OURS = {"sum", "pg_column_size", "length", "substr", "set_config", "current_setting", "coalesce", "nullif",
        "octet_length", "row_number", "greatest", "least", "grouping", "json_each",
        "pg_catalog.row_security_active"}
"""What the compiler itself puts into a statement."""
FUNCTIONS = OURS | sqlite.FUNCTIONS | {f"pg_catalog.{name}" for name in FORMS}
NAMED = re.compile(r"[\"`]([^\"`]*)[\"`]")



def check_written(text: str, tables: Mapping[str, Table]) -> None:
    """An independent look at a statement: it calls what is allowed, and names what is shown or made by us."""
    without = re.sub(r"'[^']*'", "''", text)
    assert set(CALLED.findall(without)) <= FUNCTIONS, text
    shown = {"value", "step"}
    for table in tables.values():
        via, looked_up = table.owner.looked_up
        for place in (table.name, via):
            shown |= {place} if table.lite else set(place.split("."))
        shown |= {*table.columns, *table.owner.columns, *looked_up}
    for name in NAMED.findall(without):
        assert name in shown or name.startswith(("__", "@_", "_value", "_size", "_number")) or re.fullmatch(
            r"column\d+", name), (name, text)
    for quote in '"`':
        reads: Counter[str] = Counter()
        fences: Counter[str] = Counter()
        for table in tables.values():  # every table is read behind its fence only
            place = table.placed(lambda word, quote=quote: f"{quote}{word}{quote}")
            reads[place] = without.count(f"FROM {place} ")
            fences[place] += len(re.findall(FENCES[type(table.owner)].format(
                place=place, column="".join(f"{quote}{one}{quote}" for one in table.owner.columns),
                via=(via := placed(table.owner.looked_up[0], lambda word, quote=quote: f"{quote}{word}{quote}",
                                   lite=table.lite))), without))
            if table.owner.looked_up[0]:  # the tenants' table is read by conditions only
                reads[via] = without.count(f"FROM {via} ")
                fences[via] += fences[place]
        assert reads == fences, text


def check(compiler: Compiler, text: str, tables: Mapping[str, Table] = TABLES) -> None:
    begun = time.monotonic()
    try:
        check_written(compiler.compile(text, tuple(tables)).text, tables)
    except ApiFailure as failure:
        assert "Anonymous" not in failure.message and "<class" not in failure.message
        assert "members" not in failure.message and "of_tenant" not in failure.message
    assert time.monotonic() - begun < SECONDS_MAX, text[:200]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=1500, deadline=None, derandomize=True)
@pytest.mark.slow
def test_a_soup_of_tokens_is_refused_or_compiled(seed: int) -> None:
    rng = random.Random(seed)
    soup = " ".join(rng.choice(SOUP) for _ in range(rng.randint(1, 60)))
    for text in (soup, f"SELECT {soup}", f"SELECT id FROM orders WHERE {soup}"):
        check(Compiler(rng.choice(["sqlite", "postgres"]), TABLES), text)
    backend = rng.choice(["sqlite", "postgres"])
    check(Compiler(backend, other_owners(backend)), f"SELECT id FROM app.orders WHERE {soup}", other_owners(backend))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=800, deadline=None, derandomize=True)
@pytest.mark.slow
def test_a_good_text_with_pieces_moved_is_refused_or_compiled(seed: int) -> None:
    for backend in ("sqlite", "postgres"):
        text = moved(random.Random(seed), Maker(seed).text())
        check(Compiler(backend, TABLES), text)
        text = with_schemas(random.Random(seed), text)
        check(Compiler(backend, other_owners(backend)), text, other_owners(backend))


@given(text=st.text(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_at_all_is_refused_or_compiled(text: str) -> None:
    for made in (text, f"SELECT '{text}'", f'SELECT "{text}" FROM users', f"SELECT 1 -- {text}"):
        check(Compiler("postgres", TABLES), made)
