"""The marketplace's administrative operations: arguments, what each does, its handler. They run in the registrar.

Each handler takes the caller's context and checked arguments and returns what the reply carries; a Refusal is the error
reply, and nothing was changed. The supervisor audits every one of them as ``admin.action`` with the caller's uid.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market import contracts, invoices, reports, sales, support
from apex_exec.market import submissions as subs
from apex_exec.market.entitlements import Entitlements
from apex_exec.market.index import Index, find, public_facts, search
from apex_exec.market.reviewing import Machine, Reviewing
from apex_exec.market.shop import Shop
from apex_exec.market.statements import statement
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context


class _Args(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Arguments: unknown names are errors."""


class Nothing(_Args):
    """An operation without arguments."""


class Submit(_Args):
    """A folder or ``.apx`` on the daemon's machine, or the bytes of an ``.apx``; contact and hours for paid plugins."""

    submitter: str
    path: str = ""
    bundle: bytes = b""
    contact: str = ""
    response_hours: int = 0


class Which(_Args):
    """A submission by its number, or a plugin's latest; neither: the queue."""

    submission: int = 0
    plugin: str = ""


class Claim(_Args):
    """A reviewer takes a submission; without one: the queue."""

    reviewer: str = ""
    submission: int = 0


class Decide(_Args):
    """A reviewer's decision. ``digest``: the bytes that were looked at, as ``market.review`` named them; ``statement``
    and ``signature``: the decision signed by an approver's key (``reviewers.py``)."""

    submission: int
    reviewer: str
    reason: str
    digest: str
    checklist: list[str] = []
    changes: bool = False
    statement: str = ""
    signature: str = ""


class Publish(_Args):
    """An approved submission goes public; 0: only the index is signed anew."""

    submission: int = 0
    publisher: str = ""


class Revoke(_Args):
    """Takes a version (or all of them) off the market: ``deprecate`` stops new sales only."""

    plugin: str
    reason: str
    actor: str
    version: str = ""
    deprecate: bool = False


class Search(_Args):
    """Words that id, name or author must hold."""

    words: str = ""


class Plugin(_Args):
    """One plugin."""

    plugin: str


class Buy(_Args):
    """A purchase, or one more period of a running subscription. The same ``key`` buys once."""

    plugin: str
    user_id: str
    key: str
    customer: str = ""


class Refund(_Args):
    """Reverses a purchase. The same ``key`` refunds once."""

    purchase: str
    key: str
    reason: str


class Customer(_Args):
    """Who pays for a user from now on."""

    user_id: str
    customer: str


class OpenTicket(_Args):
    """A user asks for support."""

    plugin: str
    user_id: str
    subject: str


class AnswerTicket(_Args):
    """The author's side answers."""

    ticket: int
    responder: str


class Ticket(_Args):
    """One ticket."""

    ticket: int


class Month(_Args):
    """A month's statement: the platform's, or one author's or customer's."""

    month: str
    author: str = ""
    customer: str = ""


class Fetched(_Args):
    """An index that was fetched from ``place``; ``plugin`` (and ``version``) to look up, or words to search."""

    place: str
    index: bytes
    plugin: str = ""
    version: str = ""
    words: str = ""


class Enterprise(_Args):
    """Custom development for a customer; ``cost`` in minor units. The same ``key`` books once."""

    customer: str
    title: str
    cost: int
    key: str
    currency: str = "USD"


Handler = Callable[[Context, Any], Any]

