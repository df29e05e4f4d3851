"""Purchases, refunds, and who is entitled to what. Money moves once: every change has an idempotency key.

A purchase stores its own price, fee and share; a refund reverses exactly these. A subscription is paid period by
period: buying again while it runs adds one period at the price at which it began, counted from its first day.
"""

from __future__ import annotations

import re
import unicodedata

import msgspec
import sqlalchemy as sa

from apex_exec.common.names import UUID
from apex_exec.errors import Code, Refusal
from apex_exec.market.money.billing import RATES, Rate, rate_at, split_sale
from apex_exec.market.money.months import NS, add_months
from apex_exec.market.money.pricing import Price, price_at
from apex_exec.market.review import submissions as subs
from apex_exec.market.store import accounts, as_struct, prices, purchases, refunds

MONTHS = {"month": 1, "year": 12}
PERIODS_MAX = 1200
"""How many periods of one subscription may be paid for: a century of months."""


class Purchase(msgspec.Struct):
    """One row of ``purchases``. ``ends_ns`` is None if it never ends. ``refunded_ns`` comes from ``refunds``."""

    key: str
    plugin: str
    version: str
    author: str
    user_id: str
    customer: str
    price: str
    currency: str
    gross: int
    fee: int
    author_share: int
    at_ns: int
    anchor_ns: int
    starts_ns: int
    ends_ns: int | None
    number: int
    refunded_ns: int | None = None

    def covers(self, at_ns: int) -> bool:
        """Whether it entitles at that moment: from its first moment up to, but not including, its last."""
        end_ns = min((end for end in (self.ends_ns, self.refunded_ns) if end is not None), default=None)
        return self.starts_ns <= at_ns and (end_ns is None or at_ns < end_ns)


def check_user(user_id: str) -> str:
    """The user's id in lower case. Raises Refusal("user_invalid")."""
    if UUID.fullmatch(lowered := user_id.lower()):
        return lowered
    raise Refusal("user_invalid", f"{user_id[:40]!r} is not a UUID (8-4-4-4-12)", code=Code.INVALID_INPUT)


def check_key(key: str) -> str:
    """Checks an idempotency key. Raises Refusal("key_invalid")."""
    if not re.fullmatch(r"[\x21-\x7e]{1,100}", key):
        raise Refusal("key_invalid", "an idempotency key must have 1 to 100 printable ASCII characters and no spaces",
                      code=Code.INVALID_INPUT)
    return key


def one_spelling(customer: str) -> str:
    """A customer's name in its canonical form: surrounding and repeated spaces are removed, and a letter with an accent
    is one character (NFC)."""
    return unicodedata.normalize("NFC", " ".join(customer.split()))


def check_customer(customer: str) -> str:
    """A customer's name in its canonical form. Raises Refusal("customer_invalid"), also for invisible characters."""
    customer = one_spelling(customer)
    if not customer.isprintable() or not 1 <= len(customer) <= 200:
        raise Refusal("customer_invalid", "a customer's name must have 1 to 200 visible characters",
                      code=Code.INVALID_INPUT)
    return customer


def set_customer(db: sa.Connection, now_ns: int, user_id: str, customer: str) -> None:
    """Sets who pays for a user from now on. Until this is set, users pay for themselves."""
    customer = check_customer(customer)
    if customer_of(db, user_id) != customer:
        db.execute(sa.insert(accounts).values(user_id=user_id, from_ns=now_ns, customer=customer))


def customer_of(db: sa.Connection, user_id: str) -> str:
    """Who pays for a user now."""
    found = db.execute(sa.select(accounts.c.customer).where(accounts.c.user_id == user_id).order_by(
        accounts.c.from_ns.desc(), accounts.c.id.desc())).scalars().first()
    return str(found) if found is not None else user_id


