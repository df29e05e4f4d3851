"""What reviewers say to an author about a line of a submission: kept with it, and shown to everybody who sees it.

Every function takes an open transaction. A comment is never changed: what was said stays part of the review.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.states import check_reviewer
from apex_exec.market.store import comments

TEXT_CHARS_MAX = 2000
COMMENTS_MAX = 500
"""Comments on one submission: a page shows all of them."""


def add(db: sa.Connection, now_ns: int, submission: int, lines: int | None, *, path: str, line: int, text: str,
        reviewer: str, uid: int) -> None:
    """Keeps one comment. ``lines`` is how many lines the file ``path`` has, None if the bundle has no such file.

    Raises Refusal: reviewer_is_author, not_in_review, comment_empty, line_unknown, comments_full.
    """
    one = subs.get(db, submission)
    check_reviewer(reviewer, one.author, one.submitter)
    if one.state != "in_review":
        raise Refusal("not_in_review", f"submission {submission} is {one.state}, and comments can be made during a "
                                       "review only",
                      code=Code.CONFLICT)
    if not text.strip() or len(text) > TEXT_CHARS_MAX:
        raise Refusal("comment_empty", f"a comment must have 1 to {TEXT_CHARS_MAX} characters", code=Code.INVALID_INPUT)
    if lines is None or not 0 <= line <= lines:
        raise Refusal("line_unknown", f"submission {submission} has no line {line} in {path[:100]!a}",
                      code=Code.NOT_FOUND)
    kept = db.execute(sa.select(sa.func.count()).where(comments.c.submission == submission)).scalar_one()
    if kept >= COMMENTS_MAX:
        raise Refusal("comments_full", f"submission {submission} has {COMMENTS_MAX} comments, which is the limit",
                      hint="put the rest into the reason of the decision", code=Code.CONFLICT)
    db.execute(sa.insert(comments).values(submission=submission, path=path, line=line, text=text.strip(),
                                          reviewer=reviewer, uid=uid, at_ns=now_ns))


def every(db: sa.Connection, submission: int) -> list[dict[str, Any]]:
    """The comments on one submission, by file and line."""
    rows = db.execute(sa.select(comments).where(comments.c.submission == submission).order_by(
        comments.c.path, comments.c.line, comments.c.id))
    return [{"path": row.path, "line": row.line, "text": row.text, "reviewer": row.reviewer, "atNs": row.at_ns}
            for row in rows]
