"""``audit tail | verify | export | report`` read the ledger's file directly, without a daemon; ``accept`` and ``erase``
ask a running one."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli.output import Said, json_line, print_json, print_table, say, say_line, show
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, audit_app, examples, fail
from apex_exec.cli.verbs import BadParameter, Exit, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.ledger.reading import Event, Filter

FOLLOW_SECONDS = 0.2
SOMEBODY = "11111111-2222-4333-8444-555555555555"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

StateDir = Annotated[str | None, Option("--state-dir", metavar="DIR", help="Folder of the ledger and its keys.")]
Plugin = Annotated[str, Option("--plugin", metavar="ID", help="Only events of this plugin.")]
User = Annotated[str, Option("--user", metavar="UUID", help="Only events of this user.")]
Types = Annotated[list[str] | None, Option(
    "--type", metavar="TYPE", help="Only events of this type, as data.access; may be repeated.")]
Since = Annotated[str, Option("--since", metavar="TIME", help="2026-11-24, 2026-11-24T08:00:00Z, or 15m 2h 7d.")]
Until = Annotated[str, Option("--until", metavar="TIME", help="Like --since; events from this moment on are excluded.")]


def place(config: Path | None, state_dir: str | None) -> tuple[Path, Path]:
    """The ledger's database and its state folder. Raises ConfigError, LedgerError, PermissionError."""
    from apex_exec.config import load_settings
    from apex_exec.ledger.audit import database_path

    settings = load_settings(config, {"state_dir": state_dir} if state_dir else None)
    database = database_path(settings.audit.url, settings.state_path)
    with suppress(FileNotFoundError):
        database.stat()  # a ledger that this user may not read has not been tampered with
    return database, settings.state_path


def noted_elsewhere(config: Path | None, state_dir: str | None) -> dict[str, tuple[int, bytes]]:
    """How far the ledger was, according to the registry's and the marketplace's databases. Failures go to stderr."""
    from apex_exec.config import load_settings
    from apex_exec.ledger.records import LedgerError
    from apex_exec.registry.trust.heads import noted_at

    settings = load_settings(config, {"state_dir": state_dir} if state_dir else None)
    found = {}
    for name, url in (("the registry", settings.registry.url), ("the market", settings.market.url)):
        try:
            head = noted_at(settings.database_url(url), settings.state_path)
        except LedgerError as error:
            say(f"the length of the ledger that {name} recorded cannot be read: {error}", file=sys.stderr)
            continue
        if head is not None:
            found[name] = head
    return found


def anchor_of(config: Path | None) -> str:
    """The file beyond the state folder that notes how far the ledger is; "" if there is none. Raises ConfigError."""
    from apex_exec.config import load_settings

    return load_settings(config, None).audit.anchor


def moment(text: str, option: str) -> datetime | None:
    """An aware time out of a date, RFC 3339 (UTC where it names no zone), or an age as 15m; None for ""."""
    if not text:
        return None
    if text[:-1].isdigit() and text[-1] in UNITS:
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is not a time; write 2026-11-24T08:00:00Z, or 15m"
        raise BadParameter(message, param_hint=option) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def wanted(plugin: str, user: str, types: list[str] | None, since: str, until: str) -> Filter:
    """The filter that the options make."""
    from apex_exec.ledger.reading import Filter
    from apex_exec.ledger.records import EVENT_TYPES

    for name in types or ():
        if name not in EVENT_TYPES:
            raise BadParameter(f"{name!r} is not one of {', '.join(EVENT_TYPES)}", param_hint="--type")
    return Filter(plugin=plugin, user=user.lower(), event_types=frozenset(types or ()), since=moment(since, "--since"),
                  until=moment(until, "--until"))


@audit_app.command(epilog=examples("apex-exec audit tail --follow", "apex-exec audit tail -n 100 --type access.denied",
                                   "apex-exec audit tail --plugin hello-world --json"))
