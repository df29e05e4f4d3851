"""Has the ledger shipped once a second, where the marketplace's database is on a server; says how far it is behind.

A server that is away does not concern the ledger: it goes on, and is shipped later. A chain that the ledger does not
continue, or that another daemon ships too, is: `/readyz` says so, since nothing of it would be billed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.daemon.administration import registrar_messages as messages
from apex_exec.errors import Refusal
from apex_exec.ledger.chain import own_chain
from apex_exec.ledger.records import LedgerError
from apex_exec.market import service as market
from apex_exec.registry.context import Context

SHIP_SECONDS = 1.0
TROUBLES = ("chain_forked", "chain_shared", "ledger_unreadable")
log = logging.getLogger("apex_exec.registrar")


class Shipping:
    """``context()`` is the open registry, ``send`` writes a message to the supervisor."""

    def __init__(self, context: Callable[[], Context | None], send: Callable[[msgspec.Struct], None],
                 audit: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._context, self._send, self._audit = context, send, audit
        self._said = ""
        self._begun = False

    def run(self) -> None:
        """For ever, or until it is clear that nothing is ever shipped; blocks."""
        while True:
            time.sleep(SHIP_SECONDS)
            context = self._context()
            if context is not None and not self._ship(context):
                return

    def _ship(self, context: Context) -> bool:
        """False if the marketplace's database is this daemon's own."""
        trouble, health = "", ""
        try:
            unshipped = market.ship(context)
        except (Refusal, LedgerError) as error:
            trouble = error.message if isinstance(error, Refusal) else str(error)
            if isinstance(error, Refusal) and error.reason in TROUBLES:
                health = f"{trouble}. {error.hint}"
            unshipped = market.unshipped(context)
        except Exception as error:
            log.exception("the ledger could not be shipped")
            trouble, unshipped = f"{type(error).__name__}: {error}", market.unshipped(context)
        if unshipped is None:
            return bool(trouble)
        self._send(messages.Metric("chain_unshipped_events", (), float(unshipped)))
        if trouble != self._said:
            self._said = trouble
            self._send(messages.ChainHealth(health))
            log.log(logging.ERROR if trouble else logging.WARNING, "the ledger is not shipped: %s" if trouble else
                    "the ledger is shipped again%s", trouble)
        if not trouble and not self._begun:
            self._begun = True
            self._audit("daemon", "chain.shipped", {
                "node": context.settings.node_name, "chain": own_chain(context.settings.state_path).name})
        return True
