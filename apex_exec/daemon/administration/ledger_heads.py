"""The registrar's part in keeping the ledger: its head goes into registry and market, once a minute and at the end.

At each look what they noted before is compared with the ledger that is there. If it is another one, or ends before,
that is reported (``readyz``, the log), and nothing is noted over it until an operator accepts the ledger that
is there (``audit.accept``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apex_exec.daemon.administration.ledger_arguments import AcceptArgs
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.audit import database_path
from apex_exec.ledger.records import LedgerError
from apex_exec.market import service as market
from apex_exec.registry.context import Context
from apex_exec.registry.database import transact
from apex_exec.registry.trust import heads

NOTE_SECONDS = 60.0


class LedgerHeads:
    """``tell(trouble)`` is called when the trouble is another ("": none)."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._trouble = ""
        self._due = 0.0

    def keep(self, context: Context) -> None:
        """Compares and notes when it is time. Raises Refusal if a store fails."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + NOTE_SECONDS
            self._look(context, accept=False)

    def end(self, context: Context) -> None:
        """Notes once more."""
        self._look(context, accept=False)

    def accept(self, context: Context, args: AcceptArgs) -> dict[str, Any]:
        """Notes the ledger that is there, whatever was noted before. The operation itself is on record in it."""
        if not args.reason.strip():
            raise Refusal("reason_missing", "continuing with another ledger needs a reason", code=Code.INVALID_INPUT,
                          hint="say why with --reason")
        was = self._trouble
        self._look(context, accept=True)
        try:
            chain = market.begin_chain_anew(context)
        except LedgerError as error:
            raise Refusal("ledger_unusable", str(error), hint="check that the disk has room, and try again") from None
        return {"was": was, "reason": args.reason, **({"chain": chain} if chain else {})}

    def _look(self, context: Context, *, accept: bool) -> None:
        state, database = context.settings.state_path, ledger_of(context)
        trouble = ""
        for name, engine in stores(context):
            def work(db: sa.Connection, name: str = name) -> str:
                before = heads.noted(db, state)
                try:
                    if before is not None and not accept and (why := heads.differs(database, f"the {name}", before)):
                        return why
                    end = heads.end_of(database)
                except LedgerError:  # it is just being made, or broken: then it says so itself
                    self._due = 0.0
                    return self._trouble
                if end is not None and (accept or before is None or end[0] > before[0]):
                    heads.note(db, state, end)
                return ""

            trouble = transact(engine, name, work) or trouble
        if trouble != self._trouble:
            self._trouble = trouble
            self._tell(trouble and f"{trouble}. Restore the newest copy, or keep what is there as evidence and go on "
                                   "with it: apex-exec audit accept --reason TEXT")


def ledger_of(context: Context) -> Path:
    """The ledger's database."""
    return database_path(context.settings.audit.url, context.settings.state_path)


def stores(context: Context) -> list[tuple[str, sa.Engine]]:
    """The databases that note the ledger's head, by their names."""
    return [("registry", context.store.engine), ("market", market.service_of(context).shop.engine)]
