"""Currency rates of an outside service, asked once an hour for all users. The gateway adds the service's key to the
request, so that this code never has it."""

import time
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

from workers import ApiError, HookContext, Plugin

plugin = Plugin(id="currency-rates", version="0.1.0", permissions=["network:fetch", "data:read", "data:write"])

URL = "https://rates.example.com/latest?base="
FRESH_SECONDS = 3600
CENT = Decimal("0.01")


@plugin.hook("onDataFetch")
def convert(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    """Answers the query "currency.convert" with ``filters`` {"amount": "12.50", "to": "USD"}; passes on all others."""
    if params["query"] != "currency.convert":
        return {"transformedData": params.get("data")}
    try:
        amount = Decimal(str(params["filters"].get("amount", "")))
    except InvalidOperation:
        return _failed("amount is not a number")
    known = _rates(context, context.settings["base"])
    if known is None:
        return _failed("no rates are known yet")
    rate = known["rates"].get(params["filters"].get("to"))
    if rate is None or not amount.is_finite():
        return _failed("there is no rate for this currency")
    converted = (amount * Decimal(str(rate))).quantize(CENT, ROUND_HALF_EVEN)
    return {"transformedData": {"amount": str(converted), "rate": str(rate), "base": context.settings["base"],
                                "stale": known["stale"]}}


def _failed(why: str) -> dict[str, Any]:
    return {"transformedData": {"error": why}}


def _rates(context: HookContext, base: str) -> dict[str, Any] | None:
    """The rates that are kept, or fresh ones after an hour. If the service does not answer, old ones are better than
    none."""
    key = f"rates/{base}"
    kept = context.api.storage.get(key, common=True)
    if kept is not None and time.time() - kept["at"] < FRESH_SECONDS:
        return {"rates": kept["rates"], "stale": False}
    try:
        answer = context.api.fetch(URL + base, timeout_ms=2000)
        rates = answer.json()["rates"] if answer.ok else None
    except (ApiError, ValueError, KeyError) as error:
        context.log.warning("no rates: %s", getattr(error, "code", type(error).__name__))
        rates = None
    if rates is not None:
        context.api.storage.set(key, {"at": time.time(), "rates": rates}, common=True)
        return {"rates": rates, "stale": False}
    return None if kept is None else {"rates": kept["rates"], "stale": True}
