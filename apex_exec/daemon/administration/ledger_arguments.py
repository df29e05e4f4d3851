"""The arguments of what the registrar does for the ledger. No database code: the supervisor loads this."""

from __future__ import annotations

import msgspec


class AcceptArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Why we go on with the ledger that is there."""

    reason: str


TABLE: dict[str, tuple[type[msgspec.Struct], str]] = {
    "audit.accept": (AcceptArgs, "Goes on with the ledger that is there, although another one was noted."),
}
