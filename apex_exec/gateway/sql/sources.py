"""What a query reads from: tables, queries, VALUES and functions in FROM, and joins. Pure.

A table becomes a subquery over the operator's columns of that table, limited to the caller's rows. Such a fence
contains ``OFFSET 0`` unless it holds a LIMIT: if a planner moved the plugin's own conditions below the owner's, an
error (1 / (salary - 1000)) would reveal other users' rows.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import PAIRS
from apex_exec.gateway.sql.pieces import OWNER, Inside, Pieces, Recursion
from apex_exec.gateway.sql.rules import SHARED
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.wording import COLUMN_PREFIX, form_of, node_name, position, refuse

SOURCES_MAX = 500
"""The most sources in FROM that a query comes to if each CTE is put in place of its name, as a planner may do: a few
hundred bytes of CTEs that read each other twice come to millions, and neither database looks at the clock while it
plans. A dashboard comes to some 30."""
VALUES_MAX = 1000
SERIES_ROWS_MAX = 10_000
"""The most rows of one ``generate_series``: some 27 years of days. More is an error, at once."""
DEPTH_MAX = 100
"""The most steps of one WITH RECURSIVE: a tree's depth, not its size. One more is an error."""
STEP_BYTES_MAX = 64 * 1024
"""The most bytes of a row that a step of WITH RECURSIVE starts from: a text that doubles would grow without end."""
STEP = '"step"'
"""The column with the number of the step. No plugin can name it: what plugins name has a prefix."""


