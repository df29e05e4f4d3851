"""The arguments of what the registrar does for the ledger. No database code: the supervisor loads this."""

from __future__ import annotations

import msgspec

from apex_exec.common.operations import Operation


class AcceptArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Why we go on with the ledger that is there."""

    reason: str


OPERATIONS = (
    Operation("audit.accept", AcceptArgs, "Goes on with the ledger that is there, although another one was noted."),
)
