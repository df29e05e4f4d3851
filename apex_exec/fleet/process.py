"""The process that knows the members: it asks the engine, reads the book, checks signatures, and tells the loop.

It has what the supervisor must not load (database, cryptography, DNS), and is on the path of no call. If it dies or
nothing answers it, the members that the loop knows stay members, and the links say who is there.
"""

from __future__ import annotations

import logging
import select
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq.auth

from apex_exec.errors import ApexError
from apex_exec.fleet.books import Book, book_of
from apex_exec.fleet.engines import engine_of
from apex_exec.fleet.looker import KNOWN, Looker, Own, RegisteredKeys
from apex_exec.fleet.messages import Roster
from apex_exec.fleet.statements import CURVE_KEY, Statement, check_words, sign
from apex_exec.registry.trust.signing import load_private
from apex_exec.wire.side_link import BlockingEnd

log = logging.getLogger("apex_exec")

LOOK_SECONDS = 0.5
"""How often all of it is looked at: a key that is revoked has its node refused within a second."""
ANNOUNCE_SECONDS = 5.0
"""How long after a failure the node's own statement is published again."""


def announce(book: Book, settings: dict[str, Any], curve: str, now_ns: int) -> None:
    """Signs this node's statement and publishes it, if the key for that is configured and the book says otherwise.
    Raises ConfigError or Refusal."""
    if not settings["signing_key"]:
        return
    own = Statement(settings["node"], settings["advertise"], curve, settings["capacity"], now_ns)
    try:
        known = [statement for statement in book.read() if statement.name == own.name and not check_words(statement)]
    except FileNotFoundError:
        known = []  # a folder that is made with its first statement
    newest = max(known, key=lambda statement: statement.issued_ns, default=None)
    if newest is not None and (newest.endpoint, newest.curve, newest.capacity) == (
            own.endpoint, own.curve, own.capacity):
        return
    if newest is not None and newest.issued_ns >= now_ns:  # the clock was ahead then, or is behind now
        own = msgspec.structs.replace(own, issued_ns=newest.issued_ns + 1)
    book.publish(sign(load_private(Path(settings["signing_key"])), own))
    log.info("the node %s has published its statement", own.name)


def announce_until_done(book: Book, settings: dict[str, Any], curve: str) -> None:
    """``announce``, again for as long as it fails; blocks."""
    said = ""
    while True:
        try:
            announce(book, settings, curve, time.time_ns())
            return
        except (ApexError, OSError) as error:
            if str(error) != said:
                said = str(error)
                log.error("the node's statement could not be published: %s", error)
        time.sleep(ANNOUNCE_SECONDS)


def main(link: Any, settings: dict[str, Any]) -> None:
    """The process: looks, and tells what has changed, until the link's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fd = link.fileno()
    keys_dir = Path(settings["keys_dir"])
    book = book_of(settings["book"], settings["registry_url"], keys_dir)
    curve, _ = zmq.auth.load_certificate(keys_dir / CURVE_KEY)
    own = Own(settings["node"], settings["advertise"], curve.decode())
    looker = Looker(engine_of(settings["engine"], settings["node"], settings["members"], keys_dir), book,
                    RegisteredKeys(settings["registry_url"]).read, file=keys_dir / KNOWN, own=own)
    end = BlockingEnd(fd, ())
    threading.Thread(target=announce_until_done, args=(book_of(settings["book"], settings["registry_url"], keys_dir),
                                                       settings, own.curve), daemon=True).start()
    told: Roster | None = None
    while True:
        found = looker.look()
        if found != told:
            told = found
            end.send(found)
        if select.select([fd], [], [], LOOK_SECONDS)[0] and end.receive() is None:
            return
