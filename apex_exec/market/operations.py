"""The marketplace's administrative operations and what each does. They run in the registrar.

Each handler takes the caller's context and checked arguments, and returns the content of the reply. A Refusal becomes
the error reply, and then nothing was changed. The supervisor audits each of them as ``admin.action`` with the caller's
uid.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.operations import NoArgs
from apex_exec.errors import Code, Refusal
from apex_exec.market import support
from apex_exec.market.arguments import (
    AnswerTicket,
    Buy,
    Clock,
    Close,
    Comment,
    Customer,
    Enterprise,
    Entitle,
    Fetched,
    FindTickets,
    Mine,
    Month,
    MonthPage,
    OpenTicket,
    Picture,
    Plugin,
    Publish,
    Refund,
    Search,
    Source,
    Submit,
    Ticket,
    Which,
)
from apex_exec.market.long_operations import Lasting, Running
from apex_exec.market.money import chains, contracts, invoices, pages, reports, sales
from apex_exec.market.money.metering import Key, Usage
from apex_exec.market.money.months import NS
from apex_exec.market.money.statements import Line, statement, to_csv
from apex_exec.market.releases import stages
from apex_exec.market.releases.shown import author_figures
from apex_exec.market.releases.watching import Watching
from apex_exec.market.review import authors, comments, source
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.workflow import Machine, Reviewing
from apex_exec.market.shop.entitlements import Entitlements
from apex_exec.market.shop.granted import new_grant, seal
from apex_exec.market.shop.index import Index, find, public_facts, search
from apex_exec.market.shop.storefront import Shop
from apex_exec.market.store import clock_of, set_clock_back
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.pictures import shown_picture
from apex_exec.registry.bundles.uploads import Uploads
from apex_exec.registry.context import Context

Handler = Callable[[Context, Any], Any]
PAGES_SECONDS_MAX = 30.0
"""How old the statement of an open month may be that somebody leafs through."""


def _given(context: Context, args: Submit) -> bytes:
    """The bytes of the bundle, sent in one piece or uploaded before. Raises Refusal."""
    if not args.upload:
        return args.bundle
    return Uploads(context.settings.state_path / "uploads").take(context.uid, args.upload)


class Operations:
    """The handlers for one shop."""

    def __init__(self, shop: Shop, machine: Machine, entitlements: Entitlements, watching: Watching) -> None:
        self.shop = shop
        self.watching = watching
        self.reviewing = Reviewing(shop, machine)
        self.entitlements = entitlements
        self.lasting = Lasting(shop, {"billing.report": self._report, "billing.close": self._close},
                               {"billing.close": self._closed})

    def handlers(self) -> dict[str, Handler]:
        """name → handler, one for each operation of ``arguments.OPERATIONS``."""
        review = self.reviewing
        return {
            "market.submit": lambda context, args: review.submit(
                context, Path(args.path) if args.path else None, _given(context, args), args.submitter, args.contact,
                args.response_hours),
            "market.status": lambda _context, args: review.status(args.submission, args.plugin),
            "market.read": lambda _context, args: review.read(args.submission),
            "market.review": lambda _context, args: review.claim(args.submission, args.reviewer),
            "market.source": self.source, "market.comment": self.comment, "market.mine": self.mine,
            "market.figures": lambda _context, args: self.shop.read(
                lambda db: author_figures(db, args.submitter, args.plugin)),
            "market.approve": lambda context, args: review.decide(
                context, "approved", args.submission, args.reviewer, args.reason, args.digest, args.checklist,
                args.statement, args.signature),
            "market.reject": lambda context, args: review.decide(
                context, "changes_requested" if args.changes else "rejected", args.submission, args.reviewer,
                args.reason, args.digest, args.checklist, args.statement, args.signature),
            "market.publish": self.publish,
            "market.halt": lambda context, args: stages.shown(self.watching.halt(
                context, args.plugin, args.version, args.reason, args.actor)),
            "market.resume": lambda context, args: stages.shown(self.watching.resume(
                context, args.plugin, args.version, args.reason, args.actor)),
            "market.revoke": lambda context, args: review.revoke(
                context, args.plugin, args.version, args.actor, args.reason, args.deprecate),
            "market.search": self.search, "market.show": self.show, "market.picture": self.picture,
            "market.index": self.index,
            "market.buy": self.buy, "market.entitle": self.entitle, "market.refund": self.refund,
            "market.customer": self.customer,
            "market.clock": self.clock,
            "market.ticket.open": self.open_ticket, "market.ticket.respond": self.respond,
            "market.ticket.close": self.close_ticket, "market.ticket.list": self.tickets,
            "market.ticket.find": self.find_tickets, "market.ticket.show": self.show_ticket,
            "billing.months": self.months, "billing.page": self.billing_page, "billing.csv": self.billing_csv,
            "market.report": self.report, "billing.report": self.billing_report,
            "billing.enterprise": self.enterprise, "billing.close": self.billing_close,
            "billing.status": lambda _context, args: self.lasting.status(args.operation),
        }

    # ------------------------------------------------------------------ review
    def source(self, _context: Context, args: Source) -> Any:
        """See ``source.file`` and ``source.files``."""
        if args.file:
            return source.file(self.shop, args.submission, args.file, args.base)
        return source.files(self.shop, args.submission, args.base)

    def comment(self, context: Context, args: Comment) -> Any:
        """See ``comments.add``. Returns all comments on the submission."""
        one = self.shop.read(lambda db: subs.get(db, args.submission))
        lines = source.lines_of(self.shop.kept(one)[0], args.file)

        def work(db: sa.Connection, now_ns: int) -> Any:
            comments.add(db, now_ns, args.submission, lines, path=args.file, line=args.line, text=args.text,
                         reviewer=args.reviewer, uid=context.uid)
            return {"submission": args.submission, "comments": comments.every(db, args.submission)}

        return self.shop.change(work)

    def mine(self, _context: Context, args: Mine) -> Any:
        """See ``authors.mine``."""
        now_ns = self.shop.now_ns()
        return self.shop.read(lambda db: authors.mine(db, now_ns, args.submitter))

    # ------------------------------------------------------------------ offers
    def search(self, _context: Context, args: Search) -> Any:
        """The offers of this marketplace that contain every word."""
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
            percents = {release.digest: release.percent for release in stages.every(db)}
            entry = self.shop.entry(db, offer)
            return {**self.shop.about(offer), "id": offer.plugin, "name": entry.name, "permissions": entry.permissions,
                    "publishedNs": entry.published_ns,
                    "version": offer.version, "digest": offer.digest, "author": offer.author,
                    "state": offer.state, "prices": prices, "contact": offer.contact,
                    "responseHours": offer.sla_hours, "coverage": found.get("coverage", ""),
                    "versions": [{"version": one.version, "state": one.state,
                                  "percent": percents.get(one.digest, 100)}
                                 for one in subs.offered(db, args.plugin)]}

        return self.shop.read(work)

    def picture(self, _context: Context, args: Picture) -> Any:
        """See ``pictures.shown_picture``. Raises Refusal: plugin_unknown, no_picture, digest_changed."""
        offer = self.shop.read(lambda db: subs.listing(db, args.plugin))
        if offer is None:
            raise Refusal("plugin_unknown", f"the marketplace has no {args.plugin[:60]!r}", code=Code.NOT_FOUND)
        bundle, _ = self.shop.kept(offer)
        return shown_picture(bundle.manifest, bundle.files, args.number)

    def index(self, context: Context, args: Fetched) -> Any:
        """The content of a fetched index, once it was accepted: one entry and the place of its bundle, or the result of
        a search."""
        now_ns = self.shop.now_ns()
        keys = context.store.transact(lambda db: registry.market_keys(db, now_ns))
        index: Index = self.shop.take_index(args.place, args.index, keys)
        customer = self.shop.customer
        if not args.plugin:
            return [public_facts(entry) for entry in search(index, args.words, customer)]
        entry = find(index, args.plugin, args.version, customer)
        return {**public_facts(entry), "path": entry.path, "size": entry.size, "sha256": entry.sha256}

    def publish(self, context: Context, args: Publish) -> Any:
        """See ``Reviewing.publish``. A price that begins with this publication applies at once. A release in stages
        goes on only if its failures so far are known, and are not too many."""
        if args.submission:
            self.watching.check_known(context, args.submission)
        done = self.reviewing.publish(args.submission, args.publisher, context.uid, args.percent)
        self.entitlements.settle(context)
        return done

    # ------------------------------------------------------------------ money
    def buy(self, context: Context, args: Buy) -> Any:
        """See ``sales.buy``. A user who has paid is served at once."""
        def work(db: sa.Connection, now_ns: int) -> Any:
            return _plain(sales.buy(db, now_ns, plugin=args.plugin, user_id=args.user_id, key=args.key,
                                    customer=args.customer))

        done = self.shop.change(work)
        self.entitlements.settle(context)
        return done

    def entitle(self, _context: Context, args: Entitle) -> Any:
        """An entitlement for another daemon, signed with the market key. Raises Refusal: plugin_unknown, and
        ``new_grant``'s."""
        if self.shop.read(lambda db: subs.listing(db, args.plugin)) is None:
            raise Refusal("plugin_unknown", f"the marketplace has no {args.plugin[:60]!r}", code=Code.NOT_FOUND)
        grant = new_grant(args.plugin, args.users, args.customer, self.shop.now_ns(), args.until)
        return {"entitlement": seal(grant, self.shop.key()), "plugin": grant.plugin, "users": grant.users,
                "customer": grant.customer, "endsNs": grant.ends_ns}

    def refund(self, context: Context, args: Refund) -> Any:
        """See ``sales.refund``. The entitlement ends at once."""
        done = self.shop.change(lambda db, now_ns: _plain(sales.refund(
            db, now_ns, purchase=args.purchase, key=args.key, reason=args.reason)))
        self.entitlements.settle(context)
        return done

    def enterprise(self, _context: Context, args: Enterprise) -> Any:
        """See ``contracts.order``."""
        return self.shop.change(lambda db, now_ns: _plain(contracts.order(
            db, now_ns, customer=args.customer, title=args.title, cost=args.cost, currency=args.currency,
            key=args.key)))

    def customer(self, _context: Context, args: Customer) -> Any:
        """Sets who pays for a user, with a date."""
        self.shop.change(lambda db, now_ns: sales.set_customer(
            db, now_ns, sales.check_user(args.user_id), args.customer))
        return {"userId": args.user_id.lower(), "customer": sales.check_customer(args.customer)}

    def clock(self, context: Context, args: Clock) -> Any:
        """Shows how far this machine's clock is behind the store's. With ``accept``, the store continues from this
        clock.

        Whatever was dated in the future that never came is dated now. Months that were closed in that future stay
        closed.
        """
        now_ns = self.shop.now_ns()
        last_ns = self.shop.read(clock_of)
        behind_ns = max(0, last_ns - now_ns)
        dated = 0
        if args.accept and behind_ns:
            if not args.reason.strip():
                raise Refusal("reason_missing", "accepting another clock needs a reason", code=Code.INVALID_INPUT,
                              hint="say why with --reason")

            def work(db: sa.Connection) -> int:
                return sales.date_anew(db, now_ns) + set_clock_back(db, now_ns)

            dated = self.shop.read(work)
            self.entitlements.settle(context)
        return {"nowNs": now_ns, "lastNs": last_ns, "behindSeconds": behind_ns / 1e9,
                "accepted": bool(args.accept and behind_ns), "datedAnew": dated}

    # ------------------------------------------------------------------ support
    def open_ticket(self, _context: Context, args: OpenTicket) -> Any:
        """See ``support.open_ticket``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.open_ticket(
            db, now_ns, args.plugin, args.user_id, args.subject), now_ns))

    def respond(self, _context: Context, args: AnswerTicket) -> Any:
        """See ``support.respond``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.respond(
            db, now_ns, args.ticket, args.responder, args.text), now_ns))

    def close_ticket(self, _context: Context, args: Ticket) -> Any:
        """See ``support.close``."""
        return self.shop.change(lambda db, now_ns: self._ticket(support.close(db, now_ns, args.ticket), now_ns))

    def tickets(self, _context: Context, args: Which) -> Any:
        """Every ticket, newest last, each with whether it is breached."""
        now_ns = self.shop.now_ns()
        return self.shop.read(lambda db: [self._ticket(one, now_ns) for one in support.every(db, args.plugin)])

    def find_tickets(self, _context: Context, args: FindTickets) -> Any:
        """See ``support.find``."""
        now_ns = self.shop.now_ns()

        def work(db: sa.Connection) -> Any:
            found = support.find(db, now_ns, args.plugin, args.state, args.offset, args.limit)
            return {**found, "tickets": [self._ticket(one, now_ns) for one in found["tickets"]], "nowNs": now_ns}

        return self.shop.read(work)

    def show_ticket(self, _context: Context, args: Ticket) -> Any:
        """A ticket with its answers. Raises Refusal("ticket_unknown")."""
        now_ns = self.shop.now_ns()
        return self.shop.read(lambda db: {**self._ticket(support.get(db, args.ticket), now_ns), "nowNs": now_ns,
                                          "answers": support.answers_of(db, args.ticket)})

    @staticmethod
    def _ticket(ticket: support.Ticket, now_ns: int) -> Any:
        return {**_plain(ticket), "breached": support.breached(ticket, now_ns),
                "dueNs": ticket.opened_ns + support.RESPONSE_NS if ticket.paid else None}

    # ------------------------------------------------------------------ reports
    def report(self, context: Context, _args: NoArgs) -> Any:
        """See ``reports.market_report``."""
        now_ns = self.shop.now_ns()
        enabled = context.store.transact(registry.enabled_for)
        return self.shop.read(lambda db: reports.market_report(db, now_ns, enabled))

    def billing_report(self, context: Context, args: Month) -> Any:
        """A statement; the platform's includes the month's usage. The store has that of a closed month; for an open
        month we read a month of the ledger (see ``Lasting.ask``)."""
        if self.shop.read(lambda db: invoices.month_is_closed(db, args.month)):
            return self._closed(args)
        return self.lasting.ask(context, "billing.report", args)

    def months(self, _context: Context, _args: NoArgs) -> Any:
        """See ``pages.months``."""
        return self.shop.read(lambda db: pages.months(db, self.shop.now_ns() // NS))

    def billing_page(self, context: Context, args: MonthPage) -> Any:
        """See ``pages.page``; as ``billing_report`` while the statement is being computed."""
        found = self._statement_for_pages(context, _month(args))
        return found if "operation" in found else pages.page(found, args.offset, args.limit)

    def billing_csv(self, context: Context, args: Month) -> Any:
        """See ``statements.to_csv``; as ``billing_report`` while the statement is being computed."""
        found = self._statement_for_pages(context, args)
        if "operation" in found:
            return found
        text = to_csv(found)
        if len(text) > pages.CSV_CHARS_MAX:
            raise Refusal("csv_too_long", f"the statement of {args.month} has {len(found['lines']):,} lines, which is "
                          "more than one answer holds", code=Code.CONFLICT,
                          hint=f"apex-exec billing report --month {args.month} --csv writes all of them")
        return {"month": args.month, "csv": text}

    def _statement_for_pages(self, context: Context, args: Month) -> Any:
        """As ``billing_report``; that of an open month may be PAGES_SECONDS_MAX old."""
        kept = self.lasting.kept("billing.report", args, PAGES_SECONDS_MAX)
        if kept is not None and not self.shop.read(lambda db: invoices.month_is_closed(db, args.month)):
            return kept
        return self.billing_report(context, args)

    def billing_close(self, context: Context, args: Close) -> Any:
        """Closes a month; its lines and usage are stored for good (see ``Lasting.ask``).

        Whether the month may be closed is checked first, so that a repeated request after the closing is answered at
        once.
        """
        if args.without and not args.reason.strip():
            raise Refusal("reason_missing", "to close a month without a ledger needs a reason", code=Code.INVALID_INPUT,
                          hint="say why with --reason")

        def check() -> None:
            self.shop.read(lambda db: invoices.check_closable(db, self.shop.now_ns(), args.month))

        return self.lasting.ask(context, "billing.close", Close(
            month=args.month, without=sorted(set(args.without)), reason=args.reason), check)

    def _closed(self, args: Month) -> Any:
        """The statement of a closed month."""
        usage = self.shop.read(lambda db: invoices.closed_usage(db, args.month))
        lines = self.shop.read(lambda db: invoices.closed_lines(db, args.month))
        return _statement(lines, args, True, usage)

    def _report(self, running: Running) -> Any:
        args = running.args
        usage = self.shop.usage(args.month, running.progress)
        hosted = self.shop.hosted(running.context, args.month, usage)
        closed, lines = self.shop.read(lambda db: invoices.month_lines(db, args.month, hosted))
        return _statement(lines, args, closed, usage)

    def _close(self, running: Running) -> Any:
        """Closes the month, unless the ledger was tampered with."""
        month, without = running.args.month, running.args.without if isinstance(running.args, Close) else []
        self.shop.check_ledger(running.progress)
        left: list[str] = []
        if self.shop.is_shared:
            if without:
                left = self.shop.change(lambda db, now_ns: chains.leave(db, without, now_ns))
            self.shop.wait_for_chains(month, running.progress)
        usage = self.shop.usage(month, running.progress)
        hosted = self.shop.hosted(running.context, month, usage)
        running.progress.begin("writing", 0)

        def work(db: sa.Connection, now_ns: int) -> Any:
            if self.shop.is_shared:
                chains.check_covered(db, month)
                if chains.usage_of(db, month) != usage:
                    raise Refusal("changed_meanwhile", f"more of {month} has arrived meanwhile", code=Code.CONFLICT,
                                  hint="request it again")
            done = _statement(invoices.close_month(db, now_ns, month, hosted, usage), running.args, True, usage)
            running.commit(db, now_ns)
            return done

        done = self.shop.change(work)
        running.context.at_point("month-closed")
        self.shop.forget_plain_names(month)
        running.context.audit("daemon", "billing.close.committed", {
            "operation": running.id, "month": month, "askedBy": running.context.uid,
            **({"without": left, "reason": running.args.reason} if isinstance(running.args, Close) and left else {})})
        return done


def _statement(lines: list[Line], args: Month, closed: bool, usage: dict[Key, Usage]) -> Any:
    shown = None if args.author or args.customer else usage
    return statement(lines, args.month, closed, args.author, sales.one_spelling(args.customer), shown)


def _month(args: MonthPage) -> Month:
    """What a page is part of: equal months are one operation, whichever page asks."""
    return Month(month=args.month, author=args.author, customer=args.customer)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