TABLE: dict[str, tuple[type[msgspec.Struct], str]] = {
    "market.submit": (Submit, "Submits a bundle and runs the machine's checks; answers with what they found."),
    "market.status": (Which, "One submission with its moves, findings and place in the queue; or the queue."),
    "market.review": (Claim, "Takes a submission for review and shows what to look at; or the queue."),
    "market.approve": (Decide, "A reviewer's yes to exactly these bytes, with every item of the checklist."),
    "market.reject": (Decide, "A reviewer's no, or with `changes` a request for changes."),
    "market.publish": (Publish, "Counter-signs an approved bundle, writes it and the signed index."),
    "market.revoke": (Revoke, "Takes a plugin off the market and stops it where it is installed; or deprecates it."),
    "market.search": (Search, "What is on offer here."),
    "market.show": (Plugin, "One plugin on offer here: versions, price and its history."),
    "market.index": (Fetched, "Checks an index fetched elsewhere: signature, version, expiry; looks things up in it."),
    "market.buy": (Buy, "Buys a plugin for a user, or one more period."),
    "market.refund": (Refund, "Reverses a purchase to the cent and ends its entitlement."),
    "market.customer": (Customer, "Says who pays for a user."),
    "market.ticket.open": (OpenTicket, "Opens a support ticket; its clock starts."),
    "market.ticket.respond": (AnswerTicket, "Records the first response."),
    "market.ticket.close": (Ticket, "Closes a ticket."),
    "market.ticket.list": (Which, "Tickets, of one plugin or all."),
    "market.report": (Nothing, "Per plugin: revenue, active installs, coverage, support times, review times."),
    "billing.report": (Month, "A month's statement of platform, author or customer."),
    "billing.enterprise": (Enterprise, "Books custom development for a customer at cost / (1 - 0.5)."),
    "billing.close": (Month, "Closes a month: its lines are never changed again."),
}


