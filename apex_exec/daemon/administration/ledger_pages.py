"""The registrar's answers about the ledger and the plugins' logs: a page of events, a walk along the chain, last lines.

They run in a lane of their own, so that no administrator's order waits for somebody who reads, and need no open
registry: who looks for what is wrong can look while it is opened, or cannot be.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.config import Settings
from apex_exec.daemon.administration.ledger_arguments import AuditFilter, EventsArgs, LogsArgs, ReadArgs, VerifyArgs
from apex_exec.daemon.administration.role_table import READING
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.audit import database_path
from apex_exec.ledger.people import Names
from apex_exec.ledger.reading import Event, ends_of, open_readonly
from apex_exec.ledger.records import EVENT_TYPES, LedgerError
from apex_exec.ledger.verify import Verified, verify
from apex_exec.observe import log_files
from apex_exec.registry.bundles.manifest import is_plugin_id
from apex_exec.registry.database import transact
from apex_exec.registry.trust import heads

EVENTS_MAX = 200
LOOKED_AT_MAX = 100_000
"""How many events one request looks at: a sixth of a second. The answer says where to go on."""
STEP = 2_000
LIKES, ESCAPED = re.compile("[%_!]"), r"!\g<0>"
"""What LIKE would take for any text, and how it is written to stand for itself."""
LINES_MAX = 500
log = logging.getLogger(__name__)


def events(settings: Settings, args: EventsArgs) -> dict[str, Any]:
    """``events`` newest first, and ``next``: what ``before`` has to be for older ones, 0 if there are none. Raises
    Refusal."""
    if not 1 <= args.limit <= EVENTS_MAX or args.before < 0 or args.after < 0:
        raise Refusal("bad_page", f"`limit` must be 1 to {EVENTS_MAX}, and `before` and `after` sequence numbers",
                      code=Code.INVALID_INPUT, hint="pass the value of `next` from the previous page")
    _check_type(args.type)
    with _readable():
        return _page(_ledger(settings), args)


def read(settings: Settings, args: ReadArgs) -> dict[str, Any]:
    """``events`` oldest first, and ``next``: the ``afterSeq`` of the next question, which goes on where this one has
    stopped, whether it found anything or not. ``first`` and ``last`` are the ledger's ends: if ``first`` is above
    ``afterSeq + 1``, the events between were removed when their time was over. Raises Refusal."""
    if not 1 <= args.limit <= EVENTS_MAX or args.after_seq < 0:
        raise Refusal("bad_page", f"`limit` must be 1 to {EVENTS_MAX}, and `afterSeq` a sequence number",
                      code=Code.INVALID_INPUT, hint="pass the value of `next` from the previous answer")
    _check_type(args.filter.type)
    with _readable():
        return _read(_ledger(settings), args)


def _check_type(type_: str) -> None:
    if type_ and type_ not in EVENT_TYPES:
        raise Refusal("bad_type", f"{type_[:40]!a} is not a type of event", code=Code.INVALID_INPUT,
                      hint=f"the types are {', '.join(EVENT_TYPES)}")


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (LedgerError, sqlite3.Error) as error:
        raise Refusal("ledger_unreadable", f"the ledger cannot be read: {error}",
                      hint="`apex-exec audit verify` says what is wrong with it") from error


def _ledger(settings: Settings) -> Path:
    return database_path(settings.audit.url, settings.state_path)


def _page(database: Path, args: EventsArgs) -> dict[str, Any]:
    found: list[Event] = []
    with closing(open_readonly(database)) as db, closing(Names(database)) as names:
        condition, words = _condition(args, names)
        first, last = ends_of(db)
        high = min(last, args.before - 1) if args.before else last
        lowest = max(first, args.after + 1, high - LOOKED_AT_MAX + 1)
        while high >= lowest and len(found) < args.limit:
            low = max(lowest, high - STEP + 1)
            for (body,) in db.execute(f"SELECT body FROM events WHERE seq BETWEEN ? AND ?{condition} ORDER BY seq DESC",
                                      (low, high, *words)):
                event = _event(body)
                event.user_id = names.name(event.user_id)
                if _fits(event, args):
                    found.append(event)
                    if len(found) == args.limit:
                        low = event.seq
                        break
            high = low - 1
    return {"events": [msgspec.to_builtins(event) for event in found], "last": last,
            "next": high + 1 if high >= max(first, args.after + 1) else 0}


def _read(database: Path, args: ReadArgs) -> dict[str, Any]:
    found: list[Event] = []
    with closing(open_readonly(database)) as db, closing(Names(database)) as names:
        condition, words = _condition(args.filter, names)
        first, last = ends_of(db)
        read_to = max(min(args.after_seq, last), first - 1)
        end = min(last, read_to + LOOKED_AT_MAX)
        while read_to < end and len(found) < args.limit:
            step_end = min(read_to + STEP, end)
            for (body,) in db.execute(f"SELECT body FROM events WHERE seq BETWEEN ? AND ?{condition} ORDER BY seq",
                                      (read_to + 1, step_end, *words)):
                event = _event(body)
                event.user_id = names.name(event.user_id)
                if _fits(event, args.filter):
                    found.append(event)
                    if len(found) == args.limit:
                        step_end = event.seq
                        break
            read_to = step_end
    return {"events": [msgspec.to_builtins(event) for event in found], "next": read_to, "first": first, "last": last}


def _condition(args: EventsArgs | AuditFilter, names: Names) -> tuple[str, list[str]]:
    """What SQLite looks for in an event's text, and its parameters. A user is there under a pseudonym, or under the id
    in events of before there were any."""
    groups = [[f'"{key}":{_as_json(value)}' for value in values] for key, values in (
        ("resource", [args.plugin]), ("userId", _spellings(args.user, names)), ("eventType", [args.type]),
        ("result", [args.result])) if any(values)]
    if args.text:
        groups.append([_as_json(text)[1:-1] for text in _spellings(args.text, names)])
    like = "body LIKE ? ESCAPE '!'"  # half the time of instr(), and takes a for A
    condition = "".join(f" AND ({' OR '.join([like] * len(texts))})" for texts in groups)
    return condition, [f"%{LIKES.sub(ESCAPED, text)}%" for texts in groups for text in texts]


def _spellings(user: str, names: Names) -> list[str]:
    """A user's id as events may have it; any other text is only itself."""
    pseudonym = names.pseudonym(user) if user else ""
    return [user, pseudonym] if pseudonym else [user]


