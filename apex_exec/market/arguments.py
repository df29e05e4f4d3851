"""The arguments of the marketplace's operations, and what each operation does.

The supervisor checks arguments before it passes an operation on, and knows nothing else of the market. This module
imports no database code, so that the supervisor need not load it.
"""

from __future__ import annotations

import msgspec

from apex_exec.common.operations import NoArgs, Operation


class _Args(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Arguments: unknown names are errors."""


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


class Entitle(_Args):
    """A signed entitlement to a plugin, for these users or everybody at one customer, until a moment (ISO 8601)."""

    plugin: str
    until: str
    users: list[str] = []
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


class Clock(_Args):
    """The clock of the market's store; ``accept``: this machine's clock is right, and the store's was ahead."""

    accept: bool = False
    reason: str = ""


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


class OperationArgs(_Args):
    """An operation by the id that it was answered with; without one: the latest."""

    operation: str = ""


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


OPERATIONS = (
    Operation("market.submit", Submit,
              "Submits a bundle and runs the machine's checks; answers with what they found.", lane="submissions"),
    Operation("market.status", Which, "One submission with its moves, findings and place in the queue; or the queue."),
    Operation("market.review", Claim, "Takes a submission for review and shows what to look at; or the queue."),
    Operation("market.approve", Decide, "A reviewer's yes to exactly these bytes, with every item of the checklist."),
    Operation("market.reject", Decide, "A reviewer's no, or with `changes` a request for changes."),
    Operation("market.publish", Publish,
              "Counter-signs an approved bundle, writes it and the signed index.", lane="slow"),
    Operation("market.revoke", Revoke,
              "Takes a plugin off the market and stops it where it is installed; or deprecates it."),
    Operation("market.search", Search, "What is on offer here."),
    Operation("market.show", Plugin, "One plugin on offer here: versions, price and its history."),
    Operation("market.index", Fetched,
              "Checks an index fetched elsewhere: signature, version, expiry; looks things up in it."),
    Operation("market.buy", Buy, "Buys a plugin for a user, or one more period."),
    Operation("market.entitle", Entitle, "Signs an entitlement that a customer's own daemon takes."),
    Operation("market.refund", Refund, "Reverses a purchase to the cent and ends its entitlement."),
    Operation("market.customer", Customer, "Says who pays for a user."),
    Operation("market.clock", Clock,
              "How far this machine's clock is behind the store's latest change; `accept` goes on from it."),
    Operation("market.ticket.open", OpenTicket, "Opens a support ticket; its clock starts."),
    Operation("market.ticket.respond", AnswerTicket, "Records the first response."),
    Operation("market.ticket.close", Ticket, "Closes a ticket."),
    Operation("market.ticket.list", Which, "Tickets, of one plugin or all."),
    Operation("market.report", NoArgs,
              "Per plugin: revenue, active installs, coverage, support times, review times.", lane="slow"),
    Operation("billing.report", Month, "A month's statement of platform, author or customer.", lane="billing"),
    Operation("billing.enterprise", Enterprise, "Books custom development for a customer at cost / (1 - 0.5)."),
    Operation("billing.close", Month, "Closes a month: its lines are never changed again.", lane="billing"),
    Operation("billing.status", OperationArgs,
              "How far a report or a closing is that was answered with an id, and its outcome; or the latest.",
              lane="billing"),
)
"""Every operation of the marketplace. Its handlers are in ``operations``."""
