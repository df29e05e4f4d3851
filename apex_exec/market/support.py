"""Support tickets with a clock: a paid plugin's ticket needs its first response in under 24 hours of wall time.

The clock never pauses: nights, weekends and a closed ticket count. At exactly 24:00:00 it is a breach.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.money.pricing import price_at
from apex_exec.market.money.sales import check_user
from apex_exec.market.review import submissions as subs
from apex_exec.market.store import answers, as_struct, tickets

RESPONSE_NS = 24 * 3600 * 1_000_000_000
NEAR_NS = 4 * 3600 * 1_000_000_000
"""A breach that is less than this away is near: half a working day is left for an answer."""
ANSWER_CHARS_MAX = 4000
ANSWERS_MAX = 200
PAGE_MAX = 200
STATES = ("", "open", "waiting", "near", "breached")


class Ticket(msgspec.Struct):
    """One row of ``tickets``; ``paid`` says whether the plugin had a price when the ticket was opened."""

    id: int
    plugin: str
    user_id: str
    subject: str
    paid: bool
    opened_ns: int
    responded_ns: int | None
    closed_ns: int | None
    responder: str


def breached(ticket: Ticket, now_ns: int) -> bool:
    """True if a paid plugin's first response came, or is still missing, 24:00:00 or more after the opening."""
    return ticket.paid and (ticket.responded_ns or now_ns) - ticket.opened_ns >= RESPONSE_NS


def open_ticket(db: sa.Connection, now_ns: int, plugin: str, user_id: str, subject: str) -> Ticket:
    """Opens a ticket. Raises Refusal: plugin_unknown, subject_missing, user_invalid."""
    user_id = check_user(user_id)
    if not subject.strip() or len(subject) > 1000:
        raise Refusal("subject_missing", "a ticket's subject must have 1 to 1000 characters", code=Code.INVALID_INPUT)
    if subs.listing(db, plugin) is None:
        raise Refusal("plugin_unknown", f"the marketplace has no {plugin[:60]!r}", code=Code.NOT_FOUND)
    price = price_at(subs.price_history(db, plugin), now_ns)
    row = db.execute(sa.insert(tickets).values(
        plugin=plugin, user_id=user_id, subject=subject, paid=price is not None and price.paid, opened_ns=now_ns,
        responded_ns=None, closed_ns=None, responder=""))
    assert row.inserted_primary_key is not None
    return get(db, row.inserted_primary_key[0])


def respond(db: sa.Connection, now_ns: int, ticket: int, responder: str, text: str = "") -> Ticket:
    """Records an answer of the author's side; only the first answer stops the clock. ``text`` is kept if there is one.

    Raises Refusal: responder_missing, answer_too_long, answers_full.
    """
    current = get(db, ticket)
    if not responder.strip():
        raise Refusal("responder_missing", "an answer needs the responder's name", code=Code.INVALID_INPUT)
    if len(text) > ANSWER_CHARS_MAX:
        raise Refusal("answer_too_long", f"the answer is longer than {ANSWER_CHARS_MAX} characters; shorten it",
                      code=Code.INVALID_INPUT)
    if text.strip():
        kept = db.execute(sa.select(sa.func.count()).where(answers.c.ticket == ticket)).scalar_one()
        if kept >= ANSWERS_MAX:
            raise Refusal("answers_full", f"ticket {ticket} has {ANSWERS_MAX} answers, which is the limit",
                          hint="close it, and continue in a new one", code=Code.CONFLICT)
        db.execute(sa.insert(answers).values(ticket=ticket, responder=responder, text=text.strip(), at_ns=now_ns))
    if current.responded_ns is None:
        db.execute(sa.update(tickets).where(tickets.c.id == ticket).values(responded_ns=now_ns, responder=responder))
    return get(db, ticket)


def close(db: sa.Connection, now_ns: int, ticket: int) -> Ticket:
    """Closes a ticket. If nobody answered it, its clock keeps running towards a breach."""
    if get(db, ticket).closed_ns is None:
        db.execute(sa.update(tickets).where(tickets.c.id == ticket).values(closed_ns=now_ns))
    return get(db, ticket)


