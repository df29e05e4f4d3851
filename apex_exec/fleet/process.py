"""The process that knows the members: it asks the engine, reads the book, checks signatures, and tells the loop.

It has what the supervisor must not load (database, cryptography, DNS), and is on the path of no call. If it dies or
nothing answers it, the members that the loop knows stay members, and the links say who is there.
"""

from __future__ import annotations

import logging
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq.auth

from apex_exec.errors import ApexError
from apex_exec.fleet.books import Book, book_of
from apex_exec.fleet.engines import Engine, engine_of
from apex_exec.fleet.engines.silence import EngineSilent
from apex_exec.fleet.messages import Roster
from apex_exec.fleet.statements import CURVE_KEY, ROLE, Statement, members, sign
from apex_exec.registry import store
from apex_exec.registry.database import open_database, transact
from apex_exec.registry.store import KeyRow
from apex_exec.registry.tables import SCHEMA, STORE
from apex_exec.registry.trust.signing import load_private
from apex_exec.wire.side_link import BlockingEnd

log = logging.getLogger("apex_exec")

LOOK_SECONDS = 0.5
"""How often all of it is looked at: a key that is revoked has its node refused within a second."""


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


def address_of(host: str) -> str:
    """The address of ``host``. Blocks. Raises OSError."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


class Looker:
    """One look at everything a time; what cannot be read now is as it was at the last look. Pure but for its parts."""

    def __init__(self, engine: Engine, book: Book, keys: Callable[[], dict[str, KeyRow]],
                 now_ns: Callable[[], int] = time.time_ns, resolve: Callable[[str], str] = address_of) -> None:
        self._resolve = resolve
        self._addresses: dict[str, str] = {}
        self._engine = engine
        self._book = book
        self._keys = keys
        self._now_ns = now_ns
        self._wanted: set[str] = set()
        self._statements: list[Statement] = []
        self._known: dict[str, KeyRow] = {}

    def look(self) -> Roster:
        """Who may be a member now. Blocks."""
        problems: list[str] = []
        try:
            self._wanted = self._engine.members()
        except EngineSilent as error:
            problems.append(str(error))
        try:
            self._statements = self._book.read()
        except (ApexError, OSError) as error:
            problems.append(f"the book cannot be read: {error}")
        try:
            self._known = self._keys()
        except (ApexError, OSError) as error:
            problems.append(f"the registered keys cannot be read: {error}")
        nodes, refused = members(self._statements, self._known, self._wanted, self._now_ns())
        there = []
        for node in nodes:
            try:
                there.append(msgspec.structs.replace(node, endpoint=self._numeric(node.endpoint)))
            except OSError as error:
                refused[node.name] = f"its address {node.endpoint} is not known: {error}"
        return Roster(there, refused, "; ".join(problems)[:500])

    def _numeric(self, endpoint: str) -> str:
        """``endpoint`` with an address in place of a name, which libzmq would look up in the thread that also answers
        heartbeats. A name that is not found now has the address that it had last. Blocks. Raises OSError."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        try:
            found = self._resolve(host.strip("[]"))
        except OSError:
            if host not in self._addresses:
                raise
            found = self._addresses[host]
        self._addresses[host] = found
        return f"tcp://[{found}]:{port}" if ":" in found else f"tcp://{found}:{port}"


def announce(book: Book, settings: dict[str, Any], curve: str, now_ns: int) -> None:
    """Signs this node's statement and publishes it, if the key for that is configured and the book says otherwise.
    Raises ConfigError or Refusal."""
    if not settings["signing_key"]:
        return
    wanted = Statement(settings["node"], settings["advertise"], curve, settings["capacity"], now_ns)
    for known in book.read():
        if (known.name, known.endpoint, known.curve, known.capacity) == (
                wanted.name, wanted.endpoint, wanted.curve, wanted.capacity):
            return
    book.publish(sign(load_private(Path(settings["signing_key"])), wanted))
    log.info("the node %s has published its statement", wanted.name)


def main(link: Any, settings: dict[str, Any]) -> None:
    """The process: looks, and tells what has changed, until the link's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fd = link.fileno()
    keys_dir = Path(settings["keys_dir"])
    book = book_of(settings["book"], settings["registry_url"], keys_dir)
    curve, _ = zmq.auth.load_certificate(keys_dir / CURVE_KEY)
    looker = Looker(engine_of(settings["engine"], settings["node"], settings["members"]), book,
                    RegisteredKeys(settings["registry_url"]).read)
    end = BlockingEnd(fd, ())
    told: Roster | None = None
    announced, said = False, ""
    while True:
        if not announced:
            try:
                announce(book, settings, curve.decode(), time.time_ns())
                announced = True
            except (ApexError, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    log.error("the node's statement could not be published: %s", error)
        found = looker.look()
        if told is None or msgspec.structs.asdict(found) != msgspec.structs.asdict(told):
            told = found
            end.send(found)
        if select.select([fd], [], [], LOOK_SECONDS)[0] and end.receive() is None:
            return


