"""Approvals of admin permissions: for one plugin, digest and permission, signed by a registered approver, for a time.

``requested → approved | denied``, ``approved → revoked | expired``. An approver signs a statement that names the
request, so that no decision can be replayed for another one. When an approval ends, the served version keeps running
without the permission: the supervisor checks ``PluginSpec.approved`` at every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.catalogue.permissions import ADMIN_PERMISSIONS
from apex_exec.common.canonical_json import canonical_json
from apex_exec.errors import Code, Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.store import ApprovalRow, VersionRow
from apex_exec.registry.trust.keyring import DAY_NS, unusable_because
from apex_exec.registry.trust.signing import verify_bytes

AUTHOR_KEY = "author-key"
"""The approval that a changed author key needs. It is not a permission that a manifest can ask for."""
DAYS_MAX = 90
CLOCK_SLACK_NS = 600 * 1_000_000_000
"""The largest difference allowed between the approver's clock and ours."""
REASON_CHARACTERS_MAX = 1000
STATEMENT_BYTES_MAX = 8192

TRANSITIONS: dict[str, frozenset[str]] = {
    "requested": frozenset({"approved", "denied"}),
    "approved": frozenset({"revoked", "expired"}),
    "denied": frozenset(),
    "revoked": frozenset(),
    "expired": frozenset(),
}
_DECISIONS = {"approve": "approved", "deny": "denied", "revoke": "revoked"}
_PREFIX = b"apex-exec approval v1\n"


