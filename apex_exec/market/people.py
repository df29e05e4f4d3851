"""The end of a person in the marketplace's books: the pseudonym takes the place of the user's id, no amount changes.

Bills recompute: purchases, payers, usage and lines are renamed together, so that what is due for a month stays what was
billed for it. That is the one change that a closed month ever sees, and its checksum is made anew over the same
amounts. Every function takes an open transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from apex_exec.market.money.invoices import closed_lines
from apex_exec.market.money.statements import digest
from apex_exec.market.store import answers, closed_months, metadata, tickets
from apex_exec.registry.people import rename

TABLES = tuple(metadata.tables.values())
FIXED = ("invoice_lines", "closed_usage", "closed_months")
"""Tables that triggers guard: nobody changes a closed month."""
ERASED_SUBJECT = "(erased)"


def erase(db: sa.Connection, user_id: str, pseudonym: str) -> int:
    """Replaces the user's id, and the subjects and answers of the user's tickets; in how many values the id was. Raises
    Refusal("invoice_damaged") if a closed month is not what was closed: then nothing is changed."""
    months = list(db.execute(sa.select(closed_months.c.month)).scalars())
    for month in months:
        closed_lines(db, month)  # checks the sum that is made anew below
    own = sa.select(tickets.c.id).where(tickets.c.user_id == user_id)
    db.execute(sa.update(answers).where(answers.c.ticket.in_(own)).values(text=ERASED_SUBJECT))
    db.execute(sa.update(tickets).where(tickets.c.user_id == user_id).values(subject=ERASED_SUBJECT))
    with _unguarded(db):
        count = rename(db, TABLES, user_id, pseudonym)
        for month in months if count else ():
            lines = closed_lines(db, month, checked=False)
            db.execute(sa.update(closed_months).where(closed_months.c.month == month).values(sha256=digest(lines)))
    return count


@contextmanager
def _unguarded(db: sa.Connection) -> Iterator[None]:
    """Without the triggers of closed months, within this transaction: if it fails, they were never gone."""
    if db.dialect.name != "sqlite":
        for table in FIXED:
            db.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        yield
        for table in FIXED:
            db.execute(sa.text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
        return
    guards = db.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN "
                                "('invoice_lines', 'closed_usage', 'closed_months')")).all()
    for name, _ in guards:
        db.execute(sa.text(f"DROP TRIGGER {name}"))
    yield
    for _, text in guards:
        db.exec_driver_sql(text)
