"""The arguments of what the registrar does for the ledger and the plugins' logs. No database code: the supervisor loads
this."""

from __future__ import annotations

import msgspec

from apex_exec.common.operations import Operation


class AcceptArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Why we go on with the ledger that is there."""

    reason: str


class EventsArgs(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Which events: of one plugin (its resource), user, type or result; or with ``text`` somewhere in their text.

    Without ``before`` the latest ones, otherwise those before that sequence number; with ``after`` those after it.
    ``looks`` includes the records of operations that change nothing. ``limit`` is at most 200.
    """

    plugin: str = ""
    user: str = ""
    type: str = ""
    result: str = ""
    text: str = ""
    before: int = 0
    after: int = 0
    looks: bool = False
    limit: int = 50


class AuditFilter(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which events, as in ``audit.events``; an empty member selects all."""

    plugin: str = ""
    user: str = ""
    type: str = ""
    result: str = ""
    text: str = ""
    looks: bool = False


class ReadArgs(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Events after the sequence number ``afterSeq``, oldest first: at most ``limit`` (1 to 200) that pass ``filter``.
    """

    after_seq: int = 0
    limit: int = 100
    filter: AuditFilter = AuditFilter()


class VerifyArgs(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a walk along the chain is started, unless one is under way; otherwise the latest one is only shown."""

    start: bool = True


class LogsArgs(msgspec.Struct, forbid_unknown_fields=True):
    """A plugin, and how many of its latest lines: at most 500."""

    id: str
    lines: int = 100


class EraseArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which user is to be forgotten, and why; the record has the reason alone."""

    user: str
    reason: str


OPERATIONS = (
    Operation("audit.erase", EraseArgs, "Erases a person: the ledger's key, storage, enablements, the market's rows.",
              lane="slow", unrecorded=("user",)),
    Operation("audit.accept", AcceptArgs, "Goes on with the ledger that is there, although another one was noted."),
    Operation("audit.events", EventsArgs, "Shows events of the ledger, newest first, a page at a time.", lane="ledger"),
    Operation("audit.read", ReadArgs,
              "Follows the ledger: events after a sequence number, oldest first, and the number to go on from.",
              lane="ledger"),
    Operation("audit.verify", VerifyArgs,
              "Walks the whole chain in the background; shows how far it is and what it found.", lane="ledger"),
    Operation("plugin.logs", LogsArgs, "Shows the latest lines of a plugin's log.", lane="ledger"),
)
