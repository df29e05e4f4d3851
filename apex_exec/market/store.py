"""The marketplace's tables as they are today (SQLAlchemy Core; SQLite and PostgreSQL alike), and its clock.

``revisions`` creates them; if you change a table here, add a revision that changes it in existing stores. Money is in
minor units (BIGINT), moments are nanoseconds since 1970, UTC (BIGINT). Lines of a closed invoice cannot be changed or
deleted: triggers in the database refuse that for everybody. Every call blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.registry.database import Schema, open_database

S = TypeVar("S", bound=msgspec.Struct)

SCHEMA = Schema("market", Path(__file__).parent / "revisions", revision="0008", version=6)
NAME = SCHEMA.name
CHANNEL = "apex_exec_market"
"""What daemons on one server listen to: somebody has changed the marketplace's rows; the payload names who."""
CLOCK_SLACK_NS = 5_000_000_000
"""How far a clock may step back (time synchronisation); the latest moment seen is then used in its place."""

metadata = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER increments by itself there
_Ns = sa.BigInteger
_Minor = sa.BigInteger


def _text(name: str, length: int = 200, **options: bool) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, **options)  # type: ignore[arg-type]  # bools only


submissions = sa.Table(
    "submissions", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    _text("plugin"), _text("version"), _text("digest"), _text("author"), _text("author_key", 32), _text("submitter"),
    _text("state", 30),
    sa.Column("price", sa.Text, nullable=False), _text("contact"), sa.Column("sla_hours", sa.Integer, nullable=False),
    sa.Column("submitted_ns", _Ns, nullable=False), sa.Column("changed_ns", _Ns, nullable=False),
    _text("reviewer"), sa.Column("result", sa.Text, nullable=False), _text("result_signature", 400),
    sa.Index("submissions_plugin", "plugin", "version"))

publications = sa.Table(
    "publications", metadata,
    sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), primary_key=True, autoincrement=False),
    sa.Column("entry", sa.Text, nullable=False))

moves = sa.Table(
    "moves", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
    _text("from_state", 30), _text("to_state", 30), _text("actor"), sa.Column("uid", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False), sa.Column("checklist", sa.Text, nullable=False),
    sa.Column("at_ns", _Ns, nullable=False))

decisions = sa.Table(
    "decisions", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
    _text("key_id", 32), sa.Column("statement", sa.Text, nullable=False), _text("signature", 128))

comments = sa.Table(
    "comments", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
    _text("path", 400), sa.Column("line", sa.Integer, nullable=False), sa.Column("text", sa.Text, nullable=False),
    _text("reviewer"), sa.Column("uid", sa.BigInteger, nullable=False), sa.Column("at_ns", _Ns, nullable=False))

prices = sa.Table(
    "prices", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    _text("plugin"), sa.Column("from_ns", _Ns, nullable=False), sa.Column("price", sa.Text, nullable=False),
    sa.Index("prices_plugin", "plugin", "from_ns"))

accounts = sa.Table(
    "accounts", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    _text("user_id", 36), sa.Column("from_ns", _Ns, nullable=False), _text("customer"),
    sa.Index("accounts_user", "user_id", "from_ns"))

purchases = sa.Table(
    "purchases", metadata,
    _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False),
    _text("plugin"), _text("version"), _text("author"), _text("user_id", 36), _text("customer"),
    sa.Column("price", sa.Text, nullable=False), _text("currency", 3),
    sa.Column("gross", _Minor, nullable=False), sa.Column("fee", _Minor, nullable=False),
    sa.Column("author_share", _Minor, nullable=False), sa.Column("at_ns", _Ns, nullable=False),
    sa.Column("anchor_ns", _Ns, nullable=False), sa.Column("starts_ns", _Ns, nullable=False),
    sa.Column("ends_ns", _Ns), sa.Column("number", sa.Integer, nullable=False),
    sa.Index("purchases_of", "plugin", "user_id"))

refunds = sa.Table(
    "refunds", metadata,
    _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False),
    sa.Column("purchase", sa.String(100), sa.ForeignKey("purchases.key"), nullable=False, unique=True),
    sa.Column("gross", _Minor, nullable=False), sa.Column("fee", _Minor, nullable=False),
    sa.Column("author_share", _Minor, nullable=False), sa.Column("at_ns", _Ns, nullable=False),
    sa.Column("reason", sa.Text, nullable=False))

