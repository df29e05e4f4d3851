"""What an author sees of the marketplace: submissions, what is on offer, sales, tickets that wait. It only reads."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.currencies import CURRENCIES
from apex_exec.errors import Code, Refusal
from apex_exec.market import support
from apex_exec.market.money import sales
from apex_exec.market.review import comments
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.states import same_person
from apex_exec.market.store import as_struct, submissions

SUBMISSIONS_MAX = 100
NOTES_MAX = 50
"""Comments of one submission that the page lists."""


def mine(db: sa.Connection, now_ns: int, name: str) -> dict[str, Any]:
    """The latest submissions that ``name`` made or is the author of, and what has become of their plugins. Raises
    Refusal("submitter_missing")."""
    own = own_submissions(db, name)
    plugins = {one.plugin for one in own}
    sold: dict[str, dict[str, dict[str, int]]] = {}
    for sale in sales.everything(db):
        if sale.plugin in plugins and same_person(sale.author, name) and sale.refunded_ns is None:
            sums = sold.setdefault(sale.plugin, {}).setdefault(
                sale.currency, {"sold": 0, "author": 0, "digits": CURRENCIES.get(sale.currency, 2)})
            sums["sold"] += 1
            sums["author"] += sale.author_share
    waiting = {row["plugin"]: row for row in support.report(db, now_ns) if row["plugin"] in plugins}
    return {"name": name, "submissions": [_shown(db, one) for one in own[:SUBMISSIONS_MAX]],
            "plugins": [{"plugin": plugin, "sales": sold.get(plugin, {}), "tickets": waiting.get(plugin)}
                        for plugin in sorted(plugins)]}


def own_submissions(db: sa.Connection, name: str) -> list[subs.Submission]:
    """The submissions that ``name`` made or is the author of, latest first. Raises Refusal("submitter_missing")."""
    if not name.strip():
        raise Refusal("submitter_missing", "say whose submissions these are", code=Code.INVALID_INPUT)
    words = name.casefold().split()
    like = sa.or_(*(sa.func.lower(column).contains(words[0], autoescape=True)
                    for column in (submissions.c.author, submissions.c.submitter)))
    return [one for one in (as_struct(row, subs.Submission) for row in db.execute(
        sa.select(submissions).where(like).order_by(submissions.c.id.desc())))
        if same_person(one.author, name) or same_person(one.submitter, name)]


def _shown(db: sa.Connection, one: subs.Submission) -> dict[str, Any]:
    found = msgspec.json.decode(one.result) if one.result else {"checks": []}
    said = comments.every(db, one.id)
    last = subs.history(db, one.id)[-1]
    return {"id": one.id, "plugin": one.plugin, "version": one.version, "state": one.state,
            "submittedNs": one.submitted_ns, "reviewer": one.reviewer, "decided": last["to_state"],
            "by": last["actor"], "reason": last["reason"],
            "problems": [f"{check['name']}: {text}" for check in found["checks"] for text in check["problems"]],
            "comments": said[:NOTES_MAX], "commentsInAll": len(said)}
