"""``billing``: the arithmetic alone (``quote``), and the month's statements (``report``)."""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import typer

from apex_exec.cli.root import EXIT_USAGE, billing_app, examples, fail, group
from apex_exec.errors import Refusal
from apex_exec.market.billing import HOSTING_CURRENCY, enterprise_price, hosting_quote, split_sale
from apex_exec.market.money import format_minor, parse_major
from apex_exec.market.months import parse_day

quote_app = group("The arithmetic alone; needs no daemon.")
billing_app.add_typer(quote_app, name="quote")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, amounts in minor units (cents).")]


def _show(amounts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print(json.dumps(amounts))
        return
    shown = {name: format_minor(amount, HOSTING_CURRENCY) for name, amount in amounts.items()}
    width = max(map(len, shown.values()))
    for name, text in shown.items():
        print(f"{name:<7} {text:>{width}} {HOSTING_CURRENCY}")


@quote_app.command(epilog=examples("apex-exec billing quote sale 19.95"))
def sale(amount: Annotated[str, typer.Argument(help="Price in major units, as 19.95.")],
         as_json: AsJson = False) -> None:
    """What a sale leaves: the marketplace's fee (30 %, half-up) and the author's share."""
    try:
        split = split_sale(parse_major(amount, what="AMOUNT"))
    except Refusal as error:
        _usage(error)
    _show({"gross": split.gross, "fee": split.fee, "author": split.author}, as_json)


@quote_app.command(epilog=examples("apex-exec billing quote enterprise 10000"))
def enterprise(cost: Annotated[str, typer.Argument(help="Cost in major units, as 10000.")],
               as_json: AsJson = False) -> None:
    """The price of custom development at a margin of 50 %: cost / (1 - 0.5)."""
    try:
        minor = parse_major(cost, what="COST")
        price = enterprise_price(minor)
    except Refusal as error:
        _usage(error)
    _show({"cost": minor, "price": price}, as_json)


@quote_app.command(epilog=examples(
    "apex-exec billing quote hosting --users 12 --from 2026-01-15 --to 2026-04-01"))
def hosting(users: Annotated[int, typer.Option(help="How many users have the plugin enabled.")],
            start: Annotated[str, typer.Option("--from", metavar="DATE", help="First day, YYYY-MM-DD (00:00 UTC).")],
            end: Annotated[str, typer.Option("--to", metavar="DATE", help="The day after the last.")],
            as_json: AsJson = False) -> None:
    """Hosting of one plugin: $0.05 per user and month, by the second of the UTC month, rounded once."""
    try:
        amount = hosting_quote(users, parse_day(start), parse_day(end))
    except Refusal as error:
        _usage(error)
    _show({"amount": amount}, as_json)


def _usage(error: Refusal) -> NoReturn:
    fail(error.message + (f" ({error.hint})" if error.hint else ""), EXIT_USAGE)
