"""``market``: the author's, the reviewer's and the buyer's side of the marketplace; a client of the running daemon."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.facts import duration
from apex_exec.cli.output import Said, print_json, print_table, progress, say
from apex_exec.cli.plugin.common import StateDir, bundle_bytes, replace_file, state_path
from apex_exec.cli.root import (
    EXIT_NO,
    EXIT_USAGE,
    AsJson,
    ConfigFile,
    RuntimeDir,
    examples,
    fail,
    market_app,
    this_user,
)
from apex_exec.cli.verbs import Argument, Exit, Group, Option

CHECKS_TIMEOUT_MS = 300_000
"""A submission waits for its tests, which have a limit of their own."""

ticket_app = Group("Support tickets; the first response to a paid plugin's is due in under 24 hours.")
market_app.add("ticket", ticket_app)

Submission = Annotated[int, Argument(min=1, help="The submission's number, as `market status` shows it.")]
Reviewer = Annotated[str, Option(help="The reviewer's name; never the author.")]
ApproverKey = Annotated[str, Option("--key", metavar="NAME|FILE", help="The reviewer's own key in the role "
                                                                            "approver; needed once there is one.")]
Reason = Annotated[str, Option(help="Why; the author reads it.")]
PluginId = Annotated[str, Argument(help="The plugin's id.")]
Ticket = Annotated[int, Argument(min=1, help="The ticket's number.")]
User = Annotated[str, Option("--user", metavar="UUID", help="The user.")]
Key = Annotated[str, Option(help="Idempotency key: the same key does it once. Default: a new one, printed.")]
Index = Annotated[str, Option(metavar="PLACE", help="Folder or URL of an index; default: market.index.")]


def _ask(config: Path | None, runtime_dir: str | None, op: str, timeout_ms: float = 0.0, /, **args: Any) -> Any:
    with connect.admin(config, runtime_dir) as client:
        return client.request(op, args, timeout_ms) if timeout_ms else client.request(op, args)


def _show(done: dict[str, Any], as_json: bool, keys: tuple[str, ...]) -> None:
    """All of it as JSON, or what stands under ``keys`` in words."""
    from apex_exec.cli.facts import facts, for_people

    if isinstance(done.get("price"), str):
        done["price"] = json.loads(done["price"])  # as it was when it was bought
    if as_json:
        print_json(done)
    else:
        shown = for_people(facts(done))
        print_table([{"what": key, "is": shown.get(key)} for key in keys], ["what", "is"], as_json=False)


def _show_checks(shown: dict[str, Any], as_json: bool) -> bool:
    """Prints a submission's checks; True where all are met."""
    checks = (shown.get("result") or {}).get("checks", [])
    if as_json:
        print_json(shown)
    else:
        say(f"submission {shown['id']}: {shown['plugin']} {shown['version']} is {shown['state']}")
        say(f"digest {shown['digest']}")
        if queue := shown.get("queue"):
            say(f"place {queue['position']} in the queue, waiting for {duration(queue['waitingSeconds'])}")
        print_table([{"check": one["name"], "met": not one["problems"], "problems": "; ".join(one["problems"])}
                     for one in checks], ["check", "met", "problems"], as_json=False, empty="not checked yet")
        if shown["moves"] and (last := shown["moves"][-1])["reason"]:
            say(f"last move: {last['from_state']} -> {last['to_state']} by {last['actor']}: {last['reason']}")
    return all(not one["problems"] for one in checks)


@market_app.command(epilog=examples("apex-exec market submit ./sums --as ann",
                                    "apex-exec market submit sums.apx --json"))
