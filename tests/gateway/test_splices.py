"""Whatever is spliced together, PostgreSQL's own parser finds in the result what the compiler meant, and nothing else.

Pieces of ordinary and of hostile texts are joined at words and in the middle of them. What the compiler accepts is read
by PostgreSQL's parser (npm's ``libpg-query``, MIT, which the test installs) and searched by ``check_trees.cjs``: one
SELECT, known nodes, functions, types and names, and every table behind its owner's condition.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.pieces import OWNER
from apex_exec.gateway.sql.tables import read_tables
from tests.gateway import dashboards, from_the_table
from tests.gateway.conftest import TABLES
from tests.gateway.from_the_table import Statement
from tests.gateway.sql_grammar import ODD_COLUMNS, ODD_SOURCES, ODD_TAILS, ODD_VALUES, ODD_WRAPS, SOUP, Maker
from tests.support import need

pytestmark = [pytest.mark.system, pytest.mark.slow]

TEXTS = int(os.environ.get("APEX_TEST_SPLICES", "100000"))
PARTS = 8
LIBRARY = "libpg-query@18.1.5"
SHOWN: dict[str, Any] = {**TABLES, **dashboards.TABLES, **from_the_table.TABLES}
NAMED = tuple(SHOWN)
RULES = {
    "nodes": "SelectStmt ResTarget ColumnRef String A_Star A_Const ParamRef A_Expr BoolExpr FuncCall TypeCast Integer "
             "Float RangeVar RangeSubselect RangeFunction JoinExpr List CommonTableExpr SubLink CaseExpr CaseWhen "
             "NullTest BooleanTest CoalesceExpr MinMaxExpr RowExpr A_ArrayExpr A_Indirection A_Indices WindowDef "
             "GroupingSet GroupingFunc SQLValueFunction SortBy".split(),
    "functions": [*FORMS, "timezone", "extract", "lower", "power", "like_escape"],
    "ours": "sum pg_column_size length substr set_config current_setting octet_length row_number".split(),
    "types": "int2 int4 int8 float8 float4 numeric text varchar bpchar uuid bool date time timestamp timestamptz "
             "interval json jsonb".split(),
}
EDGES = ["'", '"', "''", "--", "/*", "*/", ";", "\\", "$$", "$x$", "U&'\\0041'", "E'\\''", "`", "]", "[", "(", ")",
         "::", "\n", "\t", "$1", "$99", "N'x'", "b'1'", "\u00a0", "\u2019", "+", "=", ",", ".", "*", "|", "0x1F",
         "1_000", "\r", "INTO x", "FOR UPDATE", "@@", "#", "{", "}", "?", "!", "~", "&"]
PIECES = re.compile(r"\w+|\s+|'[^']*'|.", re.DOTALL)


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Node with PostgreSQL's parser: a line in, a line out."""
    npm, node = shutil.which("npm"), shutil.which("node")
    need(bool(npm and node), "Node and npm are not installed")
    assert npm is not None and node is not None
    folder = tmp_path_factory.mktemp("parser")
    (folder / "package.json").write_text('{"name": "parser", "private": true}')
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", LIBRARY], cwd=folder,
                          capture_output=True, text=True, timeout=300)
    need(done.returncode == 0, f"npm cannot install {LIBRARY} here: {done.stderr[-300:]}")
    shutil.copy(Path(__file__).with_name("check_trees.cjs"), folder)
    with subprocess.Popen([node, "check_trees.cjs", json.dumps(RULES)], cwd=folder, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    """PostgreSQL's, as if every visible column might be compared inside a fence."""
    made = Compiler("postgres", read_tables(SHOWN))
    made.show(1, {name: dict.fromkeys(entry["columns"], "values") for name, entry in SHOWN.items()})
    return made


def found(parser: subprocess.Popen[str], text: str, owners: list[int]) -> list[str]:
    """What PostgreSQL's parser finds that must not be there."""
    assert parser.stdin is not None and parser.stdout is not None
    parser.stdin.write(json.dumps({"text": text, "owners": owners, "tables": SHOWN}) + "\n")
    parser.stdin.flush()
    wrong: list[str] = json.loads(parser.stdout.readline())
    return wrong


ORDINARY = [text for _, text, _ in dashboards.ALL]
HOSTILE = [*ODD_COLUMNS, *ODD_SOURCES, *ODD_TAILS, *ODD_VALUES, *ODD_WRAPS, *SOUP, *EDGES]


def ordinary(rng: random.Random) -> str:
    choice = rng.random()
    if choice < 0.4:
        return rng.choice(ORDINARY)
    return Maker(rng.getrandbits(32)).text() if choice < 0.7 else Statement(rng.getrandbits(32)).text


def spliced(rng: random.Random) -> str:
    """The beginning of one text, the end of another, and now and then something between them or in place of a word."""
    one, other = ordinary(rng), ordinary(rng)
    kind = rng.random()
    if kind < 0.35:  # one text with a piece of another
        words, more = PIECES.findall(one), PIECES.findall(other)
        at, begin = rng.randrange(len(words)), rng.randrange(len(more))
        words[at : at + rng.randint(0, 3)] = more[begin : begin + rng.randint(1, 6)]
        return "".join(words)
    if kind < 0.65:
        words = PIECES.findall(one)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(words))
            words[at : at + rng.randint(0, 1)] = [rng.choice([*HOSTILE, rng.choice(words)])]
        return "".join(words)
    if kind < 0.8:
        return one[: rng.randrange(len(one))] + rng.choice(["", *EDGES]) + other[rng.randrange(len(other)) :]
    at = rng.randrange(len(one))
    return one[:at] + rng.choice(EDGES) + one[at + rng.randint(0, 2) :]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_what_comes_out_is_what_postgres_reads(parser: subprocess.Popen[str], compiler: Compiler, part: int) -> None:
    counts: Counter[str] = Counter()
    for number in range(part * TEXTS // PARTS, (part + 1) * TEXTS // PARTS):
        text = spliced(random.Random(number))
        try:
            made = compiler.compile(text, NAMED)
        except ApiFailure as failure:
            counts[failure.code] += 1
            continue
        owners = [number for number, value in enumerate(made.extra, made.parameters + 1) if value is OWNER]
        wrong = found(parser, made.text, owners)
        assert not wrong, (text, made.text, wrong)
        counts["accepted"] += 1
    assert counts["accepted"] > TEXTS // PARTS // 50, counts


@pytest.mark.parametrize(("text", "words"), [
    ('SELECT "orders"."id" AS "__id" FROM "orders"', "owner"), ("DELETE FROM notes", "not one SELECT"),
    ('SELECT "orders"."id" FROM "orders" WHERE "orders"."user_id" = $2 OFFSET 0', "owner"),
    ('SELECT "orders"."secret" FROM "orders" WHERE "orders"."user_id" = $1 OFFSET 0', "not shown"),
    ('SELECT "orders"."id" FROM "orders" WHERE "orders"."user_id" = $1', "no fence"),
    ('SELECT "orders"."id" FROM "orders" WHERE "orders"."user_id" = $1 OR TRUE OFFSET 0', "owner"),
    ('SELECT "orders"."id" FROM "orders" WHERE "orders"."user_id" = $1 AND pg_catalog.sqrt("orders"."n") = 1 OFFSET 0',
     "may fail"),
    ('SELECT * FROM (SELECT 1) AS "@_a" CROSS JOIN "orders"', "without a fence"),
    ("SELECT 1; SELECT 2", "not one SELECT"), ("SELECT pg_sleep(1)", "function"),
    ("SELECT pg_catalog.pg_sleep(1)", "function"), ('SELECT "@_o"."password"', "name"),
    ("SELECT 'x'::regclass", "type"), ('SELECT * FROM "secrets"', "table"), ("SELECT 1 FOR UPDATE", "locking"),
    ("SELECT current_user FROM public.orders", "table"), ("SELECT set_config('role', 'x', TRUE)", "setting")])
def test_the_check_finds_what_it_looks_for(parser: subprocess.Popen[str], text: str, words: str) -> None:
    assert any(words in one for one in found(parser, text, [1])), found(parser, text, [1])


@pytest.mark.parametrize("call", ["array_agg(ORDER BY id)", "string_agg(ORDER BY id)", "sum(ORDER BY id)"])
def test_an_order_without_an_argument_is_an_error_of_the_text(compiler: Compiler, call: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        compiler.compile(f"SELECT {call} AS x FROM orders", NAMED)
    assert caught.value.code in ("sql_syntax", "sql_forbidden"), caught.value
