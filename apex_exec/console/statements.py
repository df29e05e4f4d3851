"""What an approver or a reviewer signs with a key of their own: the exact text, which the page shows and a browser or
the command line signs. The daemon checks every field of it again; no private key ever comes here.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from apex_exec.common.canonical_json import canonical_json

APPROVAL_PREFIX = "apex-exec approval v1\n"
REVIEW_PREFIX = "apex-exec review v1\n"
"""What precedes a statement when it is signed, so that a signature of one kind is none of the other."""
DAY_NS = 86_400 * 10**9
DAYS_MAX = 90


class ToSign(NamedTuple):
    """A statement, and what precedes it in the signed bytes."""

    prefix: str
    text: str


def approval(request: dict[str, Any], decision: str, reason: str, key_id: str, days: int, now_ns: int) -> ToSign:
    """A decision on one request for a permission, as ``plugin.show`` describes it. ``decision``: approve, deny or
    revoke; ``days`` is how long an approval lasts."""
    expires_ns = now_ns + days * DAY_NS if decision == "approve" else 0
    return ToSign(APPROVAL_PREFIX, canonical_json({
        "request": request["request"], "plugin": request["plugin"], "version": request["version"],
        "digest": request["digest"], "permission": request["permission"], "decision": decision, "reason": reason,
        "uid": os.geteuid(), "keyId": key_id, "atNs": now_ns, "expiresNs": expires_ns}))


def review(submission: int, digest: str, decision: str, reason: str, key_id: str, now_ns: int) -> ToSign:
    """A decision on a submission: approved, changes_requested or rejected."""
    return ToSign(REVIEW_PREFIX, canonical_json({
        "submission": submission, "digest": digest, "decision": decision, "reason": reason, "uid": os.geteuid(),
        "keyId": key_id, "atNs": now_ns}))


def usable(listed: dict[str, Any]) -> list[dict[str, Any]]:
    """The approvers' keys among those of ``keys.list`` that can sign now."""
    return [key for key in listed["keys"] if key["role"] == "approver" and key["state"] == "active"]