class Statement(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What an approver signs. ``request`` is the approval's number; ``decision`` is approve, deny or revoke."""

    request: int
    plugin: str
    version: str
    digest: str
    permission: str
    decision: str
    reason: str
    uid: int
    key_id: str
    at_ns: int
    expires_ns: int = 0

    def text(self) -> str:
        """The canonical text of the statement, which is both sent and stored."""
        return canonical_json(self)


def signed_message(text: str) -> bytes:
    """The bytes that are signed for a statement."""
    return _PREFIX + text.encode()


def latest(db: sa.Connection, digest: str) -> dict[str, ApprovalRow]:
    """For each permission, the approval that counts for ``digest``: the last one; a later request does not end an
    approval."""
    found: dict[str, ApprovalRow] = {}
    for row in db_.list_approvals(db, digest=digest):
        _count(found, row)
    return found


def _count(found: dict[str, ApprovalRow], row: ApprovalRow) -> None:
    """If a clock that was ahead caused an approval to be requested anew, the earlier approval counts again once the
    clock is right."""
    before = found.get(row.permission)
    if row.state != "requested" or before is None or before.state != "approved":
        found[row.permission] = row


def latest_of_all(db: sa.Connection) -> dict[str, dict[str, ApprovalRow]]:
    """``latest`` for every digest."""
    found: dict[str, dict[str, ApprovalRow]] = {}
    for row in db_.list_approvals(db):
        _count(found.setdefault(row.digest, {}), row)
    return found


def approved_now(rows: Mapping[str, ApprovalRow], now_ns: int) -> tuple[str, ...]:
    """The admin permissions that are approved at ``now_ns``, named as in the manifest."""
    return tuple(sorted(permission for permission, row in rows.items()
                        if row.state == "approved" and now_ns < row.expires_ns and permission in ADMIN_PERMISSIONS))


def request(db: sa.Connection, version: VersionRow, permissions: tuple[str, ...], now_ns: int) -> list[ApprovalRow]:
    """Makes sure that each permission has a request or a decision. Returns those that are not approved now.

    Asking again is idempotent. A denial stands; an approval that expired or was revoked is requested anew.
    """
    waiting: list[ApprovalRow] = []
    for permission in permissions:
        row = latest(db, version.digest).get(permission)
        if row is not None and row.state == "approved" and now_ns < row.expires_ns:
            continue
        if row is None or row.state in ("revoked", "expired", "approved"):
            row = _open_request(db, version.digest, permission)
            if row is None:
                db_.add_approval(db, version, permission, now_ns)
                row = _open_request(db, version.digest, permission)
        if row is not None:
            waiting.append(row)
    return waiting


def _open_request(db: sa.Connection, digest: str, permission: str) -> ApprovalRow | None:
    rows = [row for row in db_.list_approvals(db, digest=digest)
            if row.permission == permission and row.state == "requested"]
    return rows[-1] if rows else None


def move(db: sa.Connection, row: ApprovalRow, state: str, **values: Any) -> None:
    """Moves an approval to ``state``. Raises Refusal("invalid_transition")."""
    if state not in TRANSITIONS[row.state]:
        allowed = ", ".join(sorted(TRANSITIONS[row.state])) or "nothing further"
        raise Refusal("invalid_transition", f"an approval that is {row.state} cannot become {state}",
                      hint=f"from {row.state} it can become: {allowed}", code=Code.CONFLICT)
    db_.change_approval(db, row.id, state=state, **values)


def decide(db: sa.Connection, text: str, signature: str, *, author: str, author_key: str, uid: int,
           now_ns: int) -> ApprovalRow:
    """Takes a signed decision. ``author`` and ``author_key`` are the version's; the approver must be neither.

    Raises Refusal with the check that failed; nothing has changed then.
    """
    statement = _parse(text)
    found = [row for row in db_.list_approvals(db, digest=statement.digest) if row.id == statement.request]
    if not found or (found[0].plugin, found[0].version, found[0].permission) != (
            statement.plugin, statement.version, statement.permission):
        raise Refusal("approval_not_found", "the statement names no request of this plugin, version and permission",
                      hint="`apex-exec plugin show ID` lists the open requests", code=Code.NOT_FOUND)
    row = found[0]
    _check_signer(db, statement, text, signature, author, author_key, uid, now_ns)
    if row.state == _DECISIONS[statement.decision]:
        return row  # the same decision, repeated
    expires_ns = statement.expires_ns if statement.decision == "approve" else row.expires_ns
    move(db, row, _DECISIONS[statement.decision], decided_ns=now_ns, expires_ns=expires_ns, uid=uid,
         key_id=statement.key_id, reason=statement.reason, statement=text, signature=signature)
    return latest(db, row.digest)[row.permission]


def _parse(text: str) -> Statement:
    if len(text) > STATEMENT_BYTES_MAX:
        raise Refusal("statement_malformed", "the statement is too long", code=Code.INVALID_INPUT)
    try:
        statement = msgspec.json.decode(text, type=Statement)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refusal("statement_malformed", f"the statement cannot be read: {error}"[:200],
                      code=Code.INVALID_INPUT) from None
    if statement.text() != text or statement.decision not in _DECISIONS:
        raise Refusal("statement_malformed", "the statement is not in its canonical form", code=Code.INVALID_INPUT)
    if not statement.reason.strip() or len(statement.reason) > REASON_CHARACTERS_MAX:
        raise Refusal("reason_missing", f"a decision needs a reason of at most {REASON_CHARACTERS_MAX} characters",
                      hint="say why with --reason", code=Code.INVALID_INPUT)
    return statement


def _check_signer(db: sa.Connection, statement: Statement, text: str, signature: str, author: str, author_key: str,
                  uid: int, now_ns: int) -> None:
    key = db_.get_key(db, statement.key_id)
    if key is None or key.role != "approver":
        raise Refusal("not_an_approver", f"the key {statement.key_id} is not registered as an approver's key",
                      hint="register it with `apex-exec keys register NAME --role approver`")
    reason, message = unusable_because(key, now_ns)
    if reason:
        raise Refusal(reason, message, hint="sign with another approver's key")
    if not verify_bytes(key.public_key, signed_message(text), signature):
        raise Refusal("signature_invalid", f"the decision is not signed by {key.name}",
                      hint="sign it with the private key of that name")
    if statement.uid != uid:
        raise Refusal("wrong_uid", f"the statement names uid {statement.uid}, but uid {uid} submitted it",
                      hint="sign and submit it as the same user")
    signer = db_.get_key(db, author_key) if author_key else None
    names = {author.casefold()} | ({signer.owner.casefold(), signer.name.casefold()} if signer else set())
    if {key.owner.casefold(), key.name.casefold()} & names:
        raise Refusal("approver_is_author", f"{key.owner} is the author of {statement.plugin}",
                      hint="somebody else has to decide")
    if abs(statement.at_ns - now_ns) > CLOCK_SLACK_NS:
        raise Refusal("statement_stale", "the statement was signed more than ten minutes from now",
                      hint="check the clocks of both machines and sign it again")
    if statement.decision == "approve" and not now_ns < statement.expires_ns <= now_ns + DAYS_MAX * DAY_NS \
            + CLOCK_SLACK_NS:
        raise Refusal("bad_expiry", f"an approval can last at most {DAYS_MAX} days", hint=f"--days 1 to {DAYS_MAX}",
                      code=Code.INVALID_INPUT)


def expire(db: sa.Connection, now_ns: int) -> set[str]:
    """Ends approvals that are over for good and returns the plugins concerned. ``now_ns`` is ``Context.over_ns``."""
    over = [row for row in db_.list_approvals(db, state="approved") if now_ns >= row.expires_ns]
    for row in over:
        move(db, row, "expired")
    return {row.plugin for row in over}


def lasting(db: sa.Connection, now_ns: int) -> dict[int, tuple[str, bool]]:
    """Every approval that was granted and not ended for good: its plugin, and whether it counts now."""
    return {row.id: (row.plugin, now_ns < row.expires_ns) for row in db_.list_approvals(db, state="approved")}


def revoke_by_key(db: sa.Connection, key_id: str, reason: str, now_ns: int) -> set[str]:
    """Revokes the approvals that a revoked key signed. Returns the plugins concerned."""
    rows = db_.list_approvals(db, state="approved", key_id=key_id)
    for row in rows:
        move(db, row, "revoked", decided_ns=now_ns, reason=reason)
    return {row.plugin for row in rows}


def describe(row: ApprovalRow, now_ns: int) -> dict[str, Any]:
    """An approval as ``show`` lists it."""
    state = "expired" if row.state == "approved" and now_ns >= row.expires_ns else row.state
    return {"request": row.id, "plugin": row.plugin, "version": row.version, "digest": row.digest,
            "permission": row.permission, "state": state, "requestedNs": row.requested_ns, "expiresNs": row.expires_ns,
            "uid": row.uid, "keyId": row.key_id, "reason": row.reason}
