"""The arguments of the marketplace's operations, and a sentence on what each operation does.

The supervisor checks the arguments before it passes an operation on, and knows nothing else about the market. This
module imports no database code, so that the supervisor does not have to load it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from apex_exec.common.operations import NoArgs, Operation


class _Args(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The base of all argument types: an unknown key is refused."""


class Submit(_Args):
    """A folder or ``.apx`` on the daemon's machine, or the bytes of an ``.apx``, or the SHA-256 of an ``upload``;
    contact and hours are for paid plugins."""

    submitter: str
    path: str = ""
    bundle: bytes = b""
    upload: str = ""
    contact: str = ""
    response_hours: int = 0


class Which(_Args):
    """A submission by its number, or a plugin's latest submission; without either, the queue."""

    submission: int = 0
    plugin: str = ""


class Claim(_Args):
    """A reviewer takes a submission; without one, the queue."""

    reviewer: str = ""
    submission: int = 0


class Read(_Args):
    """A submission whose bytes a reviewer wants to read."""

    submission: int


class Decide(_Args):
    """A reviewer's decision. ``digest`` names the reviewed bytes, as returned by ``market.review``; ``statement`` and
    ``signature`` are the decision signed with an approver's key (``reviewers.py``)."""

    submission: int
    reviewer: str
    reason: str
    digest: str
    checklist: list[str] = []
    changes: bool = False
    statement: str = ""
    signature: str = ""


class Source(_Args):
    """The files of a submission, or with ``file`` one of them; beside that of ``base``, another submission of the same
    plugin (0: the latest one that was approved before; -1: none)."""

    submission: int
    file: str = ""
    base: int = 0


class Comment(_Args):
    """What a reviewer says to the author about a line of a submission; ``line`` 0 is the file as a whole."""

    submission: int
    reviewer: str
    file: str
    text: str
    line: int = 0


class Mine(_Args):
    """The submissions of an author, by the name that submitted them or that the manifest gives."""

    submitter: str


class AuthorFigures(_Args):
    """How the plugins of an author do, by the name that submitted them or that the manifest gives; or one of them."""

    submitter: str
    plugin: str = ""


class Publish(_Args):
    """Publishes an approved submission; 0 only signs the index anew. With ``percent``, 1 to 100, it is offered to that
    share of the customers, or a release that is in stages goes on to that share; 0 is everybody at once."""

    submission: int = 0
    publisher: str = ""
    percent: Annotated[int, Meta(ge=0, le=100)] = 0


class Halt(_Args):
    """Halts a release that goes out in stages, or lets one go on that was halted; without ``version`` the latest."""

    plugin: str
    reason: str
    actor: str
    version: str = ""


class Revoke(_Args):
    """Takes a version, or all of them, off the market; ``deprecate`` only stops new sales."""

    plugin: str
    reason: str
    actor: str
    version: str = ""
    deprecate: bool = False


class Search(_Args):
    """Words that id, name or author must contain."""

    words: str = ""


class Plugin(_Args):
    """One plugin."""

    plugin: str


class Picture(_Args):
    """One plugin, and which of its pictures is meant: 0 is the icon, 1 the first screenshot."""

    plugin: str
    number: Annotated[int, Meta(ge=0, le=100)] = 0


class Buy(_Args):
    """A purchase, or one more period of a running subscription. The same ``key`` buys only once."""

    plugin: str
    user_id: str
    key: str
    customer: str = ""


class Entitle(_Args):
    """A signed entitlement to a plugin, for these users or for everybody at one customer, until a moment (ISO 8601)."""

    plugin: str
    until: str
    users: list[str] = []
    customer: str = ""


class Refund(_Args):
    """Reverses a purchase. The same ``key`` refunds only once."""

    purchase: str
    key: str
    reason: str


class Customer(_Args):
    """Sets who pays for a user from now on."""

    user_id: str
    customer: str


class Clock(_Args):
    """The clock of the market's store. ``accept`` says that this machine's clock is right, and the store's was ahead.
    """

    accept: bool = False
    reason: str = ""


class OpenTicket(_Args):
    """A user asks for support."""

    plugin: str
    user_id: str
    subject: str


class AnswerTicket(_Args):
    """The author's side answers a ticket; ``text`` is the answer, if the store is to keep it."""

    ticket: int
    responder: str
    text: str = ""


class Ticket(_Args):
    """One ticket."""

    ticket: int


class FindTickets(_Args):
    """One page of the tickets: of one plugin or all. ``state`` is "open" (nobody has closed it), "waiting" (nobody has
    answered), "near" (a breach is less than four hours away), "breached", or "" for any. ``limit`` is at most 200."""

    plugin: str = ""
    state: str = ""
    offset: int = 0
    limit: int = 50


class Month(_Args):
    """A month's statement: the platform's, or that of one author or customer."""

    month: str
    author: str = ""
    customer: str = ""


