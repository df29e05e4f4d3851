"""The quarterly security review, computed from the ledger's events: one row for each plugin. Reads once, writes
nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.ledger.reading import Event
from apex_exec.ledger.records import API_EVENTS, LedgerError
from apex_exec.ledger.refusals import denials, made, was_refused

QUARANTINE = ("breaker", "open")
"""``action`` and ``metadata.state`` of the ``security.anomaly`` which records that a plugin was paused."""
APPROVAL_ACTIONS = {"plugin.approve": "approved", "plugin.deny": "denied", "plugin.revoke": "revoked"}
LIST_MAX = 1_000
"""How many approvals and quarantines are listed for a plugin; any more are only counted."""


class Row(msgspec.Struct, rename="camel"):
    """What one plugin did, and what was done about it."""

    plugin: str
    executions: int = 0
    succeeded: int = 0
    failed: int = 0
    execution_seconds: float = 0.0
    users: int = 0
    timeouts: int = 0
    memory_limits: int = 0
    cpu_limits: int = 0
    crashes: int = 0
    denials: int = 0
    rate_limits: int = 0
    api_calls: int = 0
    data_changes: int = 0
    anomalies: int = 0
    quarantines: int = 0
    admin_actions: int = 0
    approvals: list[dict[str, Any]] = []
    quarantined_at: list[str] = []


COUNTS = tuple(name for name in msgspec.to_builtins(Row("")) if name not in ("plugin", "approvals", "quarantinedAt"))


def quarter(text: str) -> tuple[datetime, datetime]:
    """Beginning and end of a quarter such as "2026Q4" in UTC, the end exclusive. Raises ValueError."""
    match = re.fullmatch(r"(\d{4})-?Q([1-4])", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a quarter; write it as 2026Q4")
    year, number = int(match[1]), int(match[2])
    end = datetime(year + number // 4, number % 4 * 3 + 1, 1, tzinfo=UTC)
    return datetime(year, number * 3 - 2, 1, tzinfo=UTC), end


def review(events: Iterable[Event]) -> list[Row]:
    """One row for each plugin, sorted by id. Raises LedgerError for an event with a content that we never write."""
    rows: dict[str, Row] = {}
    users: dict[str, set[str]] = {}
    for event in events:
        row = rows.get(event.resource)
        if row is None:
            row = rows[event.resource] = Row(event.resource)
            users[event.resource] = set()
        try:
            _count(row, event, users[event.resource])
        except (TypeError, ValueError) as error:
            raise LedgerError(f"event {event.seq} does not have the content that its type requires: {error}") from None
    for plugin, row in rows.items():
        row.users = len(users[plugin])
    return [rows[plugin] for plugin in sorted(rows)]


def _count(row: Row, event: Event, users: set[str]) -> None:
    kind, metadata = event.event_type, event.metadata
    if kind == "plugin.execution":
        row.executions += 1
        users.add(event.user_id)
        row.execution_seconds += float(metadata.get("executionTimeMs") or 0) / 1000
        if event.result == "success":
            row.succeeded += 1
            return
        row.failed += 1
        code = metadata.get("code", "")
        row.timeouts += code == "TIMEOUT"
        row.memory_limits += code == "MEMORY_LIMIT"
        row.cpu_limits += code == "CPU_LIMIT"
        row.crashes += code in ("WORKER_CRASHED", "WORKER_VIOLATION")
    elif kind == "access.denied":
        row.denials += denials(event)
    elif kind == "security.rate_limit":
        row.rate_limits += 1
    elif kind == "security.anomaly":
        row.anomalies += event.action != QUARANTINE[0]
        if (event.action, metadata.get("state")) == QUARANTINE:
            row.quarantines += 1
            if len(row.quarantined_at) < LIST_MAX:
                row.quarantined_at.append(event.timestamp)
    elif kind == "admin.action":
        row.admin_actions += 1
        if event.action in APPROVAL_ACTIONS and event.result == "success" and len(row.approvals) < LIST_MAX:
            row.approvals.append({"at": event.timestamp, "decision": APPROVAL_ACTIONS[event.action],
                                  "by": event.user_id, **_approval(metadata)})
    elif kind in API_EVENTS:
        row.denials += denials(event)
        row.api_calls += 0 if was_refused(event) else made(event)
        row.data_changes += event.result == "success" and kind in ("data.modification", "data.deletion")


def _approval(metadata: dict[str, Any]) -> dict[str, Any]:
    """Permission, version, the approver's key, reason and expiry, from the operation's arguments and answer."""
    known = {**metadata.get("args", {}), **metadata.get("outcome", {})}
    expires_ns = known.get("expiresNs")
    expires = f"{datetime.fromtimestamp(expires_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}" if expires_ns else None
    return {"permission": known.get("permission"), "version": known.get("version"), "key": known.get("keyId"),
            "reason": known.get("reason"), "expiresAt": expires}
