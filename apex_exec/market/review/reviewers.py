"""Who counts as a reviewer: the owner of a registered approver's key that signed the decision, and who had no part in
the plugin.

A name alone proves nothing. Once the operator has registered a key in the role ``approver``, a decision needs the
signature of such a key over a statement that names submission, bytes, decision, reason and the caller's uid; the
reviewer's name must then be the key's. Without any such key the name has to suffice, as ``market/README.md`` says.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from apex_exec.common.canonical_json import canonical_json
from apex_exec.errors import Code, Refusal
from apex_exec.market.review.states import check_reviewer, same_person
from apex_exec.market.review.submissions import Submission
from apex_exec.registry import store as registry
from apex_exec.registry.trust.keyring import unusable_because
from apex_exec.registry.trust.signing import verify_bytes

STATEMENT_BYTES_MAX = 8192
SLACK_NS = 600 * 10**9
"""A statement must be submitted within ten minutes, so that an old one cannot be used after a change of mind."""
_PREFIX = b"apex-exec review v1\n"


class Statement(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a reviewer signs. ``decision``: approved, changes_requested or rejected."""

    submission: int
    digest: str
    decision: str
    reason: str
    uid: int
    key_id: str
    at_ns: int

    def text(self) -> str:
        """The canonical text of the statement, which is both sent and stored."""
        return canonical_json(self)


class Signed(msgspec.Struct, frozen=True):
    """A decision as it was signed; every field is "" if it was not signed."""

    statement: str = ""
    signature: str = ""
    key_id: str = ""


def signed_message(text: str) -> bytes:
    """The bytes that are signed for a statement."""
    return _PREFIX + text.encode()


def identify(db: sa.Connection, one: Submission, reviewer: str, decided: Statement, text: str, signature: str,
             now_ns: int) -> Signed:
    """Who decides, according to the registry ``db``. ``decided`` is what was requested, with the caller's uid.

    Raises Refusal with the check that failed: reviewer_missing, reviewer_is_author, decision_unsigned,
    statement_malformed, statement_differs, not_an_approver, key_revoked, key_expired, signature_invalid,
    reviewer_not_signer, statement_stale.
    """
    check_reviewer(reviewer, one.author, one.submitter)
    author = registry.get_key(db, one.author_key) if one.author_key else None
    involved = [one.author, one.submitter, *((author.name, author.owner) if author else ())]
    _outsider([reviewer], involved)
    if not text:
        if registry.list_keys(db, role="approver"):  # revoked keys count, too: losing a key opens no other way
            raise Refusal("decision_unsigned",
                          "approvers' keys are registered here, so a review must be signed with one",
                          hint="name yours with --key")
        return Signed()
    said = _parse(text)
    key = registry.get_key(db, said.key_id)
    if key is None or key.role != "approver":
        raise Refusal("not_an_approver", f"the key {said.key_id[:40]} is not registered as an approver's key",
                      hint="register it with `apex-exec keys register NAME --role approver`")
    reason, message = unusable_because(key, now_ns)
    if reason:
        raise Refusal(reason, message, hint="sign with another approver's key")
    if not verify_bytes(key.public_key, signed_message(text), signature):
        raise Refusal("signature_invalid", f"the decision is not signed by {key.name}")
    if not same_person(reviewer, key.name) and not same_person(reviewer, key.owner):
        raise Refusal("reviewer_not_signer", f"{reviewer} did not sign this: the key is that of {key.name}",
                      hint=f"--reviewer {key.name}")
    _outsider([key.name, key.owner], involved)
    if msgspec.structs.replace(said, key_id="", at_ns=0) != msgspec.structs.replace(decided, key_id="", at_ns=0):
        raise Refusal("statement_differs", "the signed statement differs from the request", hint="sign it again",
                      code=Code.CONFLICT)
    if abs(said.at_ns - now_ns) > SLACK_NS:
        raise Refusal("statement_stale", "the statement was signed more than ten minutes from now",
                      hint="check the clocks of both machines and sign it again")
    return Signed(text, signature, key.key_id)


def _outsider(names: list[str], involved: list[str]) -> None:
    for name in names:
        if any(same_person(name, other) for other in involved if other and name):
            raise Refusal("reviewer_is_author", f"{name} is the author, submitted it or owns the key that signed it; "
                          "somebody else must review it")


def _parse(text: str) -> Statement:
    try:
        if len(text) > STATEMENT_BYTES_MAX:
            raise ValueError("too long")
        said = msgspec.json.decode(text, type=Statement)
        if said.text() != text:
            raise ValueError("it is not in its canonical form")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal("statement_malformed", f"the statement cannot be read: {error}"[:200],
                      code=Code.INVALID_INPUT) from None
    return said