def buy(db: sa.Connection, now_ns: int, *, plugin: str, user_id: str, key: str, customer: str = "",
        rates: tuple[Rate, ...] = RATES) -> Purchase:
    """One purchase: the plugin for one user, or one more period of a subscription that runs now.

    ``customer`` pays for the user from now on; "" changes nothing about that. The same key again returns the same
    purchase and changes nothing, not even who pays. Raises Refusal: idempotency_conflict (the key was used for another
    plugin, user or customer), plugin_unknown, plugin_revoked, plugin_deprecated, release_halted,
    plugin_free, already_owned.
    """
    user_id, customer = check_user(user_id), check_customer(customer) if customer else ""
    request = f"{plugin} {user_id} {customer}".rstrip()
    if (before := _bought(db, check_key(key), plugin, user_id, customer)) is not None:
        return before
    if customer:
        set_customer(db, now_ns, user_id, customer)
    offer = subs.listing(db, plugin)
    if offer is None:
        raise Refusal("plugin_unknown", f"the marketplace has no {plugin[:60]!r}", code=Code.NOT_FOUND)
    if offer.state == "revoked":
        raise Refusal("plugin_revoked", f"{plugin} was revoked by the marketplace, so it cannot be bought")
    last = _last_of_run(owned_by(db, plugin, user_id), now_ns)
    if last is None and offer.state == "halted":
        raise Refusal("release_halted", f"the only version of {plugin} was halted because it failed too often, so it "
                      "cannot be bought until its release is resumed", code=Code.CONFLICT)
    if last is not None and last.ends_ns is None:
        raise Refusal("already_owned", f"{user_id} already owns {plugin} without a time limit", code=Code.CONFLICT,
                      details={"purchase": last.key})
    if last is None and offer.state == "deprecated":
        raise Refusal("plugin_deprecated", f"{plugin} is deprecated: running subscriptions may be extended, but "
                      "it cannot be bought anew")
    price = price_at(subs.price_history(db, plugin), now_ns)
    if price is None or not price.paid:
        raise Refusal("plugin_free", f"{plugin} is free, so there is nothing to buy; enable it with `apex-exec plugin "
                                     f"enable {plugin}`")
    if last is not None:
        price = subs.decode_price(last.price)
    anchor_ns, number = (last.anchor_ns, last.number + 1) if last is not None else (now_ns, 0)
    starts_ns, ends_ns = _period(price, anchor_ns, number)
    split = split_sale(price.amount, rate_at(now_ns // NS, rates))
    db.execute(sa.insert(purchases).values(
        key=key, request=request, plugin=plugin, version=offer.version, author=offer.author, user_id=user_id,
        customer=customer_of(db, user_id), price=subs.encode(price), currency=price.currency, gross=split.gross,
        fee=split.fee, author_share=split.author, at_ns=now_ns, anchor_ns=anchor_ns, starts_ns=starts_ns,
        ends_ns=ends_ns, number=number))
    return get(db, key)


def refund(db: sa.Connection, now_ns: int, *, purchase: str, key: str, reason: str) -> Purchase:
    """Reverses the stored amounts of a purchase and ends its entitlement.

    Raises Refusal: idempotency_conflict, purchase_unknown, already_refunded, reason_missing.
    """
    if repeated(db, refunds, check_key(key), purchase) is not None:
        return get(db, purchase)
    if not reason.strip():
        raise Refusal("reason_missing", "a refund needs a reason", code=Code.INVALID_INPUT, hint="say why with "
                                                                                                 "--reason")
    bought = get(db, purchase)
    if bought.refunded_ns is not None:
        raise Refusal("already_refunded", f"purchase {purchase} was already refunded", code=Code.CONFLICT)
    db.execute(sa.insert(refunds).values(
        key=key, request=purchase, purchase=purchase, gross=bought.gross, fee=bought.fee,
        author_share=bought.author_share, at_ns=now_ns, reason=reason))
    return get(db, purchase)


def date_anew(db: sa.Connection, now_ns: int) -> int:
    """Moves purchases that were made while the clock was ahead to the present, and what began in that future begins
    now. Periods that follow earlier paid ones keep their place. Returns the number of purchases."""
    made = [one for one in everything(db) if one.at_ns > now_ns]
    for one in made:
        values: dict[str, int | None] = {"at_ns": now_ns}
        if one.anchor_ns > now_ns:
            starts_ns, ends_ns = _period(subs.decode_price(one.price), now_ns, one.number)
            values |= {"anchor_ns": now_ns, "starts_ns": starts_ns, "ends_ns": ends_ns}
        db.execute(sa.update(purchases).where(purchases.c.key == one.key).values(values))
    return len(made)


def get(db: sa.Connection, key: str) -> Purchase:
    """One purchase by its key. Raises Refusal("purchase_unknown")."""
    found = _select(db, purchases.c.key == key)
    if not found:
        raise Refusal("purchase_unknown", f"the purchase {key[:100]!r} does not exist", code=Code.NOT_FOUND)
    return found[0]


def owned_by(db: sa.Connection, plugin: str, user_id: str) -> list[Purchase]:
    """A user's purchases of a plugin, including refunded ones, in order."""
    return _select(db, sa.and_(purchases.c.plugin == plugin, purchases.c.user_id == user_id))


def everything(db: sa.Connection) -> list[Purchase]:
    """Every purchase."""
    return _select(db, sa.true())


def is_paid(db: sa.Connection, plugin: str, at_ns: int) -> bool:
    """Whether the marketplace charges for ``plugin`` at that moment."""
    price = price_at(subs.price_history(db, plugin), at_ns)
    return price is not None and price.paid


def lasting(db: sa.Connection, at_ns: int) -> list[Purchase]:
    """The purchases that entitle at that moment or later."""
    return [one for one in _select(db, sa.or_(purchases.c.ends_ns.is_(None), purchases.c.ends_ns > at_ns))
            if one.refunded_ns is None or one.refunded_ns > at_ns]


def paid_plugins(db: sa.Connection, at_ns: int) -> frozenset[str]:
    """The plugins for which the marketplace charges at that moment."""
    current: dict[str, str] = {}
    for row in db.execute(sa.select(prices).where(prices.c.from_ns <= at_ns).order_by(prices.c.from_ns, prices.c.id)):
        current[row.plugin] = row.price
    return frozenset(plugin for plugin, price in current.items() if subs.decode_price(price).paid)


def entitled_until(db: sa.Connection, plugin: str, user_id: str, at_ns: int, paid: bool = False) -> int | None:
    """When the user's right to run ``plugin`` ends; None if it never ends.

    Raises Refusal("not_entitled") if the user has no right now. A plugin that is neither ``paid`` by its manifest nor
    priced by the marketplace needs none.
    """
    owned = owned_by(db, plugin, user_id)
    covering = [one for one in owned if one.covers(at_ns)]
    if not covering:
        if not paid and not is_paid(db, plugin, at_ns):
            return None
        raise Refusal("not_entitled",
                      f"{plugin} must be paid for, but {user_id} has no purchase or running subscription",
                      hint=f"apex-exec market buy {plugin} --user {user_id}")
    return _run_end(owned, at_ns)


def _last_of_run(owned: list[Purchase], at_ns: int) -> Purchase | None:
    """The last of the periods that follow each other without a gap from ``at_ns`` on; this is the one to extend. None
    if nothing runs now: a period that begins after a gap, for example after a refund, does not entitle the user now."""
    last = None
    while covering := [one for one in owned if one.covers(at_ns)]:
        last = max(covering, key=_end)
        if last.ends_ns is None:
            return last
        at_ns = _end(last)
    return last


def _end(one: Purchase) -> int:
    ends = [end for end in (one.ends_ns, one.refunded_ns) if end is not None]
    return min(ends, default=1 << 62)


def _bought(db: sa.Connection, key: str, plugin: str, user_id: str, customer: str) -> Purchase | None:
    """What was bought with ``key``, if it was this very request; None if the key is new. A request that names no
    customer does not say who pays, so it matches any."""
    request = db.execute(sa.select(purchases.c.request).where(purchases.c.key == key)).scalar()
    if request is None:
        return None
    one = get(db, key)
    what, _, payer = request.removeprefix(f"{plugin} {user_id}").partition(" ")
    if what or not request.startswith(f"{plugin} {user_id}") or (customer and customer != (payer or one.customer)):
        raise _conflict(key)
    return one


def _conflict(key: str) -> Refusal:
    return Refusal("idempotency_conflict", f"the key {key} was used for another request", hint="use a new key",
                   code=Code.CONFLICT)


def _run_end(owned: list[Purchase], at_ns: int) -> int | None:
    while covering := [one for one in owned if one.covers(at_ns)]:
        ends = [one.ends_ns if one.refunded_ns is None else one.refunded_ns for one in covering]
        if any(end is None for end in ends):
            return None
        at_ns = max(end for end in ends if end is not None)
    return at_ns


def _period(price: Price, anchor_ns: int, number: int) -> tuple[int, int | None]:
    if price.model == "one-time":
        return anchor_ns, None
    if number >= PERIODS_MAX:
        raise Refusal("subscription_too_long", f"a subscription can be paid for at most {PERIODS_MAX} periods ahead")
    months = MONTHS[price.interval]
    return add_months(anchor_ns, number * months), add_months(anchor_ns, (number + 1) * months)


def _select(db: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Purchase]:
    rows = db.execute(sa.select(purchases, refunds.c.at_ns.label("refunded_ns")).outerjoin(
        refunds, refunds.c.purchase == purchases.c.key).where(condition).order_by(purchases.c.at_ns, purchases.c.key))
    return [as_struct(row, Purchase) for row in rows]


def repeated(db: sa.Connection, table: sa.Table, key: str, request: str) -> str | None:
    """``key`` if this very request was already done; None if the key is new."""
    row = db.execute(sa.select(table.c.request).where(table.c.key == key)).first()
    if row is None:
        return None
    if row[0] != request:
        raise _conflict(key)
    return key
