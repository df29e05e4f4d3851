"""Submissions in the store. Every function takes an open transaction and the moment, and moves by the table of states.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.names import version_key
from apex_exec.errors import Code, Refusal
from apex_exec.market.money.pricing import DatedPrice, Price, price_at
from apex_exec.market.review.states import OFFERED, QUEUED, check_decision, check_move, check_reviewer, same_person
from apex_exec.market.store import as_struct, decisions, moves, prices, submissions

HELD_NS = 30 * 86_400 * 10**9
"""How long an id stays its author's after a submission was sent back or rejected, if no version was ever published."""
MACHINE = "market"
"""The actor of a move that no person makes."""


class Submission(msgspec.Struct):
    """One row of ``submissions``. ``price`` and ``result`` are JSON; ``result`` has the findings of the machine's
    checks."""

    id: int
    plugin: str
    version: str
    digest: str
    author: str
    author_key: str
    submitter: str
    state: str
    price: str
    contact: str
    sla_hours: int
    submitted_ns: int
    changed_ns: int
    reviewer: str
    result: str
    result_signature: str


def get(db: sa.Connection, submission: int) -> Submission:
    """One submission by its number. Raises Refusal("submission_unknown")."""
    row = db.execute(sa.select(submissions).where(submissions.c.id == submission)).first()
    if row is None:
        raise Refusal("submission_unknown", f"submission {submission} does not exist", code=Code.NOT_FOUND,
                      hint="`apex-exec market review` lists the queue")
    return as_struct(row, Submission)


def submit(db: sa.Connection, now_ns: int, *, plugin: str, version: str, digest: str, author: str, submitter: str,
           uid: int, price: Price, contact: str = "", sla_hours: int = 0, author_key: str = "") -> Submission:
    """A new submission in the state ``submitted``. The same bytes after ``changes_requested`` are taken up again, and a
    submission of them that is still ``scanning`` is returned unchanged.

    ``author_key`` is the registered key whose signature the bundle has ("" if none). Once a plugin was submitted with
    one, only bundles signed with that key are accepted. A failed submission reserves id and key only for HELD_NS.
    Raises Refusal: already_submitted, version_taken (published with other bytes), author_mismatch, author_key_changed.
    """
    known = [as_struct(row, Submission) for row in db.execute(
        sa.select(submissions).where(submissions.c.plugin == plugin).order_by(submissions.c.id))]
    for old in known:
        if _came_to_nothing(old, now_ns):
            continue
        if not same_person(old.author, author):
            raise Refusal("author_mismatch", f"the id {plugin} belongs to another author, {old.author}",
                          hint="choose another id")
        if old.author_key and old.author_key != author_key:
            raise Refusal("author_key_changed",
                          f"{plugin} was signed by the key {old.author_key}, but this bundle is not",
                          hint="sign it with `apex-exec plugin sign`; ask the operator about a new key")
        if old.version == version and old.state in OFFERED:
            raise Refusal("version_taken", f"{plugin} {version} is {old.state}", hint="give it a higher version",
                          code=Code.CONFLICT)
    same = [old for old in known if (old.version, old.digest) == (version, digest)]
    if same:
        last = same[-1]
        if last.state == "scanning":  # its checks were interrupted, or another caller runs them now
            return last
        if last.state != "changes_requested":
            raise Refusal("already_submitted", f"exactly these bytes are already submission {last.id}, which is "
                                               f"{last.state}",
                          code=Code.CONFLICT, details={"submission": last.id})
        db.execute(sa.update(submissions).where(submissions.c.id == last.id).values(
            contact=contact, sla_hours=sla_hours, submitter=submitter, price=encode(price), submitted_ns=now_ns))
        return move(db, now_ns, last.id, "submitted", actor=submitter, uid=uid, reason="submitted again")
    row = db.execute(sa.insert(submissions).values(
        plugin=plugin, version=version, digest=digest, author=author, author_key=author_key,
        submitter=submitter, state="draft",
        price=encode(price), contact=contact, sla_hours=sla_hours, submitted_ns=now_ns, changed_ns=now_ns,
        reviewer="", result="", result_signature=""))
    assert row.inserted_primary_key is not None
    return move(db, now_ns, row.inserted_primary_key[0], "submitted", actor=submitter, uid=uid, reason="submitted")


