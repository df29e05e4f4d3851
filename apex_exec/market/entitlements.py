"""Paid plugins run only for who paid: the gate before an enablement, and the sweep that ends what ran out.

The right of a user ends at a moment, not at a day: ``sweep`` is called when the earliest of them is due, disables at
that boundary through the registry, and says when it wants to be called again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market import sales
from apex_exec.market.shop import Shop
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context
from apex_exec.registry.manifest import Manifest

log = logging.getLogger(__name__)

Disable = Callable[[Context, str, str, str], None]
"""``disable(context, plugin, user, reason)``: what the registry does to end an enablement."""

NEVER_NS = 1 << 62
RETRY_NS = 60_000_000_000


class Entitlements:
    """Who may run what, until when."""

    def __init__(self, shop: Shop, disable: Disable) -> None:
        self.shop = shop
        self._disable = disable

    def gate(self, _context: Context, manifest: Manifest, user_id: str) -> None:
        """Lets an enablement pass. Raises Refusal("not_entitled") for a paid plugin without a purchase of that user."""
        now_ns = self.shop.now_ns()
        paid = manifest.pricing.model != "free"
        self.shop.read(lambda db: self._check(db, manifest.id, user_id, now_ns, paid))

    def _check(self, db: sa.Connection, plugin: str, user_id: str, now_ns: int, paid: bool) -> int | None:
        if not user_id:
            if paid or sales.is_paid(db, plugin, now_ns):
                raise Refusal("not_entitled", f"{plugin} is paid: it is enabled user by user",
                              hint=f"apex-exec market buy {plugin} --user UUID, then plugin enable --user UUID")
            return None
        return sales.entitled_until(db, plugin, user_id, now_ns, paid)

    def sweep(self, context: Context) -> int:
        """Disables what is no longer paid for; the moment (ns) at which the next right may end. Blocks."""
        now_ns = self.shop.now_ns()
        enabled = context.store.transact(registry.enabled_for)
        ended: list[tuple[str, str]] = []
        next_ns = NEVER_NS

        def look(db: sa.Connection) -> None:
            nonlocal next_ns
            for plugin in sorted(enabled.keys() & sales.sold_plugins(db)):
                for user in sorted(enabled[plugin] - {registry.EVERYBODY}):
                    try:
                        until_ns = sales.entitled_until(db, plugin, user, now_ns)
                    except Refusal:
                        ended.append((plugin, user))
                    else:
                        next_ns = min(next_ns, until_ns if until_ns is not None else NEVER_NS)

        self.shop.read(look)
        for plugin, user in ended:
            try:
                self._disable(context, plugin, user, "entitlement_ended")
            except Refusal as error:
                log.error("%s could not be disabled for %s: %s", plugin, user, error)
                next_ns = min(next_ns, now_ns + RETRY_NS)
        return next_ns