def _as_json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _event(body: bytes) -> Event:
    try:
        return msgspec.json.decode(body, type=Event)
    except msgspec.DecodeError as error:
        raise LedgerError(str(error)) from None


def _fits(event: Event, args: EventsArgs | AuditFilter) -> bool:
    """SQLite has only looked for the words somewhere in the text: here each has to stand in its place."""
    return ((not args.plugin or event.resource == args.plugin) and (not args.user or event.user_id == args.user)
            and (not args.type or event.event_type == args.type) and (not args.result or event.result == args.result)
            and (args.looks or event.event_type != "admin.action" or event.action not in READING
                 or event.result != "success"))


class Verification:
    """The walk along the chain that runs, or the last one that did: one at a time, in a thread of its own.
    ``stores()`` are the databases that note the ledger's head; it raises Refusal while they are not open."""

    def __init__(self, stores: Callable[[], list[tuple[str, sa.Engine]]]) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._running = False
        self._walked = 0
        self._begun_ns = 0
        self._begun = self._ended = 0.0
        self._found: Verified | None = None
        self._trouble = ""

    def ask(self, settings: Settings, args: VerifyArgs) -> dict[str, Any]:
        """Starts a walk if that is asked for and none runs; shows the state. Raises Refusal."""
        with self._lock:
            if args.start and not self._running:
                stores = self._stores()
                self._running, self._walked, self._found, self._trouble = True, 0, None, ""
                self._begun, self._begun_ns = time.monotonic(), time.time_ns()
                threading.Thread(target=self._run, args=(settings, stores), name="registrar-verify",
                                 daemon=True).start()
            return self._state(settings)

    def _run(self, settings: Settings, stores: list[tuple[str, sa.Engine]]) -> None:
        try:
            state = settings.state_path
            elsewhere = {}
            for name, engine in stores:
                def noted(db: sa.Connection) -> Any:
                    return heads.noted(db, state)

                if (head := transact(engine, name, noted)) is not None:
                    elsewhere[f"the {name}"] = head
            self._found = verify(_ledger(settings), state, None, settings.audit.anchor, elsewhere, self._walk)
        except Exception as error:  # noqa: BLE001 - it ends this walk, not the process
            log.exception("the ledger could not be verified")
            self._trouble = f"{type(error).__name__}: {error}"[:500]
        finally:
            self._ended = time.monotonic()
            self._running = False

    def _walk(self, events: int) -> None:
        self._walked = events

    def _state(self, settings: Settings) -> dict[str, Any]:
        found, finding = self._found, self._found.finding if self._found is not None else None
        if not self._begun:
            return {"state": "none"}
        if self._running:
            return {"state": "running", "begunNs": self._begun_ns, "walked": self._walked, "of": _length(settings),
                    "seconds": time.monotonic() - self._begun}
        return {"state": "done", "begunNs": self._begun_ns, "seconds": self._ended - self._begun,
                "ok": found is not None and finding is None, "trouble": self._trouble,
                "first": found.first if found else 0, "last": found.last if found else 0,
                "head": f"{found.last}:{found.hash.hex()}" if found else "",
                "finding": None if finding is None else msgspec.to_builtins(finding)}


def _length(settings: Settings) -> int:
    try:
        with closing(open_readonly(_ledger(settings))) as db:
            first, last = ends_of(db)
            return int(last - first + 1)
    except (LedgerError, sqlite3.Error):
        return 0


def logs(settings: Settings, args: LogsArgs) -> dict[str, Any]:
    """The latest lines of one plugin, oldest first. Raises Refusal."""
    if not is_plugin_id(args.id) or not 1 <= args.lines <= LINES_MAX:
        raise Refusal("bad_arguments", f"give a plugin's id, and 1 to {LINES_MAX} as the number of lines",
                          code=Code.INVALID_INPUT,
                      hint="`apex-exec plugin list` shows the ids")
    try:
        lines = log_files.tail(settings.state_path / "logs", args.id, args.lines)
    except OSError as error:
        raise Refusal("log_unreadable", f"the log of {args.id} cannot be read: {error.strerror}",
                      hint="check the folder logs/ in the state folder") from None
    return {"id": args.id, "lines": lines}