def _came_to_nothing(old: Submission, now_ns: int) -> bool:
    """Whether ``old`` no longer reserves its id: the first to use an id owns it only while the submission goes on."""
    return old.state in ("draft", "changes_requested", "rejected") and now_ns - old.changed_ns > HELD_NS


def move(db: sa.Connection, now_ns: int, submission: int, target: str, *, actor: str, uid: int, reason: str,
         checklist: list[str] | None = None) -> Submission:
    """One legal step, recorded with who, why and when. Raises Refusal("invalid_transition")."""
    current = get(db, submission)
    check_move(current.state, target)
    db.execute(sa.update(submissions).where(submissions.c.id == submission).values(state=target, changed_ns=now_ns))
    db.execute(sa.insert(moves).values(
        submission=submission, from_state=current.state, to_state=target, actor=actor, uid=uid, reason=reason,
        checklist=encode(checklist or []), at_ns=now_ns))
    return get(db, submission)


def record_checks(db: sa.Connection, now_ns: int, submission: int, result: str, signature: str,
                  passed: bool) -> Submission:
    """Stores the machine's signed findings and moves on: to a person, or back to the author."""
    target = "in_review" if passed else "changes_requested"
    moved = move(db, now_ns, submission, target, actor=MACHINE, uid=0, reason="checked by machine")
    db.execute(sa.update(submissions).where(submissions.c.id == submission).values(
        result=result, result_signature=signature))
    return get(db, moved.id)


def claim(db: sa.Connection, submission: int, reviewer: str) -> Submission:
    """``reviewer`` takes a submission; another may take it over. Raises Refusal: reviewer_is_author, not_in_review."""
    current = get(db, submission)
    check_reviewer(reviewer, current.author, current.submitter)
    if current.state != "in_review":
        raise Refusal("not_in_review", f"submission {submission} is {current.state}, so it cannot be reviewed",
                      code=Code.CONFLICT)
    db.execute(sa.update(submissions).where(submissions.c.id == submission).values(reviewer=reviewer))
    return get(db, submission)


def decide(db: sa.Connection, now_ns: int, submission: int, target: str, *, reviewer: str, uid: int, reason: str,
           digest: str, checklist: list[str] | None = None, signed: tuple[str, str, str] = ("", "", "")) -> Submission:
    """A reviewer's decision about exactly the bytes ``digest``. ``signed`` (key id, statement, signature) is stored
    with it.

    Raises Refusal: reviewer_is_author, reason_missing, checklist_incomplete, digest_changed, invalid_transition.
    """
    current = get(db, submission)
    check_reviewer(reviewer, current.author, current.submitter)
    check_decision(target, reason, checklist or [])
    check_digest(db, current, digest)
    moved = move(db, now_ns, submission, target, actor=reviewer, uid=uid, reason=reason, checklist=checklist)
    if signed[0]:
        db.execute(sa.insert(decisions).values(submission=submission, key_id=signed[0], statement=signed[1],
                                               signature=signed[2]))
    db.execute(sa.update(submissions).where(submissions.c.id == submission).values(reviewer=reviewer))
    return get(db, moved.id)


def check_digest(db: sa.Connection, current: Submission, digest: str) -> None:
    """Raises Refusal("digest_changed") if ``digest`` is not what was submitted, or newer bytes replaced it."""
    newer = db.execute(sa.select(submissions.c.id).where(
        submissions.c.plugin == current.plugin, submissions.c.version == current.version,
        submissions.c.id > current.id).order_by(submissions.c.id.desc())).first()
    if newer is not None:
        raise Refusal("digest_changed", f"submission {current.id} was replaced by {newer[0]} with other bytes",
                      hint="review the newer one", code=Code.CONFLICT, details={"submission": newer[0]})
    if digest != current.digest:
        raise Refusal("digest_changed", f"submission {current.id} is for {current.digest[:16]}…, but these bytes are "
                      f"{digest[:16]}…", hint="submit the changed bundle", code=Code.CONFLICT)


