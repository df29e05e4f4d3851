"""Whatever text a plugin sends, the compiler answers with a statement or a refusal, soon, and never trips."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.tables import read_tables
from tests.gateway.sql_grammar import SOUP, Maker, moved

TABLES = read_tables({
    "users": {"owner": "id", "columns": ["id", "name", "email"]},
    "orders": {"owner": "user_id", "columns": ["id", "user_id", "item", "total", "n"]},
    "notes": {"owner": "user_id", "columns": ["id", "text", "tag"], "write": True}})
SECONDS_MAX = 5.0
"""Far above what any text takes (20 ms alone on a machine): a busy machine must not fail the test."""


CALLED = re.compile(r"(?<![\w.\"@])([a-z_][a-z0-9_.]*)\(")
OURS = {"sum", "pg_column_size", "length", "substr", "set_config", "current_setting", "coalesce", "nullif",
        "octet_length", "row_number", "greatest", "least", "grouping", "pg_int", "pg_float", "pg_number", "pg_date",
        "json_each"}
"""What the compiler itself puts into a statement."""
FUNCTIONS = OURS | {f"pg_catalog.{name}" for name in FORMS} | {form.sqlite for form in FORMS.values() if form.sqlite}
NAMED = re.compile(r"[\"`]([^\"`]*)[\"`]")
SHOWN = {*TABLES, *(column for table in TABLES.values() for column in (*table.columns, *table.owner.columns)), "value",
         "step"}


def check_written(text: str) -> None:
    """An independent look at a statement: it calls what is allowed, and names what is shown or made by us."""
    without = re.sub(r"'[^']*'", "''", text)
    assert set(CALLED.findall(without)) <= FUNCTIONS, text
    for name in NAMED.findall(without):
        assert name in SHOWN or name.startswith(("__", "@_", "_value", "_size", "_number")) or re.fullmatch(
            r"column\d+", name), (name, text)
    for table in TABLES.values():  # every table is read behind its fence only
        for quote in '"`':
            reads = without.count(f"FROM {quote}{table.name}{quote} ")
            fences = without.count(f"FROM {quote}{table.name}{quote} WHERE {quote}{table.name}{quote}."
                                   f"{quote}{table.owner.columns[0]}{quote} = $")
            assert reads == fences, text


def check(compiler: Compiler, text: str) -> None:
    begun = time.monotonic()
    try:
        check_written(compiler.compile(text, tuple(TABLES)).text)
    except ApiFailure as failure:
        assert "Anonymous" not in failure.message and "<class" not in failure.message
    assert time.monotonic() - begun < SECONDS_MAX, text[:200]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=1500, deadline=None, derandomize=True)
@pytest.mark.slow
def test_a_soup_of_tokens_is_refused_or_compiled(seed: int) -> None:
    rng = random.Random(seed)
    soup = " ".join(rng.choice(SOUP) for _ in range(rng.randint(1, 60)))
    for text in (soup, f"SELECT {soup}", f"SELECT id FROM orders WHERE {soup}"):
        check(Compiler(rng.choice(["sqlite", "postgres"]), TABLES), text)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=800, deadline=None, derandomize=True)
@pytest.mark.slow
def test_a_good_text_with_pieces_moved_is_refused_or_compiled(seed: int) -> None:
    for backend in ("sqlite", "postgres"):
        check(Compiler(backend, TABLES), moved(random.Random(seed), Maker(seed).text()))


@given(text=st.text(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_at_all_is_refused_or_compiled(text: str) -> None:
    for made in (text, f"SELECT '{text}'", f'SELECT "{text}" FROM users', f"SELECT 1 -- {text}"):
        check(Compiler("postgres", TABLES), made)