def get(db: sa.Connection, ticket: int) -> Ticket:
    """One ticket by its number. Raises Refusal("ticket_unknown")."""
    row = db.execute(sa.select(tickets).where(tickets.c.id == ticket)).first()
    if row is None:
        raise Refusal("ticket_unknown", f"ticket {ticket} does not exist", code=Code.NOT_FOUND,
                      hint="`apex-exec market ticket list` shows the tickets")
    return as_struct(row, Ticket)


def every(db: sa.Connection, plugin: str = "") -> list[Ticket]:
    """The tickets of one plugin or all, by plugin and age."""
    query = sa.select(tickets).order_by(tickets.c.plugin, tickets.c.id)
    rows = db.execute(query.where(tickets.c.plugin == plugin) if plugin else query)
    return [as_struct(row, Ticket) for row in rows]


def answers_of(db: sa.Connection, ticket: int) -> list[dict[str, Any]]:
    """What a ticket was answered, in order."""
    rows = db.execute(sa.select(answers).where(answers.c.ticket == ticket).order_by(answers.c.id))
    return [{"responder": row.responder, "text": row.text, "atNs": row.at_ns} for row in rows]


def find(db: sa.Connection, now_ns: int, plugin: str, state: str, offset: int, limit: int) -> dict[str, Any]:
    """One page of the tickets, those first whose answer is due first, with the number of each state. Raises
    Refusal("state_unknown")."""
    if state not in STATES:
        raise Refusal("state_unknown", f"{state[:40]!a} is not a state of a ticket; the states are "
                                       f"{', '.join(filter(None, STATES))}",
                      code=Code.INVALID_INPUT)
    waits = tickets.c.responded_ns.is_(None)
    conditions = _conditions(now_ns)
    of_plugin = [tickets.c.plugin == plugin] if plugin else []
    counts = {name: _count(db, one, *of_plugin) for name, one in conditions.items()}
    wanted = [*of_plugin, *([conditions[state]] if state else [])]
    total = _count(db, *wanted)
    urgent = sa.case((sa.and_(waits, tickets.c.paid), 0), (waits, 1), else_=2)
    rows = db.execute(sa.select(tickets).where(*wanted).order_by(urgent, tickets.c.opened_ns, tickets.c.id).offset(
        max(0, offset)).limit(max(1, min(PAGE_MAX, limit))))
    return {"tickets": [as_struct(row, Ticket) for row in rows], "total": total, "counts": counts}


def clocks(db: sa.Connection, now_ns: int) -> dict[str, int]:
    """The open tickets that somebody has to answer now: ``near`` their time, or ``late``."""
    is_open, conditions = tickets.c.closed_ns.is_(None), _conditions(now_ns)
    return {"near": _count(db, is_open, conditions["near"]),
            "late": _count(db, is_open, conditions["waiting"], conditions["breached"])}


def _conditions(now_ns: int) -> dict[str, sa.ColumnElement[bool]]:
    waits = tickets.c.responded_ns.is_(None)
    late = sa.and_(tickets.c.paid, sa.func.coalesce(tickets.c.responded_ns, now_ns) - tickets.c.opened_ns
                   >= RESPONSE_NS)
    near = sa.and_(tickets.c.paid, waits, tickets.c.opened_ns > now_ns - RESPONSE_NS,
                   tickets.c.opened_ns <= now_ns - RESPONSE_NS + NEAR_NS)
    return {"open": tickets.c.closed_ns.is_(None), "waiting": waits, "near": near, "breached": late}


def _count(db: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    return int(db.execute(sa.select(sa.func.count()).select_from(tickets).where(*conditions)).scalar_one())


def report(db: sa.Connection, now_ns: int, plugin: str = "") -> list[dict[str, Any]]:
    """For each plugin: tickets, breaches, those still waiting, the slowest first response in seconds."""
    by_plugin: dict[str, list[Ticket]] = {}
    for one in every(db, plugin):
        by_plugin.setdefault(one.plugin, []).append(one)
    return [{"plugin": name, "tickets": len(found), "breached": sum(breached(one, now_ns) for one in found),
             "waiting": sum(one.responded_ns is None for one in found),
             "slowestSeconds": max((one.responded_ns or now_ns) - one.opened_ns for one in found) // 10**9}
            for name, found in by_plugin.items()]