def set_price(db: sa.Connection, now_ns: int, plugin: str, price: Price) -> None:
    """Sets the price of ``plugin`` from now on; existing purchases keep their own."""
    if price_at(price_history(db, plugin), now_ns) != price:
        db.execute(sa.insert(prices).values(plugin=plugin, from_ns=now_ns, price=encode(price)))


def price_history(db: sa.Connection, plugin: str) -> list[DatedPrice]:
    """Every price of ``plugin`` with its date, oldest first."""
    rows = db.execute(sa.select(prices).where(prices.c.plugin == plugin).order_by(prices.c.from_ns, prices.c.id))
    return [DatedPrice(row.from_ns, decode_price(row.price)) for row in rows]


def listing(db: sa.Connection, plugin: str) -> Submission | None:
    """What is on offer of ``plugin``: its latest published version, otherwise the latest of the state that comes next
    in ``OFFERED``."""
    return max(offered(db, plugin), key=lambda one: (OFFERED[one.state], version_key(one.version)), default=None)


def offered(db: sa.Connection, plugin: str = "") -> list[Submission]:
    """Everything that was ever published, of one plugin or all, by plugin and age."""
    query = sa.select(submissions).where(submissions.c.state.in_(OFFERED)).order_by(
        submissions.c.plugin, submissions.c.id)
    rows = db.execute(query.where(submissions.c.plugin == plugin) if plugin else query)
    return [as_struct(row, Submission) for row in rows]


def latest(db: sa.Connection, plugin: str) -> Submission:
    """The newest submission of a plugin. Raises Refusal("submission_unknown")."""
    row = db.execute(sa.select(submissions).where(submissions.c.plugin == plugin).order_by(
        submissions.c.id.desc())).first()
    if row is None:
        raise Refusal("submission_unknown", f"no submission of {plugin[:60]!r} exists", code=Code.NOT_FOUND,
                      hint="submit it with `apex-exec market submit FOLDER`")
    return as_struct(row, Submission)


def history(db: sa.Connection, submission: int) -> list[dict[str, Any]]:
    """The moves of one submission in order: who, when, why, with which checklist."""
    rows = db.execute(sa.select(moves).where(moves.c.submission == submission).order_by(moves.c.id))
    return [{**dict(row._mapping), "checklist": msgspec.json.decode(row.checklist)} for row in rows]


def signed_decisions(db: sa.Connection, submission: int) -> list[dict[str, Any]]:
    """The signed decisions on it, as they were signed: anybody with the public key can check them."""
    rows = db.execute(sa.select(decisions).where(decisions.c.submission == submission).order_by(decisions.c.id))
    return [{"keyId": row.key_id, "statement": row.statement, "signature": row.signature} for row in rows]


def queue(db: sa.Connection, now_ns: int) -> list[dict[str, Any]]:
    """The waiting submissions, oldest first: position (1 is next), age in seconds. Replaced submissions are omitted."""
    latest = sa.select(sa.func.max(submissions.c.id)).group_by(submissions.c.plugin, submissions.c.version)
    waiting = db.execute(sa.select(submissions).where(
        submissions.c.state.in_(QUEUED), submissions.c.id.in_(latest)).order_by(
        submissions.c.submitted_ns, submissions.c.id))
    return [{"position": index, "id": row.id, "plugin": row.plugin, "version": row.version, "state": row.state,
             "author": row.author, "reviewer": row.reviewer,
             "waitingSeconds": max(0, now_ns - row.submitted_ns) // 10**9}
            for index, row in enumerate(waiting, 1)]


def encode(value: Any) -> str:
    """JSON with sorted keys, so that equal values are equal text. It is compared with rows that earlier releases wrote,
    and is not signed: ``canonical_json`` writes what is signed."""
    return msgspec.json.encode(value, order="sorted").decode()


def decode_price(text: str) -> Price:
    """The Price that ``encode`` turned into ``text``."""
    return msgspec.json.decode(text, type=Price)
