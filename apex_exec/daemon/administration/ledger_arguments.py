"""The arguments of what the registrar does for the ledger. No database code: the supervisor loads this."""

from __future__ import annotations

import msgspec

from apex_exec.common.operations import Operation


class AcceptArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Why we go on with the ledger that is there."""

    reason: str


class EraseArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which user is to be forgotten, and why; the record has the reason alone."""

    user: str
    reason: str


OPERATIONS = (
    Operation("audit.erase", EraseArgs, "Erases a person: the ledger's key, storage, enablements, the market's rows.",
              lane="slow", unrecorded=("user",)),
    Operation("audit.accept", AcceptArgs, "Goes on with the ledger that is there, although another one was noted."),
)
