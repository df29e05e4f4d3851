"""``billing``: the arithmetic alone (``quote``), and the month's statements (``report``)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, print_table, progress, say, show
from apex_exec.cli.root import (
    EXIT_DONE,
    EXIT_NO,
    EXIT_NO_DAEMON,
    EXIT_USAGE,
    ConfigFile,
    RuntimeDir,
    billing_app,
    examples,
    fail,
)
from apex_exec.cli.verbs import Argument, Exit, Group, Option
from apex_exec.errors import Refusal
from apex_exec.market.money.billing import HOSTING_CURRENCY, enterprise_price, hosting_quote, split_sale
from apex_exec.market.money.money import format_minor, parse_major
from apex_exec.market.money.months import parse_day, parse_month

if TYPE_CHECKING:
    from apex_exec.client import AdminClient

quote_app = Group("The arithmetic alone; needs no daemon.")
billing_app.add("quote", quote_app)

LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.5, 3.0
"""Pauses between two looks at a running operation. They get longer, because every look is recorded in the ledger."""
TELL_SECONDS = 10.0
"""Seconds between two lines of progress if stderr is not a terminal."""
PASSING = ("registrar_busy", "registrar_died", "registrar_down", "store_unusable")
PASSING_SECONDS = 30.0
"""Refusals of a registrar that is being restarted, and how long they are tolerated; then it knows the outcome."""
NoWait = Annotated[bool, Option("--no-wait", help="If it takes longer than a second, print the operation's id; "
                                                        "`billing status ID` shows its outcome.")]
AsJson = Annotated[bool, Option("--json", help="One JSON object, amounts in minor units (cents).")]


def _show(amounts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json({**amounts, "currency": HOSTING_CURRENCY})
        return
    shown = {name: format_minor(amount, HOSTING_CURRENCY) for name, amount in amounts.items()}
    width = max(map(len, shown.values()))
    for name, text in shown.items():
        say(f"{name:<7} {text:>{width}} {HOSTING_CURRENCY}")


@quote_app.command(epilog=examples("apex-exec billing quote sale 19.95"))
def sale(amount: Annotated[str, Argument(help="Price in major units, as 19.95.")],
         as_json: AsJson = False) -> None:
    """What a sale leaves: the marketplace's fee (30 %, half-up) and the author's share."""
    try:
        split = split_sale(parse_major(amount, what="AMOUNT"))
    except Refusal as error:
        _usage(error)
    _show({"gross": split.gross, "fee": split.fee, "author": split.author}, as_json)


@quote_app.command(epilog=examples("apex-exec billing quote enterprise 10000"))
def enterprise(cost: Annotated[str, Argument(help="Cost in major units, as 10000.")],
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
def hosting(users: Annotated[int, Option(help="How many users have the plugin enabled.")],
            start: Annotated[str, Option("--from", metavar="DATE", help="First day, YYYY-MM-DD (00:00 UTC).")],
            end: Annotated[str, Option("--to", metavar="DATE", help="The day after the last.")],
            as_json: AsJson = False) -> None:
    """Hosting of one plugin: $0.05 per user and month, by the second of the UTC month, rounded once."""
    try:
        amount = hosting_quote(users, parse_day(start), parse_day(end))
    except Refusal as error:
        _usage(error)
    _show({"amount": amount}, as_json)


Month = Annotated[str, Option("--month", metavar="YYYY-MM", help="The UTC month.")]


@billing_app.command(epilog=examples("apex-exec billing report --month 2026-10",
                                     "apex-exec billing report --month 2026-10 --author 'ACME Corp' --csv"))
def report(month: Month, author: Annotated[str, Option(help="One author's statement.")] = "",
           customer: Annotated[str, Option(help="One customer's statement.")] = "", as_json: AsJson = False,
           as_csv: Annotated[bool, Option("--csv", help="The lines as CSV, amounts in major units.")] = False,
           no_wait: NoWait = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """A month's statement: the platform's, one author's or one customer's. They add up to each other to the cent."""
    if author and customer:
        fail("--author or --customer, not both", EXIT_USAGE)
    try:
        parse_month(month)
    except Refusal as error:
        _usage(error)
    with connect.admin(config, runtime_dir) as client:
        found = _had(client, "billing.report", {"month": month, "author": author, "customer": customer}, no_wait)
    _print_statement(found, as_json, as_csv)


@billing_app.command(epilog=examples("apex-exec billing close --month 2026-10"))
def close(month: Month,
          without: Annotated[list[str] | None, Option(
              "--without", metavar="CHAIN", help="Bill without this daemon's ledger, which is lost; may be repeated.")
          ] = None,
          reason: Annotated[str, Option(help="Why, if --without is used; it is recorded.")] = "",
          as_json: AsJson = False, no_wait: NoWait = False, runtime_dir: RuntimeDir = None,
          config: ConfigFile = None) -> None:
    """Closes a month that is over: its lines never change again; corrections are lines of later months."""
    with connect.admin(config, runtime_dir) as client:
        found = _had(client, "billing.close", {
            "month": month, "without": without or [], "reason": reason}, no_wait)
    _print_statement(found, as_json, False)


@billing_app.command(epilog=examples("apex-exec billing status", "apex-exec billing status close-2026-10-1f0c9a2e"))
def status(operation: Annotated[str, Argument(metavar="[ID]", help="What `billing report` or `close` printed. "
                                                    "Default: the latest ones.")] = "",
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows the progress of a report or a closing, or its outcome."""
    with connect.admin(config, runtime_dir) as client:
        found = client.request("billing.status", {"operation": operation})
    if as_json:
        print_json(found)
        return
    if not operation:
        print_table(found, ["operation", "op", "month", "author", "customer", "state"], as_json=False,
                    empty="no report or closing was begun")
        return
    if found["state"] == "running":
        say(f"{operation}: running, {_progress(found)}")
        return
    _outcome(found)
    say(f"{operation}: done")
    if found["result"] is not None:
        _print_statement(found["result"], False, False)
    else:
        say(f"The statement is kept for a while only; ask again: apex-exec billing report --month {found['month']}")


