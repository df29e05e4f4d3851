"""Walks the chain and reports the first thing that is wrong with it, and where. Reads only."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from apex_exec.ledger.checkpoints import ANCHOR, CHECKPOINT, HEAD, SignedHead, load_public_key, read_signed, read_tail
from apex_exec.ledger.clock_turns import TurnCheck
from apex_exec.ledger.people import PSEUDONYM, Names, people_path
from apex_exec.ledger.reading import open_readonly, read_rows
from apex_exec.ledger.records import GENESIS, LedgerError, chain_hash

_PSEUDONYM = b'"userId":"p-'
_ERASURE = b'"action":"audit.erase"'
SEEN_MAX = 100_000
"""Pseudonyms that are remembered as looked up, about ten megabytes."""
TELL_EVERY = 4096
"""How many events are checked between two reports of progress: a power of two."""


class Finding(msgspec.Struct, frozen=True):
    """What ``verify`` found: ``kind`` edited|missing|truncated|added|head|tail|unreadable|keys at ``seq``."""

    kind: str
    seq: int
    message: str


class Verified(msgspec.Struct, frozen=True):
    """How far the walk went: the ``first`` and ``last`` event, the last hash, and the first thing wrong (None:
    nothing)."""

    first: int
    last: int
    hash: bytes
    finding: Finding | None


def verify(database: Path, state_dir: Path, noted_head: tuple[int, bytes] | None = None, anchor: str = "",
           elsewhere: Mapping[str, tuple[int, bytes]] = MappingProxyType({}),
           walked: Callable[[int], None] | None = None) -> Verified:
    """Checks every event, the signed head and checkpoint, and the recorded lengths of the ledger: in its anchors, in
    ``noted_head`` (seq, hash), which somebody wrote down, and in other databases: ``elsewhere``, by their names.

    ``walked`` is called from time to time with the number of events checked so far. Memory use does not grow with the
    ledger; events that a running ledger adds meanwhile are checked, too.
    """
    while True:
        try:
            key = load_public_key(state_dir)
            check = read_signed(state_dir / CHECKPOINT, "checkpoint", key)
            anchors = [(path, read_signed(path, "anchor", key))
                       for path in (state_dir / ANCHOR, *([Path(anchor)] if anchor else []))]
            head = read_signed(state_dir / HEAD, "head", key)
        except LedgerError as error:
            return Verified(0, 0, GENESIS, Finding("head", 0, str(error)))
        recorded = {anchored.seq: (str(path), anchored.hash) for path, anchored in anchors if anchored is not None}
        recorded |= {seq: (name, digest) for name, (seq, digest) in elsewhere.items() if seq not in recorded}
        other = next((Finding("head", seq, f"{name} and {recorded[seq][0]} recorded different events")
                      for name, (seq, digest) in elsewhere.items() if recorded[seq][1] != digest), None)
        keys = _Keys(database)
        try:
            found = _walk(database, check, head, noted_head, key, recorded, keys.look, walked)
        finally:
            keys.close()
        if found.finding is None and (missing := keys.finding()) is not None:
            return msgspec.structs.replace(found, finding=missing)
        if found.finding is None and other is not None:
            return msgspec.structs.replace(found, finding=other)
        if found.finding is None or found.finding.kind != "missing":
            return found
        try:  # retention may have moved the beginning during the walk
            again = read_signed(state_dir / CHECKPOINT, "checkpoint", key)
        except LedgerError:
            return found
        if again == check:
            return found


class _Keys:
    """Whether the keys of the pseudonyms are there, as far as this process may read them."""

    def __init__(self, database: Path) -> None:
        self._names: Names | None = None
        self._seen: set[bytes] = set()
        self._lost: dict[bytes, int] = {}
        self.trouble = ""
        """Why nobody can resolve the pseudonyms in this ledger; "" if somebody can."""
        path = people_path(database)
        if path.exists() and not os.access(path, os.R_OK):
            return
        try:
            self._names = Names(database)
        except LedgerError as error:
            self.trouble = str(error)

    def look(self, seq: int, body: bytes) -> None:
        """Takes one event. An erasure's own event comes after all those of its person."""
        at = body.find(_PSEUDONYM)
        if at >= 0:
            pseudonym = body[at + len(_PSEUDONYM) - 2 : at + len(_PSEUDONYM) + 32]
            if pseudonym not in self._seen:
                if len(self._seen) >= SEEN_MAX:
                    self._seen.clear()
                self._seen.add(pseudonym)
                name = pseudonym.decode("ascii", "replace")
                if (self._names is not None and PSEUDONYM.fullmatch(name) is not None
                        and not self._names.is_accounted_for(name)):
                    self._lost.setdefault(pseudonym, seq)
        if self._lost and _ERASURE in body:
            for pseudonym in [one for one in self._lost if one in body]:
                del self._lost[pseudonym]

    def finding(self) -> Finding | None:
        """What is wrong with the keys."""
        if self.trouble:
            return Finding("keys", 0, self.trouble)
        if not self._lost:
            return None
        pseudonym, seq = next(iter(self._lost.items()))
        more = f" (and {len(self._lost) - 1} more)" if len(self._lost) > 1 else ""
        return Finding("keys", seq, f"the key of {pseudonym.decode()}{more} is gone, and no erasure has destroyed it: "
                                    "somebody has deleted it by hand")

    def close(self) -> None:
        """Closes the store."""
        if self._names is not None:
            self._names.close()


