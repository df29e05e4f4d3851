"""Paid plugins run only for users who have paid, wherever they are served: ``Entitlements`` knows who that is now.

It is used in three places. ``gate`` refuses an enablement without a purchase. ``of`` is part of every spec that the
registry makes: however a plugin was enabled, upgraded, rolled back, repriced or restarted, it is served to those who
have paid, and everybody else gets ``not_entitled``, whether it is enabled for one user or for all. ``sweep`` reads all
purchases and prices again at every start, after every sale, and whenever a right begins or ends (at a moment, not at a
day). It publishes changed plugins, and ends enablements that nobody pays for any longer, because they would be billed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import sqlalchemy as sa

from apex_exec.core.deadline import NEVER_NS
from apex_exec.errors import Refusal
from apex_exec.market.money import sales
from apex_exec.market.money.sales import Purchase
from apex_exec.market.shop.granted import SKEW_NS, Grant, Granted
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context

log = logging.getLogger(__name__)

Disable = Callable[[Context, str, str, str], None]
"""``disable(context, plugin, user, reason)``: how the registry ends an enablement."""
Publish = Callable[[Context, Iterable[str]], None]
"""``publish(context, plugins)``: has the registry send the supervisor the present state of these plugins."""

RETRY_NS = 60_000_000_000


class _Known(NamedTuple):
    """Who has paid for what at one moment, what the marketplace charges for, and when that changes next."""

    bought: tuple[Purchase, ...] = ()
    priced: frozenset[str] = frozenset()
    holders: dict[str, frozenset[str]] = {}
    next_ns: int = 0
    everybody: frozenset[str] = frozenset()
    """Plugins to which a marketplace has entitled every user who is served here."""
    grants: tuple[Grant, ...] = ()


def _known(bought: Iterable[Purchase], priced: frozenset[str], grants: tuple[Grant, ...], now_ns: int) -> _Known:
    kept = tuple(bought)
    holders: dict[str, set[str]] = {}
    next_ns = NEVER_NS
    for one in kept:
        if one.covers(now_ns):
            holders.setdefault(one.plugin, set()).add(one.user_id)
        bounds = (one.starts_ns, one.ends_ns, one.refunded_ns)
        next_ns = min([next_ns, *(bound for bound in bounds if bound is not None and bound > now_ns)])
    everybody: set[str] = set()
    for grant in grants:
        if grant.covers(now_ns):
            holders.setdefault(grant.plugin, set()).update(grant.users)
            everybody |= {grant.plugin} if grant.customer else set()
        next_ns = min([next_ns, *(bound for bound in (grant.issued_ns - SKEW_NS, grant.ends_ns) if bound > now_ns)])
    return _Known(kept, priced, {plugin: frozenset(users) for plugin, users in holders.items()}, next_ns,
                  frozenset(everybody), grants)


class Entitlements:
    """Who may run what, and until when."""

    def __init__(self, shop: Shop, disable: Disable, publish: Publish = lambda _context, _plugins: None,
                 over_ns: Callable[[], int] | None = None) -> None:
        """``over_ns``: see ``Context.over_ns``."""
        self.shop = shop
        self.due_ns = 0
        """When ``sweep`` must be called next."""
        self.granted = Granted(shop, self._refresh_soon)
        self._disable = disable
        self._over_ns = over_ns or shop.now_ns
        self._publish = publish
        self._known = _Known()
        self._changed: set[str] = set()
        """Plugins for which the supervisor's state differs from what is known here."""

    def _refresh_soon(self) -> None:
        self.due_ns = 0

    def of(self, plugin: str, paid: bool) -> frozenset[str] | None:
        """The users who have paid for ``plugin`` now; None if it costs nothing, or if a marketplace's signed
        entitlement is for every user who is served here. ``paid`` says whether the manifest has a price.

        Never blocks. Until the marketplace's store was read for the first time, nobody has paid.
        """
        known = self._known
        if plugin in known.everybody:
            return None
        return known.holders.get(plugin, frozenset()) if paid or plugin in known.priced else None

    def ends(self) -> dict[str, dict[str, int]]:
        """When each right that counts now ends: plugin → user ("": everybody) → moment (ns). A right without an end is
        not there. Never blocks."""
        now_ns, known = self.shop.now_ns(), self._known
        latest: dict[str, dict[str, int]] = {}

        def count(plugin: str, user: str, end_ns: int) -> None:
            users = latest.setdefault(plugin, {})
            users[user] = max(users.get(user, 0), end_ns)

        for one in known.bought:
            if one.covers(now_ns):
                count(one.plugin, one.user_id, NEVER_NS if one.ends_ns is None else one.ends_ns)
        for grant in known.grants:
            if grant.covers(now_ns):
                for user in ("",) if grant.customer else grant.users:
                    count(grant.plugin, user, grant.ends_ns)
        return {plugin: found for plugin, users in latest.items()
                if (found := {user: end_ns for user, end_ns in users.items() if end_ns < NEVER_NS})}

    def gate(self, _context: Context, manifest: Manifest, user_id: str) -> None:
        """Allows an enablement. Raises Refusal("not_entitled") for a paid plugin without a purchase by that user."""
        now_ns = self.shop.now_ns()
        paid = manifest.pricing.model != "free"
        if any(one.plugin == manifest.id and one.covers(now_ns) and (one.customer or user_id.lower() in one.users)
               for one in self._known.grants):  # the same source as in ``of``: an enabled plugin is also served
            return
        self.shop.read(lambda db: self._check(db, manifest.id, user_id, now_ns, paid))

    def _check(self, db: sa.Connection, plugin: str, user_id: str, now_ns: int, paid: bool) -> int | None:
        if not user_id:
            if paid or sales.is_paid(db, plugin, now_ns):
                raise Refusal("not_entitled", f"{plugin} is paid: it is enabled user by user",
                              hint=f"apex-exec market buy {plugin} --user UUID, then plugin enable --user UUID")
            return None
        return sales.entitled_until(db, plugin, user_id, now_ns, paid)

    def refresh(self) -> set[str]:
        """Reads again who has paid for what, and returns the plugins for which that has changed. Blocks.

        If the store cannot be read, what was known still ends at its time. Raises Refusal then.
        """
        now_ns, before = self.shop.now_ns(), self._known
        try:
            self._known = self.shop.read(lambda db: _known(
                sales.lasting(db, now_ns), sales.paid_plugins(db, now_ns), self.granted.grants, now_ns))
        except Refusal:
            self._known = _known(before.bought, before.priced, self.granted.grants, now_ns)
            raise
        finally:
            now = self._known
            self._changed |= {
                plugin for plugin in {*before.holders, *now.holders}
                if before.holders.get(plugin) != now.holders.get(plugin)} | (
                    before.priced ^ now.priced) | (before.everybody ^ now.everybody)
        return self._changed

    def begin(self) -> None:
        """Calls ``refresh`` before anything is served: all specs are sent after it."""
        self.refresh()
        self._changed = set()

    def sweep(self, context: Context) -> int:
        """Has everything served as it is paid for now. Returns the moment (ns) at which that may change next. Blocks.

        An enablement of a single user that is not paid for ends; one for everybody stays, and serves those who pay. An
        enablement that was paid for and is over only by the clock ends once the clock has settled.
        """
        try:
            self.refresh()
        finally:  # what ended without the store's help must end in the supervisor, too
            changed, self._changed = self._changed, set()
            self._publish(context, changed)
        now_ns, next_ns = self.shop.now_ns(), self._known.next_ns
        ended: list[tuple[str, str]] = []

        def rows(db: sa.Connection) -> None:
            ended.clear()
            single = {plugin: users - {registry.EVERYBODY} for plugin, users in registry.enabled_for(db).items()
                      if users != {registry.EVERYBODY}}
            if not single:
                return
            paid = {plugin.id for plugin, version in registry.list_served(db)
                    if plugin.id in single and registry.is_paid(version)}
            for plugin, users in sorted(single.items()):
                entitled = self.of(plugin, plugin in paid)
                ended.extend((plugin, user) for user in sorted(users)
                             if entitled is not None and user not in entitled)

        context.store.transact(rows)
        may_return = self._may_return() if ended else set()
        if may_return & {*ended}:
            next_ns = min(next_ns, now_ns + RETRY_NS)
        for plugin, user in ended:
            if (plugin, user) in may_return:
                continue
            try:
                self._disable(context, plugin, user, "not_entitled")
            except Refusal as error:
                if error.reason != "enabled_for_everybody":
                    log.error("%s could not be disabled for %s: %s", plugin, user, error)
                    next_ns = min(next_ns, now_ns + RETRY_NS)
        self.due_ns = next_ns
        return next_ns

    def _may_return(self) -> set[tuple[str, str]]:
        """Plugins and users for which only a clock that has not settled says that they have not paid."""
        over_ns = self._over_ns()
        found = {(one.plugin, one.user_id) for one in self.shop.read(lambda db: sales.lasting(db, over_ns))
                 if one.refunded_ns is None}
        return found | {(grant.plugin, user) for grant in self._known.grants if grant.ends_ns > over_ns
                        for user in grant.users}

    def settle(self, context: Context) -> None:
        """Calls ``sweep`` after a sale. The sale stands, so an error here is logged, and tried again within a second.
        """
        self.due_ns = 0
        try:
            self.sweep(context)
        except Refusal as error:
            log.error("a sale is not in effect yet; it is tried again within a second: %s", error.message)
