"""``billing``: the arithmetic alone (``quote``), and the month's statements (``report``)."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.root import EXIT_USAGE, ConfigFile, RuntimeDir, billing_app, examples, fail, group
from apex_exec.errors import Refusal
from apex_exec.market.billing import HOSTING_CURRENCY, enterprise_price, hosting_quote, split_sale
from apex_exec.market.money import format_minor, parse_major
from apex_exec.market.months import parse_day, parse_month

quote_app = group("The arithmetic alone; needs no daemon.")
billing_app.add_typer(quote_app, name="quote")

LEDGER_MS = 3_600_000
"""A month of the ledger is read, and for a close all of it is verified: about 300,000 events a second."""
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, amounts in minor units (cents).")]


def _show(amounts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json({**amounts, "currency": HOSTING_CURRENCY})
        return
    shown = {name: format_minor(amount, HOSTING_CURRENCY) for name, amount in amounts.items()}
    width = max(map(len, shown.values()))
    for name, text in shown.items():
        say(f"{name:<7} {text:>{width}} {HOSTING_CURRENCY}")


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


Month = Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The UTC month.")]


@billing_app.command(epilog=examples("apex-exec billing report --month 2026-10",
                                     "apex-exec billing report --month 2026-10 --author 'ACME Corp' --csv"))
def report(month: Month, author: Annotated[str, typer.Option(help="One author's statement.")] = "",
           customer: Annotated[str, typer.Option(help="One customer's statement.")] = "", as_json: AsJson = False,
           as_csv: Annotated[bool, typer.Option("--csv", help="The lines as CSV, amounts in major units.")] = False,
           runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """A month's statement: the platform's, one author's or one customer's. They add up to each other to the cent."""
    if author and customer:
        fail("--author or --customer, not both", EXIT_USAGE)
    try:
        parse_month(month)
    except Refusal as error:
        _usage(error)
    with connect.admin(config, runtime_dir) as client:
        found = client.request("billing.report", {"month": month, "author": author, "customer": customer}, LEDGER_MS)
    _print_statement(found, as_json, as_csv)


@billing_app.command(epilog=examples("apex-exec billing close --month 2026-10"))
def close(month: Month, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Closes a month that is over: its lines never change again; corrections are lines of later months."""
    with connect.admin(config, runtime_dir) as client:
        found = client.request("billing.close", {"month": month}, LEDGER_MS)
    _print_statement(found, as_json, False)


@billing_app.command("enterprise", epilog=examples(
    "apex-exec billing enterprise 10000 --customer Initech --title 'Sales forecast plugin'"))
def book_enterprise(
    cost: Annotated[str, typer.Argument(help="What it cost, in major units, as 10000.")],
    customer: Annotated[str, typer.Option(help="Who ordered it.")],
    title: Annotated[str, typer.Option(help="What it is; it stands on the invoice.")],
    key: Annotated[str, typer.Option(help="Idempotency key. Default: a new one, printed.")] = "",
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "USD", as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Books custom development for a customer, at the price that `billing quote enterprise` names."""
    import uuid

    try:
        minor = parse_major(cost, currency, "COST")
    except Refusal as error:
        _usage(error)
    with connect.admin(config, runtime_dir) as client:
        booked = client.request("billing.enterprise", {"customer": customer, "title": title, "cost": minor,
                                                       "currency": currency, "key": key or str(uuid.uuid4())})
    if as_json:
        print_json(booked)
    else:
        say(f"{booked['key']}: {customer} owes {format_minor(booked['price'], currency)} {currency}")


def _print_statement(found: dict[str, Any], as_json: bool, as_csv: bool) -> None:
    from apex_exec.market.statements import to_csv

    if as_json:
        print_json(found)
        return
    if as_csv:
        say(to_csv(found), end="")
        return
    say(f"{found['month']} ({found['status']}): {found['party']}")
    print_table(found["lines"], {
        "kind": "kind", "forMonth": "for", "plugin": "plugin", "customer": "customer", "author": "author",
        "quantity": "quantity", "customerMinor": "customer owes", "authorMinor": "author gets",
        "platformMinor": "platform keeps"}, as_json=False, empty="no lines")
    for currency, sums in found["totals"].items():
        say(f"{currency}: customers {format_minor(sums['customers'], currency)} = authors "
              f"{format_minor(sums['authors'], currency)} + platform {format_minor(sums['platform'], currency)}")
    if found.get("usage"):
        print_table(found["usage"], ["plugin", "userId", "calls", "cpuSeconds", "hostCpuSeconds",
                                     "memoryMbSeconds", "apiCalls", "networkRequests"], as_json=False)


def _usage(error: Refusal) -> NoReturn:
    fail(error.message + (f" ({error.hint})" if error.hint else ""), EXIT_USAGE)
