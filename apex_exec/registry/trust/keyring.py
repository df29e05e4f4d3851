"""Registered keys: registering, rotating and revoking them, and what a bundle's signatures are worth under them.

To rotate a key, register a second key under the same name: signatures by either key count until one expires or is
revoked. A plugin remembers the author key of the version it serves; a version that is signed by another key, or by
none, needs the approval ``author-key``.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.core.limits import SECOND_NS
from apex_exec.errors import Code, Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.store import KeyRow, SignatureRow
from apex_exec.registry.trust.signing import ROLES, Signature, check_key_name, key_id_of, verify_digest

DAY_NS = 86_400 * SECOND_NS
VALID_DAYS_MAX = 3650


class Signed(msgspec.Struct, frozen=True):
    """The result of checking one digest's signatures: the ids of the registered keys that signed, and what was ignored.

    ``rows`` has every signature, also those by unknown keys: they count as soon as their key is registered.
    """

    author_key: str = ""
    market_key: str = ""
    rows: tuple[SignatureRow, ...] = ()
    notes: tuple[str, ...] = ()


def register(db: sa.Connection, *, name: str, role: str, owner: str, public_key: str, days: int, uid: int,
             now_ns: int) -> tuple[KeyRow, bool]:
    """Adds a public key; the second value is False if it was already registered. Raises Refusal."""
    check_key_name(name)
    if role not in ROLES:
        raise Refusal("bad_role", f"there is no role {role[:20]!a}", hint=f"one of {', '.join(ROLES)}",
                      code=Code.INVALID_INPUT)
    if not re.fullmatch("[0-9a-f]{64}", public_key):
        raise Refusal("bad_key", "the public key is not 32 bytes in hexadecimal", code=Code.INVALID_INPUT,
                      hint="register it with `apex-exec keys register NAME`")
    if not 1 <= days <= VALID_DAYS_MAX:
        raise Refusal("bad_validity", f"a key is valid for 1 to {VALID_DAYS_MAX} days", code=Code.INVALID_INPUT)
    key_id = key_id_of(bytes.fromhex(public_key))
    known = db_.get_key(db, key_id)
    if known is not None:
        if known.state == "revoked":
            raise Refusal("key_revoked", f"the key {key_id} was revoked: {known.reason}", code=Code.CONFLICT,
                          hint="make a new one with `apex-exec keys new NAME`")
        if (known.role, known.name) != (role, name):
            raise Refusal("key_in_use", f"this key is registered as {known.role} {known.name}", code=Code.CONFLICT,
                          hint="a key has one role; make another with `apex-exec keys new NAME`")
        return known, False
    row = KeyRow(key_id, name, role, owner or name, public_key, "active", now_ns, now_ns + days * DAY_NS, now_ns, uid,
                 0, "")
    db_.add_key(db, row)
    return row, True


def find(db: sa.Connection, name_or_id: str) -> list[KeyRow]:
    """The keys with that name, or the key with that id. Raises Refusal if there is none."""
    by_id = db_.get_key(db, name_or_id)
    found = [by_id] if by_id is not None else db_.list_keys(db, name=name_or_id)
    if not found:
        raise Refusal("key_not_found", f"no key {name_or_id[:80]!a} is registered", code=Code.NOT_FOUND,
                      hint="`apex-exec keys list` shows the registered keys")
    return found


def unusable_because(row: KeyRow, now_ns: int) -> tuple[str, str]:
    """(stable reason, message) if the key may not be used now; ("", "") if it may."""
    if row.state == "revoked":
        return "key_revoked", f"the key {row.key_id} of {row.name} was revoked: {row.reason or 'no reason given'}"
    if now_ns < row.valid_from_ns:
        return "key_not_yet_valid", f"the key {row.key_id} of {row.name} is not valid yet"
    if now_ns >= row.valid_until_ns:
        return "key_expired", f"the key {row.key_id} of {row.name} has expired"
    return "", ""


_MEND = {
    "key_revoked": "sign it with another registered key",
    "key_expired": "sign it with a newer key of the same name and register that",
    "key_not_yet_valid": "wait, or set this machine's clock",
}


def evaluate(db: sa.Connection, digest: str, signatures: list[Signature], now_ns: int, known: str = "") -> Signed:
    """What ``signatures`` are worth. A forged signature, or one by a revoked or expired key, raises Refusal whatever
    the policy; one by a key that is not registered is ignored, with a note. If several authors' keys signed, the one
    that is ``known`` for the plugin counts."""
    made: dict[str, str] = {}
    rows: list[SignatureRow] = []
    notes: list[str] = []
    for signature in signatures:
        key = db_.get_key(db, signature.key_id)
        if key is None:
            notes.append(f"the {signature.role} signature is by the key {signature.key_id}, which is not registered")
            rows.append(_row(digest, signature))
            continue
        if key.role != signature.role:
            raise Refusal("signature_invalid", f"the key {key.name} is registered as {key.role}, but signed as "
                          f"{signature.role}", hint="sign it with a key of that role")
        reason, message = unusable_because(key, now_ns)
        if reason:
            raise Refusal(reason, message, hint=_MEND[reason])
        if not verify_digest(key.public_key, digest, signature):
            raise Refusal("signature_invalid", f"the {signature.role} signature by {key.name} is not over this bundle",
                          hint="the bundle was changed after signing, or the signature is forged; get the bundle again")
        if signature.role not in made or key.key_id == known:
            made[signature.role] = key.key_id
        rows.append(_row(digest, signature))
    return Signed(made.get("author", ""), made.get("market", ""), tuple(rows), tuple(notes))


def _row(digest: str, signature: Signature) -> SignatureRow:
    return SignatureRow(digest, signature.role, signature.key_id, signature.signature, signature.signed_ns)


def require(signed: Signed, wanted: str) -> None:
    """Raises Refusal if ``security.require_signature`` (none, author, market) is not met."""
    missing = [role for role, key in (("author", signed.author_key), ("market", signed.market_key))
               if not key and (wanted == role or (wanted == "market" and role == "market"))]
    if missing:
        notes = "; ".join(signed.notes)
        who = {"author": "its author", "market": "the marketplace"}[missing[0]]
        raise Refusal("signature_missing", f"security.require_signature = {wanted!r}, and no registered key of {who} "
                      f"signed this bundle" + (f" ({notes})" if notes else ""),
                      hint="sign it with `apex-exec plugin sign FILE --key NAME` and register the key with "
                           f"`apex-exec keys register NAME --role {missing[0]}`")


def signed_digests(db: sa.Connection, role: str) -> set[str]:
    """The digests signed by a registered key in ``role`` that is not revoked. Signatures by a key that has expired
    since still count. Each is verified anew, because a row may be older than its key's registration."""
    keys = {key.key_id: key for key in db_.list_keys(db) if key.role == role and key.state != "revoked"}
    return {row.digest for row in db_.list_signatures(db) if row.role == role and row.key_id in keys and verify_digest(
        keys[row.key_id].public_key, row.digest, Signature(row.role, row.key_id, row.signed_ns, row.signature))}


def stored(db: sa.Connection, digest: str) -> list[Signature]:
    """The signatures stored with an installed digest, to be checked again."""
    return [Signature(row.role, row.key_id, row.signed_ns, row.signature)
            for row in db_.list_signatures(db, digest=digest)]


def revoke(db: sa.Connection, row: KeyRow, reason: str, now_ns: int) -> bool:
    """Revokes the key; False if it was already revoked. ``lifecycle`` stops the plugins that it signed."""
    if row.state == "revoked":
        return False
    db_.change_key(db, row.key_id, state="revoked", revoked_ns=now_ns, reason=reason)
    return True


def describe(row: KeyRow) -> dict[str, Any]:
    """A key as lists show it."""
    return {"keyId": row.key_id, "name": row.name, "role": row.role, "owner": row.owner, "state": row.state,
            "validFromNs": row.valid_from_ns, "validUntilNs": row.valid_until_ns, "reason": row.reason,
            "publicKey": row.public_key}