def tail(
    lines: Annotated[int, Option("-n", "--lines", min=0, help="How many of the latest to print first.")] = 20,
    follow: Annotated[bool, Option("--follow", "-f", help="Keep printing events as they are committed.")] = False,
    plugin: Plugin = "", user: User = "", types: Types = None, as_json: AsJson = False,
    state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Shows the latest events, oldest first; with --json as `audit export` writes them."""
    from apex_exec.ledger.reading import last_seqs

    database, _ = place(config, state_dir)
    filters = wanted(plugin, user, types, "", "")
    show = _json_printer(database) if as_json else _line_printer(database)
    filters.after_seq, end = last_seqs(database, filters, lines)
    if lines:
        end = max(show(filters), end)
    while follow:
        filters.after_seq = end
        _, end = last_seqs(database, filters, 0)  # first: what does not match is not looked at again
        end = max(show(filters), end)
        time.sleep(FOLLOW_SECONDS)


def _json_printer(database: Path) -> Callable[[Filter], int]:
    from apex_exec.ledger.reading import export_rows

    def show(filters: Filter) -> int:
        last = filters.after_seq
        for seq, line in export_rows(database, filters):
            last = seq
            say_line(line)
        sys.stdout.flush()
        return last

    return show


def _line_printer(database: Path) -> Callable[[Filter], int]:
    from apex_exec.ledger.reading import read_events

    def show(filters: Filter) -> int:
        last = filters.after_seq
        for event in read_events(database, filters, named=False):
            last = event.seq
            say(as_line(event))
        sys.stdout.flush()
        return last

    return show


def as_line(event: Event) -> str:
    """One event for people: time to the millisecond, type, resource, user and metadata."""
    more = " ".join(f"{key}={value}" for key, value in event.metadata.items())
    return clean(f"{event.seq:>8} {event.timestamp[:23]}Z {event.event_type:<19} {event.result:<7} "
                 f"{event.resource} {event.action} user={event.user_id} {more}".rstrip())


@audit_app.command(epilog=examples("apex-exec audit verify", "apex-exec audit verify --head 120934:9f2c…",
                                   "apex-exec audit verify --fleet"))
def verify(
    head: Annotated[str, Option(metavar="SEQ:HASH", help="A recorded head that the chain must contain.")] = "",
    fleet: Annotated[bool, Option("--fleet", help="Walk all daemons' chains, as shipped to market.url.")] = False,
    as_json: AsJson = False, state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Walks the whole chain; says where an event was changed, removed, moved or cut off, and exits 1 then."""
    from apex_exec.ledger.verify import verify as walk

    if fleet:
        if head:
            raise BadParameter("--head cannot be combined with --fleet, since each chain there has a signed head of "
                               "its own", param_hint="--head")
        _verify_fleet(config, state_dir, as_json)
        return
    noted = None
    if head:
        number, _, digest = head.partition(":")
        try:
            noted = int(number), bytes.fromhex(digest)
        except ValueError:
            raise BadParameter("this is not SEQ:HASH; copy it from the output of `audit verify`",
                               param_hint="--head") from None
    database, state = place(config, state_dir)
    begun = time.monotonic()
    found = walk(database, state, noted, anchor_of(config), noted_elsewhere(config, state_dir))
    seconds = time.monotonic() - begun
    events = found.last - found.first + 1
    if as_json:
        print_json({"ok": found.finding is None, "first": found.first, "last": found.last, "events": events,
                    "head": f"{found.last}:{found.hash.hex()}", "seconds": seconds,
                    "finding": None if found.finding is None else {
                        "kind": found.finding.kind, "seq": found.finding.seq, "message": found.finding.message}})
        raise Exit(0 if found.finding is None else EXIT_NO)
    if found.finding is not None:
        fail(f"{found.finding.kind} at event {found.finding.seq}: {found.finding.message}", EXIT_NO)
    say(f"{events} events are as they were written, {found.first} to {found.last} ({events / seconds:,.0f}/s)")
    say(f"head {found.last}:{found.hash.hex()}")


def _verify_fleet(config: Path | None, state_dir: str | None, as_json: bool) -> None:
    """Verifies what all daemons have shipped; exits 1 if any of it does not hold. Raises Refusal."""
    from apex_exec import extras
    from apex_exec.common.sqlite import path_of
    from apex_exec.config import load_settings

    extras.need("registry", "audit verify --fleet")
    settings = load_settings(config, {"state_dir": state_dir} if state_dir else None)
    url = settings.database_url(settings.market.url)
    if path_of(url) is not None:
        fail("market.url is this daemon's own: nothing is shipped there; run `apex-exec audit verify`", EXIT_NO)
    from apex_exec.market.money.chains import verify_chains
    from apex_exec.registry.database import open_existing

    engine = open_existing(url)
    begun = time.monotonic()
    try:
        found = verify_chains(engine)
    finally:
        engine.dispose()
    seconds = time.monotonic() - begun
    rows = [{"node": one.node, "chain": one.chain, "first": one.first, "last": one.last,
             "coveredNs": one.covered_ns, "ok": not one.problem, "problem": one.problem} for one in found]
    bad = [one for one in found if one.problem]
    if as_json:
        print_json({"ok": not bad, "chains": rows, "seconds": seconds})
    else:
        for one in found:
            say(f"{one.node} (chain {one.chain}): events {one.first} to {one.last} "
                f"{'are as they were written' if not one.problem else 'DO NOT HOLD: ' + one.problem}")
        say(f"{len(found)} chains, {len(bad)} with a problem ({seconds:.1f} s)")
    if bad:
        raise Exit(EXIT_NO)


@audit_app.command(epilog=examples(
    "apex-exec audit export --since 2026-10-01 --until 2027-01-01 > q4.jsonl",
    "apex-exec audit export --plugin custom-analytics --type access.denied --type security.rate_limit"))
def export(
    plugin: Plugin = "", user: User = "", types: Types = None, since: Since = "", until: Until = "",
    output: Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
    state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Writes events as JSON lines, with prevHash and hash: the text before them was hashed.

    Users stand in it under their pseudonyms. With --user and no other filter, everything else that is known of the user
    follows, a line each with its "store": the pseudonym, what plugins keep, rows of registry and marketplace.
    """
    from apex_exec.ledger.reading import export_rows

    filters = wanted(plugin, user, types, since, until)
    database, _ = place(config, state_dir)
    lines: Iterator[bytes] = (line for _, line in export_rows(database, filters))
    if user and not (plugin or types or since or until):
        lines = chain(lines, _about(filters.user, config, state_dir))
    if output is None:
        for line in lines:
            say_line(line)
        sys.stdout.flush()
        return
    with open(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600 if user else 0o666),
              "wb") as file:
        for line in lines:
            file.write(line)


def _about(user: str, config: Path | None, state_dir: str | None) -> Iterator[bytes]:
    """What is known of a user beside the events, as JSON lines. Raises Refusal, LedgerError."""
    from apex_exec import extras
    from apex_exec.config import load_settings

    extras.need("registry", "audit export --user")
    from apex_exec.daemon.administration.erasure import everything_about

    settings = load_settings(config, {"state_dir": state_dir} if state_dir else None)
    for found in everything_about(settings, user):
        yield json_line(found).encode() + b"\n"


@audit_app.command(epilog=examples(
    f"apex-exec audit export --user {SOMEBODY} --output person.jsonl",
    f"apex-exec audit erase --user {SOMEBODY} --reason 'request 4711'"))
def erase(
    user: Annotated[str, Option("--user", metavar="UUID", help="The user.")],
    reason: Annotated[str, Option(help="The reason; it is recorded, so do not name the person.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Erases a person for good: nobody can say any longer whose events theirs are. `audit export --user` comes first.

    The key of the person's pseudonym is destroyed; what plugins keep of the person and plugins that are enabled for the
    person alone end; registry and marketplace name the pseudonym instead. The chain still verifies, and bills stay.
    End the person's access to the platform first: a user who calls again is a new person here.
    """
    from apex_exec.cli import connect
    from apex_exec.cli.plugin.common import LONG_TIMEOUT_MS

    with connect.admin(config, runtime_dir) as client:
        done = client.request("audit.erase", {"user": user, "reason": reason}, LONG_TIMEOUT_MS)
    older = (f"; {done['plainEvents']} events of before there were pseudonyms hold the id until their retention ends"
             if done["plainEvents"] else "")
    show(done, as_json, f"erased; in the ledger the person stays {done['pseudonym']}: {done['keptEntries']} entries of "
                        f"plugins deleted, {done['endedEnablements']} enablements ended, {done['rows']} values of "
                        f"registry and marketplace changed{older}")


@audit_app.command(epilog=examples("apex-exec audit report --quarter 2026Q4",
                                   "apex-exec audit report --quarter 2026Q4 --csv > review.csv"))
def report(
    quarter: Annotated[str, Option(metavar="YEARQn", help="The quarter under review, UTC, as 2026Q4.")],
    plugin: Plugin = "", as_json: AsJson = False,
    as_csv: Annotated[bool, Option("--csv", help="Print CSV instead of a table.")] = False,
    state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """The quarterly security review: executions, denials, limits, approvals and quarantines of each plugin."""
    from apex_exec.ledger.reading import Filter, read_events
    from apex_exec.ledger.report import quarter as bounds
    from apex_exec.ledger.report import review

    try:
        since, until = bounds(quarter)
    except ValueError as error:
        raise BadParameter(str(error), param_hint="--quarter") from None
    database, _ = place(config, state_dir)
    rows = review(read_events(database, Filter(since=since, until=until, plugin=plugin), named=False))
    _print_report(rows, quarter.upper(), as_json, as_csv)


def _print_report(rows: list[Any], quarter: str, as_json: bool, as_csv: bool) -> None:
    import msgspec

    from apex_exec.common.spreadsheet import safe_cell
    from apex_exec.ledger.report import COUNTS

    plain = [msgspec.to_builtins(row) for row in rows]
    if as_json:
        print_json({"quarter": quarter, "plugins": plain})
        return
    for row in plain:
        row["approvals"] = "; ".join(_approval(approval) for approval in row["approvals"])
    if as_csv:
        columns = ["plugin", *COUNTS, "approvals"]
        writer = csv.DictWriter(Said(), columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: safe_cell(value) if isinstance(value, str) else value for key, value in row.items()}
                         for row in plain)
        return
    print_table(plain, {
        "plugin": "plugin", "executions": "executions", "failed": "failed", "timeouts": "timeouts",
        "memoryLimits": "memory", "cpuLimits": "cpu", "crashes": "crashes", "denials": "denials",
        "rateLimits": "rate limits", "quarantines": "quarantines", "approvals": "approvals"},
        as_json=False, empty=f"the ledger has no events of {quarter}")


def _approval(approval: dict[str, Any]) -> str:
    expiry = f", until {approval['expiresAt']}" if approval.get("expiresAt") else ""
    return f"{approval['permission']} {approval['decision']} {approval['at'][:10]}{expiry}"


@audit_app.command(epilog=examples("apex-exec audit accept --reason 'the disk was lost; restored the backup of 3 May'"))
def accept(
    reason: Annotated[str, Option(help="The reason; it is recorded.")], as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Continues with the present ledger, although registry or market recorded a different or a longer one."""
    from apex_exec.cli import connect

    with connect.admin(config, runtime_dir) as client:
        done = client.request("audit.accept", {"reason": reason})
    show(done, as_json, f"accepted; before: {done['was'] or 'nothing was wrong'}")
