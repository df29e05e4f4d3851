"""Enterprise licensing: custom development for a customer, billed once (by its key) at cost / (1 - margin)."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.money.billing import RATES, Rate, enterprise_price, rate_at
from apex_exec.market.money.money import check_minor, exponent
from apex_exec.market.money.months import NS
from apex_exec.market.money.sales import check_customer, check_key, repeated
from apex_exec.market.store import as_struct, contracts


class Contract(msgspec.Struct, frozen=True):
    """One row of ``contracts``. The stored price stays, whatever the margin becomes."""

    key: str
    customer: str
    title: str
    cost: int
    price: int
    currency: str
    at_ns: int


def order(db: sa.Connection, now_ns: int, *, customer: str, title: str, cost: int, currency: str, key: str,
          rates: tuple[Rate, ...] = RATES) -> Contract:
    """Books one contract. The same key again returns the same contract.

    Raises Refusal: idempotency_conflict, customer_invalid, title_missing, amount_invalid, unknown_currency.
    """
    exponent(currency)
    check_minor(cost, "cost", least=1)
    customer = check_customer(customer)
    request = f"{customer}\n{title}\n{cost}\n{currency}"
    if not 1 <= len(title.strip()) <= 200:
        raise Refusal("title_missing", "a contract's title must have 1 to 200 characters", code=Code.INVALID_INPUT)
    if repeated(db, contracts, check_key(key), request) is None:
        db.execute(sa.insert(contracts).values(
            key=key, request=request, customer=customer, title=title, cost=cost, currency=currency, at_ns=now_ns,
            price=enterprise_price(cost, rate_at(now_ns // NS, rates))))
    return next(one for one in everything(db) if one.key == key)


def everything(db: sa.Connection) -> list[Contract]:
    """Every contract, oldest first."""
    return [as_struct(row, Contract) for row in db.execute(sa.select(contracts).order_by(
        contracts.c.at_ns, contracts.c.key))]
