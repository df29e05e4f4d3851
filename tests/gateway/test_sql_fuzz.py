"""Whatever text a plugin sends, the compiler answers with a statement or a refusal, soon, and never trips."""

from __future__ import annotations

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql import Compiler
from apex_exec.gateway.tables import Table
from tests.gateway.sql_grammar import Maker

TABLES = {"users": Table("users", "id", ("id", "name", "email"), False),
          "orders": Table("orders", "user_id", ("id", "user_id", "item", "total", "n"), False),
          "notes": Table("notes", "user_id", ("id", "text", "tag"), True)}
SECONDS_MAX = 5.0
"""Far above what any text takes (20 ms alone on a machine): a busy machine must not fail the test."""
SOUP = """SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET WITH AS ( ) , . * + - / % || = < > <= <> != ~ :: : ; @ #
? $1 $2 AND OR NOT IN EXISTS BETWEEN LIKE ILIKE IS NULL TRUE FALSE CASE WHEN THEN ELSE END CAST UNION ALL
EXCEPT INTERSECT DISTINCT ON USING JOIN LEFT RIGHT FULL OUTER CROSS NATURAL LATERAL VALUES ARRAY ROW INTERVAL
DATE TIMESTAMP EXTRACT OVER PARTITION ROWS RANGE FILTER WITHIN FOR UPDATE SHARE INTO TABLE ONLY TABLESAMPLE
RECURSIVE MATERIALIZED RETURNING INSERT DELETE SET DEFAULT COLLATE AT TIME ZONE ESCAPE SIMILAR TO ANY SOME
UNNEST GENERATE_SERIES COALESCE NULLIF COUNT SUM MIN MAX LOWER SUBSTRING TRIM POSITION OVERLAY ROUND users
orders notes id name n x y "x" 'x' 'it''s' 1 2.5 1e9 E'x' $$x$$ U&'x' B'1' X'1f' -- /* */ [ ] { } -> ->> #> @>
<@ && ||/ ^ int text uuid regclass jsonb numeric double precision varchar character varying timestamptz""".split()


def check(compiler: Compiler, text: str) -> None:
    begun = time.monotonic()
    try:
        compiler.compile(text, tuple(TABLES))
    except ApiFailure:
        pass
    assert time.monotonic() - begun < SECONDS_MAX, text[:200]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_a_soup_of_tokens_is_refused_or_compiled(seed: int) -> None:
    rng = random.Random(seed)
    soup = " ".join(rng.choice(SOUP) for _ in range(rng.randint(1, 60)))
    for text in (soup, f"SELECT {soup}", f"SELECT id FROM orders WHERE {soup}"):
        check(Compiler(rng.choice(["sqlite", "postgres"]), TABLES), text)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=800, deadline=None, derandomize=True)
def test_a_good_text_with_pieces_moved_is_refused_or_compiled(seed: int) -> None:
    rng = random.Random(seed)
    words = Maker(seed).text().split(" ")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(words))
        moved = words[rng.randrange(len(words)) :][:4]
        words[at : at + rng.randint(0, 2)] = rng.choice([[rng.choice(SOUP)], moved, []])
        words = words or ["SELECT"]
    check(Compiler(rng.choice(["sqlite", "postgres"]), TABLES), " ".join(words))


@given(text=st.text(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_at_all_is_refused_or_compiled(text: str) -> None:
    for made in (text, f"SELECT '{text}'", f'SELECT "{text}" FROM users', f"SELECT 1 -- {text}"):
        check(Compiler("postgres", TABLES), made)