def submit(path: Annotated[Path, Argument(help="The bundle: a folder or an .apx file.")],
           submitter: Annotated[str, Option("--as", metavar="NAME", help="Who submits.")] = "",
           contact: Annotated[str, Option(help="Who answers users, where the manifest has no `support`.")] = "",
           response_hours: Annotated[int, Option(help="Within how many hours, at most 24.")] = 0,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Submits a bundle; the machine checks it at once. Exit status 1 where a requirement is not met."""
    with progress("scan, tests in the jail, coverage"):
        shown = _ask(config, runtime_dir, "market.submit", CHECKS_TIMEOUT_MS, bundle=bundle_bytes(path, config),
                     submitter=submitter or this_user(), contact=contact, responseHours=response_hours)
    if not _show_checks(shown, as_json):
        raise Exit(EXIT_NO)


@market_app.command(epilog=examples("apex-exec market status", "apex-exec market status 7",
                                    "apex-exec market status sums"))
def status(which: Annotated[str, Argument(help="A submission's number or a plugin; none: the queue.")] = "",
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows a submission: state, findings, moves, place in the queue and age."""
    args = {"submission": int(which)} if which.isdecimal() else {"plugin": which}
    shown = _ask(config, runtime_dir, "market.status", **args)
    if isinstance(shown, list):
        _queue(shown, as_json)
    else:
        _show_checks(shown, as_json)


@market_app.command(epilog=examples("apex-exec market review", "apex-exec market review 7 --reviewer rita"))
def review(submission: Annotated[int, Argument(min=0, help="The submission's number; none: the queue.")] = 0,
           reviewer: Annotated[str, Option(help="Your name.")] = "", as_json: AsJson = False,
           runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Takes a submission for review and shows what to look at."""
    shown = _ask(config, runtime_dir, "market.review", submission=submission, reviewer=reviewer)
    if isinstance(shown, list):
        _queue(shown, as_json)
        return
    _show_checks(shown, as_json)
    if not as_json:
        print_table([{"confirm": item, "means": text} for item, text in shown["checklist"].items()],
                    ["confirm", "means"], as_json=False)
        print_table(shown["files"], ["path", "size"], as_json=False)


def _queue(rows: list[dict[str, Any]], as_json: bool) -> None:
    print_table(rows, {"position": "position", "id": "id", "plugin": "plugin", "version": "version", "state": "state",
                       "author": "author", "reviewer": "reviewer", "waitingSeconds": "waiting"},
                as_json=as_json, empty="nothing waits")


@market_app.command(epilog=examples("apex-exec market approve 7 --reviewer rita --digest 3f… --confirm-all --reason y"))
def approve(submission: Submission, reviewer: Reviewer, reason: Reason,
            digest: Annotated[str, Option(help="The digest that was looked at.")],
            confirm: Annotated[list[str] | None, Option(help="An item of the checklist; repeat it.")] = None,
            confirm_all: Annotated[bool, Option("--confirm-all", help="Every item of the checklist.")] = False,
            key: ApproverKey = "", as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None,
            config: ConfigFile = None) -> None:
    """Says yes to exactly these bytes."""
    from apex_exec.market.review.states import CHECKLIST

    shown = _ask(config, runtime_dir, "market.approve", submission=submission, reviewer=reviewer, reason=reason,
                 digest=digest, checklist=list(CHECKLIST) if confirm_all else confirm or [],
                 **_signed(key, config, state_dir, submission, digest, "approved", reason))
    _show_checks(shown, as_json)


@market_app.command(epilog=examples("apex-exec market reject 7 --reviewer rita --reason 'sends data out' --changes"))
def reject(submission: Submission, reviewer: Reviewer, reason: Reason,
           digest: Annotated[str, Option(help="The digest that was looked at; default: as submitted.")] = "",
           changes: Annotated[bool, Option("--changes", help="Ask for changes instead.")] = False,
           key: ApproverKey = "", as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Says no, or asks for changes."""
    with connect.admin(config, runtime_dir) as client:
        digest = digest or client.request("market.status", {"submission": submission})["digest"]
        signed = _signed(key, config, state_dir, submission, digest, "changes_requested" if changes else "rejected",
                         reason)
        shown = client.request("market.reject", {"submission": submission, "reviewer": reviewer, "reason": reason,
                                                 "digest": digest, "changes": changes, **signed})
    _show_checks(shown, as_json)


def _signed(key: str, config: Path | None, state_dir: str | None, submission: int, digest: str, decision: str,
            reason: str) -> dict[str, str]:
    """The decision signed with the key of that name or file; nothing where none is named."""
    if not key:
        return {}
    import os
    import time

    from apex_exec.market.review.reviewers import Statement, signed_message
    from apex_exec.registry.trust.signing import find_key, key_id_of, load_private, raw_public

    private = load_private(find_key(state_path(config, state_dir) / "keys", key, ".key"))
    text = Statement(submission, digest, decision, reason, os.geteuid(), key_id_of(raw_public(private)),
                     time.time_ns()).text()
    return {"statement": text, "signature": private.sign(signed_message(text)).hex()}


@market_app.command(epilog=examples("apex-exec market publish 7 --by olga", "apex-exec market publish --refresh"))
def publish(submission: Annotated[int, Argument(min=0, help="The approved submission.")] = 0,
            publisher: Annotated[str, Option("--by", metavar="NAME", help="Who publishes.")] = "",
            refresh: Annotated[bool, Option("--refresh", help="Only sign the index anew.")] = False,
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Counter-signs a bundle with the market key and puts it into the signed index."""
    from apex_exec.cli.facts import facts

    if bool(submission) == refresh:
        fail("name a submission, or --refresh", EXIT_USAGE)
    done = _ask(config, runtime_dir, "market.publish", submission=submission, publisher=publisher or this_user())
    _show(done, as_json, tuple(facts(done)))


@market_app.command(epilog=examples("apex-exec market search analytics"))
def search(words: Annotated[list[str] | None, Argument(help="Words of id, name or author.")] = None,
           index: Index = "", as_json: AsJson = False, runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Lists what is on offer, here or in an index elsewhere."""
    from apex_exec.cli.market.fetch import read_index

    text = " ".join(words or [])
    place = index or connect.settings_for(config, runtime_dir).market.index
    with connect.admin(config, runtime_dir) as client:
        rows = read_index(client, place, words=text) if place else client.request("market.search", {"words": text})
    if not as_json:
        rows = [{**row, "price": _price(row["price"])} for row in rows]
    print_table(rows, ["id", "version", "name", "author", "price", "coverage", "state"], as_json=as_json,
                empty="nothing found")


def _price(price: dict[str, Any]) -> str:
    from apex_exec.market.money.money import format_minor

    if price["model"] == "free":
        return "free"
    amount = f"{format_minor(price['amount'], price['currency'])} {price['currency']}"
    return f"{amount} a {price['interval']}" if price["model"] == "subscription" else amount


@market_app.command(epilog=examples("apex-exec market show sums"))
def show(plugin: PluginId, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows one plugin on offer: versions, price history, coverage, who answers."""
    found = _ask(config, runtime_dir, "market.show", plugin=plugin)
    if not as_json:
        found["prices"] = [_price(price) for price in found["prices"]]
        found["versions"] = [f"{one['version']} {one['state']}" for one in found["versions"]]
    _show(found, as_json, ("id", "version", "author", "state", "prices", "versions", "coverage", "contact",
                           "responseHours", "digest"))


@market_app.command(epilog=examples("apex-exec market buy sums --user 11111111-2222-4333-8444-555555555555 "
                                    "--customer 'ACME Corp'"))
def buy(plugin: PluginId, user: User,
        customer: Annotated[str, Option(help="Who pays for this user from now on.")] = "", key: Key = "",
        as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Buys a plugin for a user, or one more period of a running subscription."""
    bought = _ask(config, runtime_dir, "market.buy", plugin=plugin, userId=user, customer=customer,
                  key=key or str(uuid.uuid4()))
    _show(bought, as_json, ("key", "plugin", "userId", "customer", "gross", "fee", "authorShare", "startsAt", "endsAt"))


@market_app.command(epilog=examples("apex-exec market entitle sums --customer 'ACME Corp' --until 2027-01-31 -o acme",
                                    "apex-exec market entitle sums --user 1111… --until 2027-01-31 -o one.json"))
def entitle(plugin: PluginId,
            until: Annotated[str, Option(metavar="TIME", help="When it ends; UTC if it says no zone.")],
            output: Annotated[Path, Option("--output", "-o", help="The file to write.")],
            user: Annotated[list[str] | None,
                            Option("--user", metavar="UUID", help="A user; may be given again.")] = None,
            customer: Annotated[str, Option(help="All whom a daemon with this market.customer serves.")] = "",
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Signs an entitlement for a customer's own daemon, which takes it by market.entitlements."""
    done = _ask(config, runtime_dir, "market.entitle", plugin=plugin, until=until, users=user or [], customer=customer)
    signed = done.pop("entitlement")
    replace_file(output, signed)
    _show(done, as_json, ("plugin", "users", "customer", "endsAt"))


@market_app.command(epilog=examples("apex-exec market refund 5c0f… --reason 'did not work'"))
def refund(purchase: Annotated[str, Argument(help="The purchase's key.")], reason: Reason, key: Key = "",
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Reverses a purchase to the cent; what it entitled to ends at once."""
    done = _ask(config, runtime_dir, "market.refund", purchase=purchase, reason=reason, key=key or str(uuid.uuid4()))
    _show(done, as_json, ("key", "plugin", "userId", "gross", "fee", "authorShare", "refundedAt"))


@market_app.command(epilog=examples("apex-exec market customer 1111… 'ACME Corp'"))
def customer(user: Annotated[str, Argument(metavar="UUID", help="The user.")],
             name: Annotated[str, Argument(help="The customer's name.")], as_json: AsJson = False,
             runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Says who pays for a user from now on."""
    _show(_ask(config, runtime_dir, "market.customer", userId=user, customer=name), as_json, ("userId", "customer"))


@market_app.command(epilog=examples("apex-exec market clock",
                                    "apex-exec market clock --accept --reason 'NTP was wrong'"))
def clock(accept: Annotated[bool, Option("--accept", help="This clock is right; go on from it.")] = False,
          reason: Annotated[str, Option(help="Why; needed with --accept.")] = "", as_json: AsJson = False,
          runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Says how far this machine's clock is behind the store's latest change; goes on from it where it was ahead."""
    done = _ask(config, runtime_dir, "market.clock", accept=accept, reason=reason)
    _show(done, as_json, ("behindSeconds", "accepted", "datedAnew"))


@market_app.command(epilog=examples("apex-exec market revoke sums --by olga --reason 'leaks data'"))
def revoke(plugin: PluginId, reason: Reason,
           actor: Annotated[str, Option("--by", metavar="NAME", help="Who does it.")] = "",
           version: Annotated[str, Option(help="One version; default: all.")] = "",
           deprecate: Annotated[bool, Option("--deprecate", help="Only stop new sales.")] = False,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Takes a plugin off the market and stops it where it runs; or only deprecates it."""
    done = _ask(config, runtime_dir, "market.revoke", plugin=plugin, version=version, reason=reason,
                actor=actor or this_user(), deprecate=deprecate)
    _show(done, as_json, ("plugin", "state", "versions"))


_TICKET = ("id", "plugin", "userId", "subject", "paid", "responder", "breached", "openedAt", "respondedAt", "dueAt")


@ticket_app.command("open", epilog=examples("apex-exec market ticket open sums --user 1111… --subject 'no totals'"))
def open_ticket(plugin: PluginId, user: User, subject: Annotated[str, Option(help="What it is about.")],
                as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Opens a ticket; its clock starts."""
    done = _ask(config, runtime_dir, "market.ticket.open", plugin=plugin, userId=user, subject=subject)
    _show(done, as_json, _TICKET)


@ticket_app.command("respond", epilog=examples("apex-exec market ticket respond 3 --by ann"))
def respond(ticket: Ticket, responder: Annotated[str, Option("--by", metavar="NAME", help="Who answers.")],
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Records the first response, which stops the clock."""
    _show(_ask(config, runtime_dir, "market.ticket.respond", ticket=ticket, responder=responder), as_json, _TICKET)


@ticket_app.command("close", epilog=examples("apex-exec market ticket close 3"))
def close_ticket(ticket: Ticket, as_json: AsJson = False, runtime_dir: RuntimeDir = None,
                 config: ConfigFile = None) -> None:
    """Closes a ticket; one that nobody answered keeps running towards its breach."""
    _show(_ask(config, runtime_dir, "market.ticket.close", ticket=ticket), as_json, _TICKET)


@ticket_app.command("list", epilog=examples("apex-exec market ticket list sums"))
def list_tickets(plugin: Annotated[str, Argument(help="One plugin; none: all.")] = "", as_json: AsJson = False,
                 runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists tickets with their breaches."""
    print_table(_ask(config, runtime_dir, "market.ticket.list", plugin=plugin), _TICKET, as_json=as_json,
                empty="no tickets")


@market_app.command(epilog=examples("apex-exec market report", "apex-exec market report --csv > market.csv"))
def report(as_csv: Annotated[bool, Option("--csv", help="Print CSV instead of a table.")] = False,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Per plugin: revenue, active installs, coverage, support times, review times."""
    from apex_exec.cli.facts import words
    from apex_exec.common.spreadsheet import safe_cell
    from apex_exec.market.money.money import format_minor
    from apex_exec.market.money.reports import COLUMNS, MONEY

    rows = _ask(config, runtime_dir, "market.report")
    if as_json:
        print_json(rows)
        return
    if as_csv:
        shown = [{**row, **{name: format_minor(row[name], row["currency"]) if row["currency"] else ""
                            for name in MONEY}} for row in rows]
        writer = csv.writer(Said(), lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([safe_cell(str(row[name])) for name in COLUMNS] for row in shown)
        return
    print_table(rows, {name: words(name) for name in COLUMNS if name != "currency"}, as_json=False,
                empty="the marketplace is empty")
