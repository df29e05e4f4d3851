"""What one plugin, or one user of a plugin, tries to do to others by way of what the daemon does for all of them.

No jail stands between them there: the gateway's process, its connections and its plans are everybody's, and the users
of a plugin share its workers and its requests. Each row is what the attacker's hook asks the platform for. Meanwhile a
victim, another user of another plugin, asks for what is its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

WIDE = "x" * 12_600 + "\U0001F600"
NO_UTF8 = b"\xff\xfe"
LONG = "\u00e9" * 120_000


class Query(NamedTuple):
    """One row. ``codes`` are the answers that the attacker may get; "ok" for rows."""

    name: str
    text: str
    params: tuple[Any, ...] = ()
    codes: tuple[str, ...] = ("sql_not_on_sqlite",)


def read_twice(depth: int, step: str, how: str = "") -> str:
    """CTEs, each of which reads the one before it as ``step`` does."""
    steps = "".join(f", a{n} AS {how} ({step.format(f'a{n - 1}')})" for n in range(1, depth))
    return f"WITH a0 AS {how} (SELECT id FROM orders){steps} SELECT count(*) AS x FROM a{depth - 1}"


def of_pairs(expression: str) -> str:
    """Work on a long text for each pair of rows."""
    compared = expression.format("$1 || a.item || b.item")
    return f"SELECT count(*) AS x FROM orders a CROSS JOIN orders b WHERE {compared} = 'x'"


REFUSED, LATE = ("sql_forbidden",), ("ok", "deadline_exceeded")
QUERIES = (
    Query("a text of 126 MB", "SELECT length(repeat($1, 10000)) AS x", (WIDE,)),
    Query("a text of 126 MB by replace", f"SELECT length(replace($1, 'x', '{'y' * 9000}')) AS x", (WIDE,)),
    Query("texts joined", f"SELECT length(concat({', '.join(['$1'] * 60)})) AS x", ("x" * 120_000,)),
    Query("CTEs that read each other twice", read_twice(16, "SELECT x.id FROM {0} x, {0} y"), (), REFUSED),
    Query("the same, not materialized", read_twice(18, "SELECT x.id FROM {0} x JOIN {0} y ON x.id = y.id",
                                                  "NOT MATERIALIZED"), (), REFUSED),
    Query("CTEs in IN", read_twice(14, "SELECT id FROM {0} WHERE id IN (SELECT id FROM {0})"), (), REFUSED),
    Query("another's refusal by a text of no encoding", "SELECT lower(CAST($1 AS text)) AS x", (NO_UTF8,)),
    Query("another's refusal by a number of no encoding", "SELECT CAST(CAST($1 AS text) AS int) AS x", (NO_UTF8,)),
    Query("another's refusal by a date out of range", "SELECT CAST($1 AS date) AS x", ("0001-01-01T00:00:00+23:59",),
          ("sql_parameters",)),
    Query("another's refusal by a text that is no number", "SELECT CAST($1 AS int) AS x", ("x",),
          ("sql_parameters",)),
    Query("columns doubled thirty times", "WITH a0 AS (SELECT * FROM orders)" + "".join(
        f", a{n} AS (SELECT *, * FROM a{n - 1})" for n in range(1, 30)) + " SELECT 1 AS x FROM a29", (),
          ("sql_error",)),
    Query("letters of long texts, pair by pair", of_pairs("lower(upper(lower(upper({0}))))"), (LONG,), LATE),
    Query("words of long texts", of_pairs("initcap({0})"), ("a " * 60_000,), LATE),
    Query("parts of long texts", of_pairs("split_part({0}, ',', 3)"), ("a," * 60_000,), LATE),
    Query("long texts looked through", of_pairs("md5(reverse({0}))"), (LONG,), LATE),
)
"""Those that are refused at once stand first."""
AT_ONCE = 11

TABLE: dict[str, str] = {}
"""Attack -> what came of it, for the end of a run."""


def lines() -> list[str]:
    """The table as text."""
    return [f"{name:<50}{TABLE[name]}" for name in TABLE]
