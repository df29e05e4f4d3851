"""WITH and WITH RECURSIVE. Pure.

A reference to a CTE becomes a name that we generate, so that a mistake about scopes ends in "no such table" and never
in a table.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from apex_exec.gateway.sql.pieces import Recursion
from apex_exec.gateway.sql.sources import STEP, Sources
from apex_exec.gateway.sql.wording import COLUMN_PREFIX, refuse


class Ctes(Sources):
    """Writes WITH. ``_scopes`` are the visible CTEs by folded name, the innermost scope last."""

    def _ctes(self, node: Any) -> str:
        if node is None:
            return ""
        if type(node) is not exp.With or node.args.get("search"):
            raise refuse("this form of WITH", "WITH name AS (SELECT …)", node)
        recursive = bool(node.args.get("recursive"))
        bodies = []
        for cte in node.expressions:
            alias = cte.args.get("alias")
            if type(cte) is not exp.CTE or type(alias) is not exp.TableAlias or cte.args.get("key_expressions"):
                raise refuse("this form of WITH", "WITH name AS (SELECT …)", node)
            self.only(cte, "this", "alias", "materialized")
            word, made = self.identifier(alias.this), self.made()
            columns = ", ".join(self.name(column) for column in alias.args.get("columns") or [])
            weighed = self._weighed
            if recursive and _reads(cte.this, alias.this.name.lower()):
                bodies.append(self._recursion(cte, word, made))
                self._weights[made] = self._weighed - weighed
                continue
            body = self.query(cte.this)  # before its name becomes visible: it cannot refer to itself
            self._weights[made] = self._weighed - weighed
            how = {None: "", True: "MATERIALIZED ", False: "NOT MATERIALIZED "}[cte.args.get("materialized")]
            bodies.append(f"{self.quoted(made)}{f'({columns})' if columns else ''} AS {how}({body})")
            self._scopes.append({word: made})
        return f"WITH {'RECURSIVE ' if recursive else ''}{', '.join(bodies)} "

    def _recursion(self, cte: Any, word: str, made: str) -> str:
        """A CTE that reads itself: ``anchor UNION ALL step``.

        The rows get one column more, the number of the step; a step that begins from a row beyond DEPTH_MAX or
        STEP_BYTES_MAX is an error. Others, who read the CTE, do not see that column (``_source``).
        """
        both, alias = cte.this, cte.args["alias"]
        if self.lite:
            raise self.only_postgres("WITH RECURSIVE", cte)
        if type(both) is not exp.Union or both.args.get("distinct"):
            raise refuse("WITH RECURSIVE without UNION ALL", "anchor UNION ALL step", cte)
        self.only(both, "this", "expression", "distinct")
        anchor, step = both.this, both.expression
        if type(step) is not exp.Select or _reads(anchor, word):
            raise refuse("this WITH RECURSIVE", "anchor UNION ALL one SELECT that reads the name once", cte)
        given = [self.identifier(column) for column in alias.args.get("columns") or []]
        names = given or self._named_columns(anchor, cte)
        for part in ("order", "limit", "offset", "distinct", "group", "having", "with_"):
            if step.args.get(part) is not None:
                raise refuse(f"{part.strip('_').upper()} in the step of WITH RECURSIVE", "WHERE", cte)
        columns = [self.quoted(COLUMN_PREFIX + name) for name in names]
        first = self.query(anchor)
        inner = self.source_name(self.made())
        self._recursive.append(Recursion(word, made, tuple(names), len(self._scopes)))
        second = self._select(step, f", {STEP} + 1")
        recursion = self._recursive.pop()
        if recursion.reads != 1:
            raise refuse(f"a step of WITH RECURSIVE that reads {word} {recursion.reads} times in FROM", "one reference",
                         cte)
        self._scopes.append({word: made})
        self._columns_of[made] = tuple(names)
        return (f"{self.quoted(made)}({', '.join([*columns, STEP])}) AS (SELECT {inner}.*, 1 FROM ({first}) AS {inner} "
                f"UNION ALL {second})")

    def _named_columns(self, anchor: Any, cte: Any) -> list[str]:
        while isinstance(anchor, exp.SetOperation | exp.Subquery):
            anchor = anchor.this
        names = []
        for item in anchor.expressions if isinstance(anchor, exp.Select) else ():
            named = item.args["alias"] if isinstance(item, exp.Alias) else item.this
            if not isinstance(item, exp.Alias | exp.Column) or not isinstance(named, exp.Identifier):
                break
            names.append(self.identifier(named))
        else:
            if names:
                return names
        raise refuse("WITH RECURSIVE without names for its columns", "WITH RECURSIVE name(column, …) AS (…)", cte)

    def _select(self, node: Any, more: str = "") -> str:
        raise NotImplementedError


def _reads(query: Any, word: str) -> bool:
    """Whether a table of that name stands in the query."""
    return any(table.name.lower() == word and not table.args.get("db") for table in query.find_all(exp.Table))