class Sources(Pieces):
    """Writes what stands in FROM."""

    def _weigh(self, sources: int, node: Any) -> None:
        """Counts what a source in FROM comes to."""
        self._weighed += sources
        if self._weighed > SOURCES_MAX:
            raise refuse(f"a query that comes to more than {SOURCES_MAX} tables, each WITH put in place of its name,",
                         "fewer references to a WITH", node)

    def _source(self, node: Any) -> str:
        """A source in FROM or JOIN: a table, a CTE, a bracketed query, VALUES or a function."""
        self._weigh(1, node)
        alias = node.args.get("alias")
        given, columns = None, []
        if alias is not None:
            if type(alias) is not exp.TableAlias:
                raise refuse("this alias", "", node)
            self.only(alias, "this", "columns")
            given = self.identifier(alias.this) if alias.this is not None else None
            columns = [self.identifier(column) for column in alias.args.get("columns") or []]
        lateral = type(node) is exp.Lateral
        if lateral:
            self.only(node, "this", "view", "outer", "alias", "ordinality")
            ordinality, inner = node.args.get("ordinality"), node.this
        else:
            ordinality, inner = node.args.get("ordinality"), node
        if type(inner) is exp.Subquery:
            self.only(inner, "this", "alias")
            if lateral and self.lite:
                raise self.only_postgres("LATERAL", node)
            self._joined += 1
            return f"{'LATERAL ' * lateral}({self.query(inner.this)}) AS {self._aliased(given or self.made(), columns)}"
        if type(inner) is exp.Values:
            self.only(inner, "expressions", "alias")
            return self._values(inner, given or self.made(), columns)
        if type(inner) is exp.Unnest:
            self.only(inner, "expressions", "alias", "offset")
            if isinstance(inner.args.get("offset"), exp.Identifier):
                ordinality, columns = True, [*columns, self.identifier(inner.args["offset"])]
            return self._rows(exp.Anonymous(this="unnest", expressions=inner.expressions), given, columns, ordinality)
        if type(inner) is exp.Table and type(inner.this) is exp.Anonymous:
            self.only(inner, "this", "alias", "ordinality")
            return self._rows(inner.this, given, columns, ordinality)
        if type(inner) is exp.Anonymous:
            return self._rows(inner, given, columns, ordinality)
        if type(node) is not exp.Table or lateral:
            raise refuse(f"{node_name(node)} as a table", "a table, a query in brackets, or VALUES", node)
        self.only(node, "this", "alias", "db")
        word = self.identifier(node.this)
        if node.args.get("db") is not None:
            inside = self._inside[-1].get(given or word, Inside())
            return (f"({self._owned(self._in_schema(node, word), inside, dots=1)}) AS "
                    f"{self._aliased(given or word, columns)}")
        for recursion in reversed(self._recursive):
            if recursion.word == word and not any(word in scope for scope in self._scopes[recursion.depth :]):
                return self._recursed(recursion, self._aliased(given or word, columns))
        for scope in reversed(self._scopes):
            if word in scope:
                self._joined += 1
                self._weigh(self._weights.get(scope[word], 0), node)
                name = self.quoted(scope[word])
                if scope[word] in self._columns_of:  # without the number of the step
                    seen = ", ".join(self.quoted(COLUMN_PREFIX + one) for one in self._columns_of[scope[word]])
                    name = f"(SELECT {seen} FROM {name})"
                return f"{name} AS {self._aliased(given or word, columns)}"
        inside = self._inside[-1].get(given or word, Inside())
        return f"({self._owned(word, inside)}) AS {self._aliased(given or word, columns)}"

    def table(self, word: str, schema: str = "") -> Table | None:
        """The table that ``word`` means in FROM; None if it means a CTE, or no table of this plugin."""
        if schema:
            return self._tables.get(f"{schema}.{word}") if f"{schema}.{word}" in self._named else None
        hidden = any(recursion.word == word for recursion in self._recursive)
        if "." in word or hidden or any(word in scope for scope in self._scopes):
            return None
        return self._tables.get(word) if word in self._named else None

    def _aliased(self, word: str, columns: list[str]) -> str:
        if not columns:
            return self.source_name(word)
        if self.lite:
            raise self.only_postgres("an alias with names of columns, other than of WITH and VALUES")
        return f"{self.source_name(word)}({', '.join(self.quoted(COLUMN_PREFIX + name) for name in columns)})"

    def _values(self, node: Any, word: str, columns: list[str]) -> str:
        rows = node.expressions
        width = len(rows[0].expressions) if rows and type(rows[0]) is exp.Tuple else 0
        if not width or any(type(row) is not exp.Tuple or len(row.expressions) != width for row in rows):
            raise ApiFailure("sql_syntax", "the rows of VALUES need the same number of columns")
        if len(rows) > VALUES_MAX:
            raise refuse(f"VALUES with more than {VALUES_MAX} rows", "unnest of a list parameter", node)
        if len(columns) > width:
            raise ApiFailure("sql_syntax", f"VALUES has {width} columns, and the alias names {len(columns)}")
        names = columns + [f"column{number}" for number in range(len(columns) + 1, width + 1)]
        text = f"VALUES {', '.join(f'({self.all(row.expressions)})' for row in rows)}"
        self._joined += 1
        quoted = [self.quoted(COLUMN_PREFIX + name) for name in names]
        if not self.lite:
            return f"({text}) AS {self.source_name(word)}({', '.join(quoted)})"
        renamed = ", ".join(f"`column{number}` AS {name}" for number, name in enumerate(quoted, 1))
        return f"(SELECT {renamed} FROM ({text})) AS {self.source_name(word)}"

    def _rows(self, call: Any, given: str | None, columns: list[str], ordinality: Any) -> str:
        """A function in FROM. A plugin's own function names never get here: only those of the kind ``rows``."""
        self.only(call, "this", "expressions")
        form = form_of(call)
        if form is None or form.kind != "rows":
            raise refuse(f"{node_name(call)} as a table", "a function of the kind that stands in FROM", call,
                         named=True)
        if self.lite:
            raise self.only_postgres(form.name, call)
        word = given or form.name
        names = ["key", "value"] if form.name in PAIRS else [word]
        names = columns[: len(names)] + names[len(columns) :]
        if ordinality:
            names.append(columns[len(names)] if len(columns) > len(names) else "ordinality")
        if len(columns) > len(names):
            raise ApiFailure("sql_syntax", f"{form.name} has {len(names)} columns, and the alias names {len(columns)}")
        quoted = [self.quoted(COLUMN_PREFIX + name) for name in names]
        self._joined += 1
        called = f"{SHARED['qualified'](form)}({SHARED['arguments'](self, form, call)})"
        if form.name != "generate_series":
            return (f"LATERAL {called}{' WITH ORDINALITY' * bool(ordinality)} AS "
                    f"{self.source_name(word)}({', '.join(quoted)})")
        # In FROM, PostgreSQL would make all of it before it counts; in a SELECT it makes one after another.
        made, counted = self.source_name(self.made()), self.source_name(self.made())
        value, number = self.quoted("_value"), self.quoted("_number")
        return (f"LATERAL (SELECT {value} AS {quoted[0]}{f', {number} AS {quoted[1]}' if ordinality else ''} FROM "
                f"(SELECT {value}, row_number() OVER () AS {number} FROM (SELECT {called} AS {value}) AS {made}) AS "
                f"{counted} WHERE CASE WHEN {number} > {SERIES_ROWS_MAX} THEN CAST('generate_series returns more than "
                f"{SERIES_ROWS_MAX} rows; take a larger step: ' || {number} AS BOOLEAN) ELSE TRUE END) AS "
                f"{self.source_name(word)}")

    def _recursed(self, recursion: Recursion, alias: str) -> str:
        """The CTE that is being written, as its own step reads it."""
        recursion.reads += 1
        made = self.quoted(recursion.made)
        columns = [f"{made}.{self.quoted(COLUMN_PREFIX + name)}" for name in recursion.columns]
        step = f"{made}.{STEP}"
        guard = (f"CASE WHEN {step} > {DEPTH_MAX} OR pg_column_size(ROW({', '.join(columns)})) > {STEP_BYTES_MAX} THEN "
                 f"CAST('WITH RECURSIVE takes more than {DEPTH_MAX} steps, or its rows have more than "
                 f"{STEP_BYTES_MAX // 1024} KiB; end it with a condition: ' || {step} AS BOOLEAN) ELSE TRUE END")
        return f"(SELECT {', '.join(columns)}, {step} FROM {made} WHERE {guard} OFFSET 0) AS {alias}"

    def _in_schema(self, node: Any, word: str) -> str:
        """The name of the table ``word`` with the schema that stands before it. Raises ApiFailure."""
        name = f"{self.identifier(node.args['db'])}.{word}"
        if name not in self._tables and word in self._tables and word in self._named:
            raise refuse(f"the schema {node_name(node.args['db'])} before a table", f"{word[:60]} without it", node)
        return name

    def _caller(self, word: str) -> str:
        """The parameter with the caller's id for the table ``word``. Each table has one of its own: PostgreSQL gives a
        parameter one type, and one table may keep the id as a uuid, another as a text."""
        if word not in self._callers:
            self.extra_values.append(OWNER)
            self._callers[word] = f"${self.parameters + len(self.extra_values)}"
        return self._callers[word]

    def _owned(self, word: str, inside: Inside, dots: int = 0) -> str:
        """The caller's rows of a table, with the operator's columns.

        ``dots``: how many ``word`` must have. In quotes, a name without a schema could have one, too. On PostgreSQL, a
        table that has become a view has no tableoid: the statement fails before it reads a row."""
        table = self._tables.get(word) if word.count(".") == dots else None
        if table is None or word not in self._named:
            known = sorted(name for name in self._named if name in self._tables)
            raise ApiFailure("table_not_allowed", f"the table {word!r} is not visible to this plugin; visible: "
                                                  f"{', '.join(known) or 'none (manifest: data.tables)'}")
        self.used[word] = None
        name = table.placed(self.quoted)
        columns = ", ".join(f"{name}.{self.quoted(column)} AS {self.quoted(COLUMN_PREFIX + column)}"
                            for column in table.columns)
        fence = inside.tail or ("LIMIT -1 OFFSET 0" if self.lite else "OFFSET 0")
        more = [f"{name}.{self.quoted('tableoid')} IS NOT NULL"] if inside.where and not self.lite else []
        self.guarded = self.guarded or bool(more)
        conditions = "".join(f" AND {one}" for one in [*more, *inside.where])
        owned = table.condition(lambda: self._caller(word), self.quoted)
        return f"SELECT {columns} FROM {name} WHERE {owned}{conditions} {fence}"

    def _join(self, node: Any) -> str:
        if type(node) is not exp.Join:
            raise refuse(node_name(node), "", node)
        self.only(node, "this", "on", "using", "kind", "side", "method")
        self._joined += 1
        side, kind, method = (str(node.args.get(part) or "") for part in ("side", "kind", "method"))
        if (side not in ("", "LEFT", "RIGHT", "FULL") or kind not in ("", "INNER", "OUTER", "CROSS")
                or method not in ("", "NATURAL")):
            raise refuse(f"a {method} {side} {kind} join")
        on, using = node.args.get("on"), node.args.get("using")
        plain = not (on or using or method)
        if plain and (side or kind in ("INNER", "OUTER")):
            raise ApiFailure("sql_syntax", f"a join needs ON or USING{position(node)}")
        if kind == "CROSS" or plain:
            if not plain:
                raise ApiFailure("sql_syntax", "a cross join cannot have a condition")
            return f" CROSS JOIN {self._source(node.this)}"
        text = f" {method} {side} JOIN {self._source(node.this)}"
        if on is not None:
            text += f" ON {self.write(on)}"
        if using:
            text += f" USING ({', '.join(map(self.name, using))})"
        return text
