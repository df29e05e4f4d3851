"""What an administrative operation is: one type for every table of operations, of whichever room."""

from __future__ import annotations

from typing import Literal

import msgspec

Lane = Literal["quick", "slow", "submissions", "billing", "ledger"]


class NoArgs(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of an operation that takes none."""


class Operation(msgspec.Struct, frozen=True):
    """One operation: its arguments, one sentence on what it does, and where it runs.

    ``where`` is "loop" if the supervisor answers it from memory, and "registrar" if it touches a disk or a database.
    ``lane`` is the registrar's thread that runs it: in the quick lane are operations that read and write rows, in the
    slow one those that run code, scan or read many files, in the ledger's those that read events and logs. Its
    ``unrecorded`` arguments are left out of its audit event, because they name somebody who is to be forgotten. Its
    handler is known only to the process that runs it.
    """

    name: str
    args: type[msgspec.Struct]
    doc: str
    where: Literal["loop", "registrar"] = "registrar"
    lane: Lane = "quick"
    unrecorded: tuple[str, ...] = ()