class MonthPage(Month):
    """A part of a month's statement: lines from ``offset`` on, at most ``limit`` (up to 2,000) of them."""

    offset: int = 0
    limit: int = 100


class Close(Month):
    """A month to be closed, and the chains of ledgers that are lost: it is closed ``without`` them, for a reason."""

    without: list[str] = []
    reason: str = ""


class OperationArgs(_Args):
    """An operation by the id that it was answered with; without one, the latest operations."""

    operation: str = ""


class Fetched(_Args):
    """An index that was fetched from ``place``; ``plugin`` (and ``version``) to look up, or words to search for."""

    place: str
    index: bytes
    plugin: str = ""
    version: str = ""
    words: str = ""


class Enterprise(_Args):
    """Custom development for a customer; ``cost`` is in minor units. The same ``key`` books only once."""

    customer: str
    title: str
    cost: int
    key: str
    currency: str = "USD"


OPERATIONS = (
    Operation("market.submit", Submit,
              "Submits a bundle, runs the machine's checks and returns the findings.", lane="submissions"),
    Operation("market.status", Which,
              "Shows a submission with its moves, findings and place in the queue; or the queue."),
    Operation("market.read", Read, "Returns a submission's bundle, and that of the version published before it."),
    Operation("market.review", Claim, "Takes a submission for review and shows what to check; or the queue."),
    Operation("market.source", Source,
              "Shows the files of a submission, or one of them with findings, coverage and an earlier version.",
              lane="slow"),
    Operation("market.comment", Comment, "Says something to the author about a line of a submission."),
    Operation("market.mine", Mine, "Shows an author's submissions, plugins, sales and open tickets."),
    Operation("market.figures", AuthorFigures,
              "Shows an author by version how a plugin does: installs, calls, failures and where, times."),
    Operation("market.approve", Decide, "Approves exactly these bytes, with every item of the checklist."),
    Operation("market.reject", Decide, "Rejects a submission; with `changes`, requests changes."),
    Operation("market.publish", Publish,
              "Counter-signs an approved bundle, writes it and the signed index.", lane="slow"),
    Operation("market.revoke", Revoke,
              "Takes a plugin off the market and stops it where it is installed; or deprecates it."),
    Operation("market.halt", Halt, "Halts a release that goes out in stages: it is offered to nobody."),
    Operation("market.resume", Halt, "Lets a halted release go on at the share that it had reached."),
    Operation("market.search", Search, "Searches the offers of this marketplace."),
    Operation("market.show", Plugin, "Shows one plugin on offer: versions, price and price history."),
    Operation("market.picture", Picture, "The icon or a screenshot of a plugin on offer, as bytes."),
    Operation("market.index", Fetched,
              "Checks a fetched index (signature, version, expiry) and looks things up in it."),
    Operation("market.buy", Buy, "Buys a plugin for a user, or one more period."),
    Operation("market.entitle", Entitle, "Signs an entitlement for a customer's own daemon."),
    Operation("market.refund", Refund, "Reverses a purchase to the cent and ends its entitlement."),
    Operation("market.customer", Customer, "Sets who pays for a user."),
    Operation("market.clock", Clock,
              "Shows how far this clock is behind the store's latest change; `accept` continues from it."),
    Operation("market.ticket.open", OpenTicket, "Opens a support ticket; its clock starts."),
    Operation("market.ticket.respond", AnswerTicket, "Records the first response."),
    Operation("market.ticket.close", Ticket, "Closes a ticket."),
    Operation("market.ticket.list", Which, "Lists the tickets of one plugin or all."),
    Operation("market.ticket.find", FindTickets, "Shows one page of the tickets, the most urgent first."),
    Operation("market.ticket.show", Ticket, "Shows a ticket with its answers."),
    Operation("market.report", NoArgs,
              "Shows per plugin: revenue, active installs, coverage, support and review times.", lane="slow"),
    Operation("billing.report", Month,
              "Shows a month's statement of the platform, an author or a customer.", lane="billing"),
    Operation("billing.months", NoArgs, "Lists the closed months with their totals, and the month to close next.",
              lane="billing"),
    Operation("billing.page", MonthPage, "Shows a part of a month's statement, with its totals and largest parties.",
              lane="billing"),
    Operation("billing.csv", Month, "Returns a month's statement as CSV.", lane="billing"),
    Operation("billing.enterprise", Enterprise, "Books custom development for a customer at cost / (1 - 0.5)."),
    Operation("billing.close", Close, "Closes a month: its lines are never changed again.", lane="billing"),
    Operation("billing.status", OperationArgs,
              "Shows progress and outcome of a report or closing by its id; or the latest ones.",
              lane="billing"),
)
"""Every operation of the marketplace. Its handlers are in ``operations``."""