def _walk(database: Path, check: SignedHead | None, head: SignedHead | None, noted: tuple[int, bytes] | None,
          key: Ed25519PublicKey, anchors: dict[int, tuple[str, bytes]], look: Callable[[int, bytes], None],
          walked: Callable[[int], None] | None) -> Verified:
    first = seq = check.seq if check else 0
    prev = check.hash if check else GENESIS
    known = {head.seq: ("the signed head", head.hash)} if head is not None else {}
    for at, anchored in anchors.items():
        if at > first:
            known.setdefault(at, anchored)
    if noted is not None and noted[0] > first:
        known.setdefault(noted[0], ("the head given", noted[1]))

    def wrong(kind: str, at: int, message: str) -> Verified:
        return Verified(first + 1, seq, prev, Finding(kind, at, message))

    if known.get(seq, ("", prev))[1] != prev:
        return wrong("head", seq, f"{known[seq][0]} does not begin where the checkpoint ends")
    try:
        db = open_readonly(database)
    except LedgerError as error:
        return wrong("unreadable", 0, str(error))
    try:
        tail = None
        turns = TurnCheck(db)
        turns.begin(seq + 1)
        while True:  # a running ledger grows meanwhile: walk until we reach the tail as it is then
            for number, body, digest in read_rows(db, seq):
                if number != seq + 1:
                    return wrong("missing", seq + 1, f"event {seq + 1} is missing; the next is {number}")
                if chain_hash(prev, body) != digest or not body.startswith(b'{"seq":%d,' % number):
                    return wrong("edited", number, f"event {number} is not what was originally written")
                if turns.lacks(number, body):
                    return wrong("edited", number, f"time runs back at event {number}, but the list of such places "
                                                   "lacks it: readers by time would miss events")
                seq, prev = number, digest
                look(seq, body)
                if walked is not None and seq & (TELL_EVERY - 1) == 0:
                    walked(seq - first)
                if seq in known and known[seq][1] != digest:
                    return wrong("head", seq, f"event {seq} differs from {known[seq][0]}")
                if tail is not None and seq == tail.seq:
                    break
            if tail is not None:
                break
            tail = read_tail(db, key)
            if tail is None or tail.seq <= seq:
                break
        if tail is not None and (seq, prev) != (tail.seq, tail.hash):
            if seq < tail.seq:
                return wrong("truncated", seq + 1,
                             f"the chain ends at event {seq}, but its signed tail says {tail.seq}")
            if seq == tail.seq:
                return wrong("tail", seq, f"event {seq} differs from the signed tail")
            return wrong("added", tail.seq + 1, f"events after {tail.seq}, the signed tail, are not the ledger's")
        if tail is None and head is not None and seq > max(first, head.seq):
            return wrong("added", head.seq + 1, f"events after {head.seq}, the signed head, are not the ledger's")
    except LedgerError as error:
        return wrong("tail", seq, str(error))
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        return wrong("edited", seq + 1, f"event {seq + 1} cannot be read: {error}")
    finally:
        db.close()
    for at, (name, _) in sorted(known.items()):
        if at > seq:
            return wrong("truncated", seq + 1, f"the chain ends at event {seq}, but {name} says {at}")
    if noted is not None and head is not None and noted[0] == head.seq and noted[1] != head.hash:
        return wrong("head", head.seq, "the signed head differs from the head given")
    if head is None:
        return wrong("head", seq, "the signed head is gone")
    return Verified(first + 1, seq, prev, None)
