"""Writes a parsed SELECT anew, node by node, so that it can only see the caller's rows. Pure.

``queries``, ``ctes`` and ``sources`` write what a query is and reads from, ``expressions`` and ``functions`` the values
in it, each by its rule (``rules``). Every operation gets its own brackets, because the two databases do not agree about
precedence.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from apex_exec.gateway.sql.queries import Queries
from apex_exec.gateway.sql.wording import form_of, refuse

CONCATENATIONS_BESIDE_LIKE_MAX = 3
"""The most uses of || outside the patterns of a query with a LIKE, so that the compared text stays small, too."""


class Writer(Queries):
    """Writes one statement."""

    def finish(self) -> str:
        """The whole statement. Raises ApiFailure."""
        if not isinstance(self._tree, exp.Select | exp.SetOperation | exp.Subquery | exp.Values):
            raise refuse(f"{self._tree.key.upper() if not isinstance(self._tree, exp.Command) else self._tree.this}",
                         "one SELECT; insert, upsert, update and delete are allowed through the calls of these names")
        text = self.query(self._tree)
        if (self.patterns or self._pattern_characters) and self._concatenations > CONCATENATIONS_BESIDE_LIKE_MAX:
            raise refuse(f"more than {CONCATENATIONS_BESIDE_LIKE_MAX} uses of || beside a LIKE")
        return text

    def unhashed(self) -> list[str]:
        """The settings of PostgreSQL to switch off, because its hash tables would use unbounded memory.

        A hash join keeps all rows of one key in memory, and EXCEPT and INTERSECT keep all rows; a sort goes to disk
        instead. One table has at most as many rows as the user has; we allow two of those to be hashed.
        """
        return ["enable_hashjoin"] * (self._joined > 1) + ["enable_hashagg"] * self._compared_whole

    def truths(self) -> list[int]:
        """The result columns that are booleans as far as the text shows: SQLite returns them as 0 and 1."""
        select = self._tree
        while isinstance(select, exp.SetOperation | exp.Subquery):
            select = select.this
        if isinstance(select, exp.Values):
            return []
        items = [item.unalias() for item in select.expressions]
        if any(isinstance(item, exp.Star) or isinstance(item.this, exp.Star) for item in items):
            return []
        return [index for index, item in enumerate(items) if _is_truth(item)]


def _is_truth(item: Any) -> bool:
    """Whether the value is a boolean, as far as the text shows."""
    plain = item.unnest()
    form = form_of(plain)
    if form is not None:
        return form.cost == "flag"
    return isinstance(plain, exp.Predicate | exp.Connector | exp.Not | exp.Boolean | exp.Exists | exp.NullSafeEQ
                      | exp.NullSafeNEQ) and not isinstance(plain, exp.Anonymous)
