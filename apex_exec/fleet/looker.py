"""One look at all that says who may be a member: the engine, the book, the registered keys, the nodes' addresses.

What cannot be read now is as it was when it was last read, after a restart too: the last answers are kept in a file
beside the node's own CURVE pair, whose reader could be the node anyway.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.common.files import replace_file
from apex_exec.fleet.books import Book
from apex_exec.fleet.engines import Engine
from apex_exec.fleet.latest import Latest
from apex_exec.fleet.messages import Node, Roster
from apex_exec.fleet.statements import ROLE, Statement, members, newest_of
from apex_exec.registry import store
from apex_exec.registry.database import open_database, transact
from apex_exec.registry.store import KeyRow
from apex_exec.registry.tables import SCHEMA, STORE

log = logging.getLogger("apex_exec")

WAIT_SECONDS = 1.0
"""How long one look waits for what may block. What answers later counts in the look after that."""
KNOWN = "members.known"
KNOWN_BYTES_MAX = 8 * 1024 * 1024


class RegisteredKeys:
    """The keys of the role ``node``, from the registry."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Any = None

    def read(self) -> dict[str, KeyRow]:
        """By id. Blocks. Raises Refusal."""
        if self._engine is None:
            self._engine = open_database(self._url, SCHEMA)
        rows = transact(self._engine, STORE, lambda db: store.list_keys(db, role=ROLE), reads=True)
        return {row.key_id: row for row in rows}


class Own(msgspec.Struct, frozen=True):
    """What this node is by its configuration, as its own statement should say it. ``curve`` is its public CURVE key."""

    name: str
    endpoint: str
    curve: str


class Known(msgspec.Struct):
    """The last answers, for a start at which nobody answers."""

    wanted: set[str] = set()
    statements: list[Statement] = []
    keys: dict[str, KeyRow] = {}


def address_of(host: str) -> str:
    """The address of ``host``. Blocks. Raises OSError."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except UnicodeError:  # an empty label, or one of more than 63 characters
        raise OSError("it is not a valid host name") from None


class Looker:
    """``file`` is where the last answers are kept, None if nowhere. ``own`` is this node, to see whether another one
    has its name. ``now_ns`` is the wall clock."""

    def __init__(self, engine: Engine, book: Book, keys: Callable[[], dict[str, KeyRow]],
                 now_ns: Callable[[], int] = time.time_ns, resolve: Callable[[str], str] = address_of, *,
                 file: Path | None = None, own: Own | None = None) -> None:
        self._resolve = resolve
        self._addresses: dict[str, Latest[str]] = {}
        self._file = file
        self._own = own
        known = self._kept = _read(file)
        self._engine = Latest("the engine", engine.members, known.wanted)
        self._book = Latest("the book", book.read, known.statements)
        self._keys = Latest("the registered keys", keys, known.keys)
        self._now_ns = now_ns

    def look(self) -> Roster:
        """Who may be a member now. Blocks for ``WAIT_SECONDS`` at most."""
        due = time.monotonic() + WAIT_SECONDS
        asked: list[Latest[Any]] = [self._engine, self._book, self._keys]
        for one in asked:
            one.begin()
        for one in asked:
            one.wait(due - time.monotonic())
        statements, keys = self._book.value, self._keys.value
        self._keep(Known(self._engine.value, statements, keys))
        nodes, refused = members(statements, keys, self._engine.value, self._now_ns())
        if self._keys.problem and not keys:  # none was ever read: it is not the statements' fault
            refused = dict.fromkeys(refused, self._keys.problem)
        there = self._with_addresses(nodes, refused, due)
        if self._own is not None and (why := self._taken(self._own)):
            refused[self._own.name] = why
        return Roster(there, refused, "; ".join(one.problem for one in asked if one.problem)[:500])

    def _taken(self, own: Own) -> str:
        """Why this node's name is another node's, by the newest statement of it; "" if it is not."""
        newest = newest_of(own.name, self._book.value, self._keys.value, self._now_ns())
        if newest is None or (newest.endpoint, newest.curve) == (own.endpoint, own.curve):
            return ""
        what = "address" if newest.curve == own.curve else "CURVE key"
        return (f"another node has this name, or this node has changed since: the newest statement of {own.name} has "
                f"another {what}, and the address {newest.endpoint}; set fleet.node to a name of its own, or make a "
                "new statement with `apex-exec fleet keys`")

    def _with_addresses(self, nodes: list[Node], refused: dict[str, str], due: float) -> list[Node]:
        """The nodes with an address in place of a name, which libzmq would look up in the thread that also answers
        heartbeats. A name that is not found now has the address that it had last."""
        hosts = {node.name: node.endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]") for node in nodes}
        for host in set(hosts.values()):
            self._addresses.setdefault(host, Latest(f"the address of {host}", _asks(self._resolve, host), "")).begin()
        for host in self._addresses.keys() - set(hosts.values()):
            del self._addresses[host]
        there = []
        for node in nodes:
            found = self._addresses[hosts[node.name]]
            found.wait(due - time.monotonic())
            if not found.value:
                refused[node.name] = f"{found.problem}; its statement has {node.endpoint}"
                continue
            port = node.endpoint.rpartition(":")[2]
            host = f"[{found.value}]" if ":" in found.value else found.value
            there.append(msgspec.structs.replace(node, endpoint=f"tcp://{host}:{port}"))
        return there

    def _keep(self, known: Known) -> None:
        if self._file is None or known == self._kept or not known.wanted:
            return
        self._kept = known
        try:
            replace_file(self._file, msgspec.json.encode(known), only_writer=True)
        except OSError as error:
            log.warning("the fleet's members could not be written to %s: %s", self._file, error.strerror)


def _asks(resolve: Callable[[str], str], host: str) -> Callable[[], str]:
    return lambda: resolve(host)


def _read(file: Path | None) -> Known:
    """What was kept; nothing if there is none, or if it cannot be read."""
    if file is not None:
        with contextlib.suppress(FileNotFoundError):
            try:
                with open(file, "rb") as kept:
                    return msgspec.json.decode(kept.read(KNOWN_BYTES_MAX), type=Known)
            except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                log.warning("the fleet's last members are not used, %s cannot be read: %s", file, error)
    return Known()
