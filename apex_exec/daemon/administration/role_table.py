"""Which role an administrative operation needs: the one table of roles and operations.

The table stands apart from the callers (``roles``), who are users and groups of this machine: `apex-exec schema` lists
the operations on machines that have neither. An operation without a row is the administrator's.
"""

from __future__ import annotations

from apex_exec.config import ADMIN

OPERATIONS_OF: dict[str, tuple[str, ...]] = {
    "viewer": (
        "ops", "daemon.doctor", "daemon.overview", "daemon.status", "door.token.list", "fleet.owner", "fleet.status",
        "plugin.find", "plugin.list", "plugin.live", "plugin.picture", "plugin.show", "keys.list", "market.index",
        "market.picture", "market.search", "market.show", "market.status", "market.ticket.find", "market.ticket.list",
        "market.ticket.show"),
    "operator": (
        "audit.events", "audit.read", "audit.verify", "breaker.reset", "daemon.drain", "daemon.reload",
        "daemon.undrain", "fleet.drain", "fleet.rebalance", "plugin.disable", "plugin.enable", "plugin.install",
        "plugin.logs", "plugin.preview", "plugin.quarantine", "plugin.release", "plugin.remove", "plugin.restart",
        "plugin.revokeVersion", "plugin.rollback", "plugin.settings.get", "plugin.settings.set",
        "plugin.settings.unset", "plugin.upgrade", "plugin.verify"),
    "approver": ("plugin.approve", "plugin.deny", "plugin.request", "plugin.revoke"),
    "reviewer": ("market.approve", "market.comment", "market.halt", "market.publish", "market.read", "market.reject",
                 "market.resume", "market.review", "market.revoke", "market.source"),
    "finance": (
        "billing.close", "billing.csv", "billing.enterprise", "billing.months", "billing.page", "billing.report",
        "billing.status", "market.buy", "market.customer", "market.entitle", "market.refund", "market.report"),
    "author": (
        "market.figures", "market.mine", "market.submit", "market.ticket.close", "market.ticket.open",
        "market.ticket.respond", "plugin.register", "plugin.sign", "plugin.upload", "plugin.validate"),
    ADMIN: ("audit.accept", "audit.erase", "door.token.new", "door.token.revoke", "keys.register", "keys.revoke",
            "market.clock", "plugin.storage.erase", "plugin.storage.export", "secrets.rotate", "state.backup"),
}
"""Role -> the operations that need it, each in one row. Every role may also do what the viewer may; ``admin`` may do
all. The key operations are the administrator's alone, since who registers keys decides who approves and who signs;
so is the backup, which holds the private keys and is written with the daemon's rights, and so is whatever shows or ends
what is known of one person."""

ROLE_NEEDED = {operation: role for role, operations in OPERATIONS_OF.items() for operation in operations}
READING = frozenset(OPERATIONS_OF["viewer"]) | {
    "audit.events", "audit.read", "audit.verify", "billing.csv", "billing.months", "billing.page", "billing.report",
    "billing.status", "market.figures", "market.mine", "market.report", "market.source", "plugin.logs",
    "plugin.settings.get"}
"""Operations that change nothing. A ledger that is slow to commit holds up none of them."""


TAKES_UPLOADS = ("plugin.install", "plugin.register", "plugin.upgrade", "market.submit")
"""Every caller who may do one of these may send a bundle in parts."""


def role_needed(operation: str) -> str:
    """The role whose row has ``operation``."""
    return ROLE_NEEDED.get(operation, ADMIN)