@billing_app.command("enterprise", epilog=examples(
    "apex-exec billing enterprise 10000 --customer Initech --title 'Sales forecast plugin'"))
def book_enterprise(
    cost: Annotated[str, Argument(help="What it cost, in major units, as 10000.")],
    customer: Annotated[str, Option(help="Who ordered it.")],
    title: Annotated[str, Option(help="What it is; it stands on the invoice.")],
    key: Annotated[str, Option(help="Idempotency key. Default: a new one, printed.")] = "",
    currency: Annotated[str, Option(help="ISO 4217 code.")] = "USD", as_json: AsJson = False,
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
    show(booked, as_json, f"{booked['key']}: {customer} owes {format_minor(booked['price'], currency)} {currency}")


def _had(client: AdminClient, op: str, args: dict[str, Any], no_wait: bool) -> dict[str, Any]:
    """Waits for the statement that ``op`` produces. With ``no_wait`` it ends the command as soon as an id is known."""
    from apex_exec.client import ConnectionLost

    begun = "It may have started: run the same command again to continue, or see `apex-exec billing status`."
    try:
        found: dict[str, Any] = client.request(op, args)
    except KeyboardInterrupt:
        say(begun, file=sys.stderr)
        raise
    except ConnectionLost as error:
        fail(f"{error}. {begun}", EXIT_NO_DAEMON)
    if "operation" not in found:
        return found
    if no_wait:
        say(found["operation"])
        raise Exit(EXIT_DONE)
    try:
        return _awaited(client, found)
    except KeyboardInterrupt:
        say("\n" * sys.stderr.isatty() + "The daemon continues the work. To see its progress: apex-exec billing status "
            + found["operation"], file=sys.stderr)
        raise
    except ConnectionLost as error:
        fail(f"{error}. To see its outcome: apex-exec billing status {found['operation']}", EXIT_NO_DAEMON)


def _awaited(client: AdminClient, found: dict[str, Any]) -> dict[str, Any]:
    from apex_exec.client import CallError

    number, moving, told_at, told = found["operation"], sys.stderr.isatty(), -TELL_SECONDS, ""
    heard, pause = time.monotonic(), LOOK_SECONDS_MIN
    with progress(number) as tell:
        while found["state"] == "running":
            text, now = _progress(found), time.monotonic()
            if text != told and (moving or now - told_at >= TELL_SECONDS):
                tell(text)
                told, told_at = text, now
            time.sleep(pause)
            pause = min(1.2 * pause, LOOK_SECONDS_MAX)
            try:
                found = client.request("billing.status", {"operation": number})
                heard = time.monotonic()
            except CallError as error:
                if error.details.get("reason") not in PASSING or time.monotonic() - heard > PASSING_SECONDS:
                    raise
    _outcome(found)
    if found["result"] is None:
        fail(f"{number} is done, and its statement is no longer kept; ask again: apex-exec billing report --month "
             f"{found['month']}", EXIT_NO)
    result: dict[str, Any] = found["result"]
    return result


def _progress(found: dict[str, Any]) -> str:
    at = found["progress"] or {"step": "waiting", "of": 0}
    return f"{at['step']}, {at['events']:,} of {at['of']:,} events" if at["of"] else str(at["step"])


def _outcome(found: dict[str, Any]) -> None:
    """Ends the command if the operation failed."""
    refusal = found["refusal"]
    if found["state"] == "failed" and refusal is not None:
        hint = f" ({refusal['hint']})" if refusal.get("hint") else ""
        fail(f"{found['operation']} failed: {refusal['message']}{hint}", EXIT_NO)


def _print_statement(found: dict[str, Any], as_json: bool, as_csv: bool) -> None:
    from apex_exec.market.money.statements import to_csv

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