class Operations:
    """The handlers over one shop."""

    def __init__(self, shop: Shop, machine: Machine, entitlements: Entitlements) -> None:
        self.shop = shop
        self.reviewing = Reviewing(shop, machine)
        self.entitlements = entitlements

    def handlers(self) -> dict[str, Handler]:
        """name → handler, one for each row of TABLE."""
        review = self.reviewing
        return {
            "market.submit": lambda context, args: review.submit(
                context, Path(args.path) if args.path else None, args.bundle, args.submitter, args.contact,
                args.response_hours),
            "market.status": lambda _context, args: review.status(args.submission, args.plugin),
            "market.review": lambda _context, args: review.claim(args.submission, args.reviewer),
            "market.approve": lambda context, args: review.decide(
                context, "approved", args.submission, args.reviewer, args.reason, args.digest, args.checklist,
                args.statement, args.signature),
            "market.reject": lambda context, args: review.decide(
                context, "changes_requested" if args.changes else "rejected", args.submission, args.reviewer,
                args.reason, args.digest, args.checklist, args.statement, args.signature),
            "market.publish": lambda context, args: review.publish(args.submission, args.publisher, context.uid),
            "market.revoke": lambda context, args: review.revoke(
                context, args.plugin, args.version, args.actor, args.reason, args.deprecate),
            "market.search": self.search, "market.show": self.show, "market.index": self.index,
            "market.buy": self.buy, "market.refund": self.refund, "market.customer": self.customer,
            "market.ticket.open": self.open_ticket, "market.ticket.respond": self.respond,
            "market.ticket.close": self.close_ticket, "market.ticket.list": self.tickets,
            "market.report": self.report, "billing.report": self.billing_report,
            "billing.enterprise": self.enterprise, "billing.close": self.billing_close,
        }

    # ------------------------------------------------------------------ what is on offer
    def search(self, _context: Context, args: Search) -> Any:
        """Offers of this marketplace that hold every word."""
        index = self.shop.read(lambda db: self.shop.current(db, self.shop.now_ns()))
        return [public_facts(entry) for entry in search(index, args.words)]

    def show(self, _context: Context, args: Plugin) -> Any:
        """One plugin with its price history and versions. Raises Refusal("plugin_unknown")."""
        def work(db: sa.Connection) -> Any:
            offer = subs.listing(db, args.plugin)
            if offer is None:
                raise Refusal("plugin_unknown", f"the marketplace has no {args.plugin[:60]!r}", code=Code.NOT_FOUND)
            prices = [{"fromNs": one.from_ns, **msgspec.to_builtins(one.price)}
                      for one in subs.price_history(db, args.plugin)]
            found = msgspec.json.decode(offer.result) if offer.result else {}
            return {"id": offer.plugin, "version": offer.version, "digest": offer.digest, "author": offer.author,
                    "state": offer.state, "prices": prices, "contact": offer.contact,
                    "responseHours": offer.sla_hours, "coverage": found.get("coverage", ""),
                    "versions": [{"version": one.version, "state": one.state}
                                 for one in subs.offered(db, args.plugin)]}

        return self.shop.read(work)

    def index(self, context: Context, args: Fetched) -> Any:
        """What a fetched index says, once it is to be believed: one entry with where its bundle lies, or a search."""
        now_ns = self.shop.now_ns()
        keys = context.store.transact(lambda db: {
            row.key_id: row.public_key for row in registry.list_keys(db, role="market")
            if row.state == "active" and row.valid_from_ns <= now_ns < row.valid_until_ns})
        index: Index = self.shop.take_index(args.place, args.index, keys)
        if not args.plugin:
            return [public_facts(entry) for entry in search(index, args.words)]
        entry = find(index, args.plugin, args.version)
        return {**public_facts(entry), "path": entry.path, "size": entry.size, "sha256": entry.sha256}

    # ------------------------------------------------------------------ money
    def buy(self, _context: Context, args: Buy) -> Any:
        """See ``sales.buy``."""
        def work(db: sa.Connection, now_ns: int) -> Any:
            if args.customer:
                sales.set_customer(db, now_ns, sales.check_user(args.user_id), args.customer)
            return _plain(sales.buy(db, now_ns, plugin=args.plugin, user_id=args.user_id, key=args.key))

        return self.shop.change(work)

    def refund(self, context: Context, args: Refund) -> Any:
        """See ``sales.refund``; what it entitled to ends at once."""
        done = self.shop.change(lambda db, now_ns: _plain(sales.refund(
            db, now_ns, purchase=args.purchase, key=args.key, reason=args.reason)))
        self.entitlements.sweep(context)
        return done

    def enterprise(self, _context: Context, args: Enterprise) -> Any:
        """See ``contracts.order``."""
        return self.shop.change(lambda db, now_ns: _plain(contracts.order(
            db, now_ns, customer=args.customer, title=args.title, cost=args.cost, currency=args.currency,
            key=args.key)))

    def customer(self, _context: Context, args: Customer) -> Any:
        """Who pays for a user, dated."""
        self.shop.change(lambda db, now_ns: sales.set_customer(
            db, now_ns, sales.check_user(args.user_id), args.customer))
        return {"userId": args.user_id.lower(), "customer": args.customer}

    # ------------------------------------------------------------------ support
    def open_ticket(self, _context: Context, args: OpenTicket) -> Any:
        """See ``support.open_ticket``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.open_ticket(
            db, now_ns, args.plugin, args.user_id, args.subject), now_ns))

    def respond(self, _context: Context, args: AnswerTicket) -> Any:
        """See ``support.respond``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.respond(
            db, now_ns, args.ticket, args.responder), now_ns))

    def close_ticket(self, _context: Context, args: Ticket) -> Any:
        """See ``support.close``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.close(db, now_ns, args.ticket), now_ns))

    def tickets(self, _context: Context, args: Which) -> Any:
        """Every ticket, newest last, each with its breach."""
        now_ns = self.shop.now_ns()
        return self.shop.read(lambda db: [self._ticket(one, now_ns) for one in support.every(db, args.plugin)])

    @staticmethod
    def _ticket(ticket: support.Ticket, now_ns: int) -> Any:
        return {**_plain(ticket), "breached": support.breached(ticket, now_ns),
                "dueNs": ticket.opened_ns + support.RESPONSE_NS if ticket.paid else None}

    # ------------------------------------------------------------------ reports
    def report(self, context: Context, _args: Nothing) -> Any:
        """See ``reports.market_report``."""
        now_ns = self.shop.now_ns()
        enabled = context.store.transact(registry.enabled_for)
        return self.shop.read(lambda db: reports.market_report(db, now_ns, enabled))

    def billing_report(self, context: Context, args: Month) -> Any:
        """A statement; with the month's usage on the platform's."""
        kept = self.shop.read(lambda db: invoices.closed_usage(db, args.month))
        usage = kept or self.shop.usage(args.month)
        hosted = self.shop.hosted(context, args.month, usage)
        closed, lines = self.shop.read(lambda db: invoices.month_lines(db, args.month, hosted))
        shown = None if args.author or args.customer else usage
        return statement(lines, args.month, closed, args.author, args.customer, shown)

    def billing_close(self, context: Context, args: Month) -> Any:
        """Closes a month; its lines and usage stay."""
        usage = self.shop.usage(args.month)
        hosted = self.shop.hosted(context, args.month, usage)
        lines = self.shop.change(lambda db, now_ns: invoices.close_month(db, now_ns, args.month, hosted, usage))
        return statement(lines, args.month, True, usage=usage)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
