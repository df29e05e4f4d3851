"""What the rates promise: one request an hour, old rates when the service is silent, exact cents."""

import time
from typing import Any

from plugin import URL, plugin
from workers.fake import FakePlatform

FRESH = {"status": 200, "headers": {}, "body": '{"rates": {"USD": 1.085}}'}


def platform(responses: dict[str, Any] | None = None, kept: dict[str, Any] | None = None) -> FakePlatform:
    """A platform with the default currency; ``kept`` are the stored rates."""
    return FakePlatform(plugin, settings={"base": "EUR"}, responses=responses or {},
                        storage={("", "rates/EUR"): kept} if kept else {})


def ask(where: FakePlatform, amount: str = "12.50", to: str = "USD") -> Any:
    """The answer to one conversion."""
    return where.call("onDataFetch", {"query": "currency.convert", "filters": {"amount": amount, "to": to}})[
        "transformedData"]


def test_an_amount_is_converted_to_the_cent_and_the_rates_are_kept() -> None:
    where = platform({URL + "EUR": FRESH})
    assert ask(where) == {"amount": "13.56", "rate": "1.085", "base": "EUR", "stale": False}
    assert ask(where)["amount"] == "13.56"
    assert [method for method, _ in where.asked].count("fetch") == 1


def test_old_rates_are_used_and_said_to_be_old_if_the_service_fails() -> None:
    old = {"at": time.time() - 7200, "rates": {"USD": 1.2}}
    assert ask(platform(kept=old)) == {"amount": "15.00", "rate": "1.2", "base": "EUR", "stale": True}
    assert ask(platform({URL + "EUR": {"status": 503, "headers": {}, "body": ""}}, old))["stale"]


def test_what_cannot_be_converted_is_an_answer_in_words() -> None:
    assert ask(platform()) == {"error": "no rates are known yet"}
    where = platform({URL + "EUR": FRESH})
    assert ask(where, to="XXX") == {"error": "there is no rate for this currency"}
    assert ask(where, amount="much") == {"error": "amount is not a number"}


def test_other_queries_pass_through() -> None:
    assert platform().call("onDataFetch", {"query": "orders", "filters": {}, "data": [1]}) == {"transformedData": [1]}