tickets = sa.Table(
    "tickets", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    _text("plugin"), _text("user_id", 36), sa.Column("subject", sa.Text, nullable=False),
    sa.Column("paid", sa.Boolean, nullable=False), sa.Column("opened_ns", _Ns, nullable=False),
    sa.Column("responded_ns", _Ns), sa.Column("closed_ns", _Ns), _text("responder"),
    sa.Index("tickets_plugin", "plugin"))

answers = sa.Table(
    "answers", metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("ticket", _Id, sa.ForeignKey("tickets.id"), nullable=False, index=True),
    _text("responder"), sa.Column("text", sa.Text, nullable=False), sa.Column("at_ns", _Ns, nullable=False))

contracts = sa.Table(
    "contracts", metadata,
    _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False), _text("customer"),
    sa.Column("title", sa.Text, nullable=False), sa.Column("cost", _Minor, nullable=False),
    sa.Column("price", _Minor, nullable=False), _text("currency", 3), sa.Column("at_ns", _Ns, nullable=False))

closed_months = sa.Table(
    "closed_months", metadata,
    _text("month", 7, primary_key=True), sa.Column("closed_ns", _Ns, nullable=False), _text("sha256", 64))

invoice_lines = sa.Table(
    "invoice_lines", metadata,
    sa.Column("month", sa.String(7), sa.ForeignKey("closed_months.month"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _text("kind", 20), _text("line_group", 400), _text("for_month", 7), _text("plugin"), _text("customer"),
    _text("author"), _text("currency", 3), sa.Column("customer_minor", _Minor, nullable=False),
    sa.Column("author_minor", _Minor, nullable=False), sa.Column("platform_minor", _Minor, nullable=False),
    _text("quantity"), sa.Index("lines_group", "line_group"))

closed_usage_rows = sa.Table(
    "closed_usage", metadata,
    sa.Column("month", sa.String(7), sa.ForeignKey("closed_months.month"), primary_key=True),
    _text("plugin", primary_key=True), _text("user_id", 200, primary_key=True),
    *(sa.Column(name, sa.BigInteger, nullable=False)
      for name in ("calls", "cpu_us", "memory_mb_ms", "api_calls", "network_requests")),
    sa.Column("host_cpu_us", sa.BigInteger, nullable=False, server_default="0"))

lasting = sa.Table(
    "lasting", metadata,
    _text("id", 80, primary_key=True), _text("op", 40), sa.Column("args", sa.Text, nullable=False),
    sa.Column("asked_ns", _Ns, nullable=False), sa.Column("ended_ns", _Ns), _text("state", 10),
    sa.Column("refusal", sa.Text, nullable=False))

index_versions = sa.Table(
    "index_versions", metadata, sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ns", _Ns, nullable=False), _text("sha256", 64))

indexes_seen = sa.Table(
    "indexes_seen", metadata, sa.Column("place", sa.String(1000), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False), _text("sha256", 64))

chains = sa.Table(
    "chains", metadata,
    _text("chain", 64, primary_key=True), _text("node", 64), _text("public_key", 64), _text("holder", 32),
    sa.Column("first_ns", _Ns, nullable=False), sa.Column("from_seq", sa.BigInteger, nullable=False),
    sa.Column("to_seq", sa.BigInteger, nullable=False), _text("hash", 64), sa.Column("covered_ns", _Ns, nullable=False),
    _text("head", 128), sa.Column("changed_ns", _Ns, nullable=False), sa.Column("left_ns", _Ns, nullable=False))

chain_segments = sa.Table(
    "chain_segments", metadata,
    sa.Column("chain", sa.String(64), sa.ForeignKey("chains.chain"), primary_key=True),
    sa.Column("from_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("to_seq", sa.BigInteger, nullable=False), _text("prev_hash", 64), _text("hash", 64),
    sa.Column("data", sa.LargeBinary, nullable=False))

SUMS = ("calls", "cpu_us", "memory_mb_ms", "api_calls", "network_requests", "host_cpu_us")
chain_usage = sa.Table(
    "chain_usage", metadata,
    sa.Column("chain", sa.String(64), sa.ForeignKey("chains.chain"), primary_key=True),
    _text("month", 7, primary_key=True), _text("plugin", primary_key=True), _text("user_id", 200, primary_key=True),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS))

shop_files = sa.Table(
    "shop_files", metadata, _text("name", 200, primary_key=True), sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("changed_ns", _Ns, nullable=False))

releases = sa.Table(
    "releases", metadata,
    _text("digest", 64, primary_key=True), _text("plugin"), _text("version"),
    sa.Column("submission", sa.BigInteger, nullable=False), sa.Column("percent", sa.Integer, nullable=False),
    sa.Column("halted_ns", _Ns, nullable=False), sa.Column("reason", sa.Text, nullable=False),
    sa.Column("watched_ns", _Ns, nullable=False), sa.Column("looked", sa.Integer, nullable=False),
    sa.Column("base_calls", sa.BigInteger, nullable=False), sa.Column("base_failures", sa.BigInteger, nullable=False))

figure_sources = sa.Table(
    "figure_sources", metadata,
    _text("source", 64, primary_key=True), sa.Column("seq", sa.BigInteger, nullable=False), _text("hash", 64),
    sa.Column("counted_ns", _Ns, nullable=False))

figures = sa.Table(
    "figures", metadata,
    _text("source", 64, primary_key=True), _text("digest", 64, primary_key=True), _text("plugin"), _text("version"),
    sa.Column("installed", sa.Boolean, nullable=False), sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("codes", sa.Text, nullable=False), sa.Column("times", sa.Text, nullable=False))

failure_places = sa.Table(
    "failure_places", metadata,
    _text("source", 64, primary_key=True), _text("digest", 64, primary_key=True), _text("code", 40, primary_key=True),
    _text("exception", 100, primary_key=True), _text("place", 300, primary_key=True),
    sa.Column("failures", sa.BigInteger, nullable=False), sa.Column("first_ns", _Ns, nullable=False),
    sa.Column("last_ns", _Ns, nullable=False))

clock = sa.Table("clock", metadata, sa.Column("id", sa.Integer, primary_key=True),
                 sa.Column("last_ns", _Ns, nullable=False))


def open_market(url: str) -> sa.Engine:
    """The engine of the marketplace's store. Raises Refusal: store_newer, store_unusable."""
    return open_database(url, SCHEMA)


def as_struct(row: sa.Row[Any], kind: type[S]) -> S:
    """A row as ``kind``; columns without a field are ignored."""
    fields = kind.__struct_fields__
    return msgspec.convert({str(key): value for key, value in row._mapping.items() if key in fields}, kind)


def advance_clock(db: sa.Connection, now_ns: int) -> int:
    """The moment from which a change counts: never before one that was already used.

    Raises Refusal("clock_set_back") if the machine's clock is more than CLOCK_SLACK_NS behind: otherwise entitlements
    and invoices would depend on the order of two wrong clocks.
    """
    last_ns = int(db.execute(sa.select(clock.c.last_ns)).scalar_one())
    if now_ns < last_ns - CLOCK_SLACK_NS:
        raise Refusal("clock_set_back", f"this machine's clock is {(last_ns - now_ns) / 1e9:.0f} s behind the latest "
                      "change in the market store; nothing was changed",
                      hint="correct the clock; if it is right and was ahead before: apex-exec market clock --accept "
                           "--reason TEXT", code=Code.CONFLICT)
    if now_ns > last_ns:
        db.execute(sa.update(clock).values(last_ns=now_ns))
    return max(now_ns, last_ns)


def clock_of(db: sa.Connection) -> int:
    """The moment of the latest change."""
    return int(db.execute(sa.select(clock.c.last_ns)).scalar_one())


DATED = ((accounts, ("from_ns",)), (prices, ("from_ns",)), (refunds, ("at_ns",)), (contracts, ("at_ns",)),
         (tickets, ("opened_ns", "responded_ns", "closed_ns")), (moves, ("at_ns",)),
         (comments, ("at_ns",)), (answers, ("at_ns",)),
         (submissions, ("submitted_ns", "changed_ns")), (index_versions, ("at_ns",)),
         (releases, ("halted_ns", "watched_ns")))
"""Columns with moments at which something was done; none may be later than now. ``sales`` re-dates purchases itself."""


def set_clock_back(db: sa.Connection, now_ns: int) -> int:
    """Continues from ``now_ns`` although changes have later dates: they are dated now. Returns their number."""
    changed = 0
    for table, columns in DATED:
        for name in columns:
            changed += db.execute(sa.update(table).where(table.c[name] > now_ns).values({name: now_ns})).rowcount
    db.execute(sa.update(clock).values(last_ns=now_ns))
    return changed
