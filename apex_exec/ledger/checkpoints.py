"""Signed places in the chain: its head and retention's checkpoint, outside the database, and its tail, inside.

The head shows truncation; the checkpoint says where a chain begins whose older events were removed on purpose; the tail
is signed with every commit, so that nobody without the key can add an event, not even past the head.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from apex_exec.common.files import replace_file
from apex_exec.ledger.records import LedgerError

HEAD = "audit.head"
ANCHOR = "ledger.anchor"
"""How far this ledger has been, by a name that a copy of ``audit.*`` which is put back does not take along."""
CHECKPOINT = "audit.checkpoint"
KEY = "keys/audit"
PUBLIC_KEY = "keys/audit.pub"


class Mark(msgspec.Struct):
    """A signed place in the chain. ``kind`` is signed too: a head never passes as a checkpoint."""

    kind: str
    seq: int
    hash: bytes
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return msgspec.msgpack.encode((self.kind, self.seq, self.hash))


class Tail(msgspec.Struct):
    """The end of the chain as the last commit left it, in that commit: ``last_index`` of the run ``trail`` is in it."""

    seq: int
    hash: bytes
    trail: str
    last_index: int
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return msgspec.msgpack.encode(("tail", self.seq, self.hash, self.trail, self.last_index))


def write_tail(db: sqlite3.Connection, tail: Tail, key: Ed25519PrivateKey) -> None:
    """Signs ``tail`` into the transaction that is open. Raises sqlite3.Error."""
    tail.signature = key.sign(tail.signed_bytes())
    db.execute("INSERT OR REPLACE INTO tail VALUES (1, ?)", (msgspec.json.encode(tail),))


def read_tail(db: sqlite3.Connection, key: Ed25519PublicKey) -> Tail | None:
    """The tail, or None where no commit has left one. Raises LedgerError where it was not signed by us."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tail'").fetchone():
        return None
    row = db.execute("SELECT body FROM tail").fetchone()
    if row is None:
        return None
    try:
        tail = msgspec.json.decode(row[0], type=Tail)
        key.verify(tail.signature, tail.signed_bytes())
    except (msgspec.DecodeError, InvalidSignature, TypeError) as error:
        raise LedgerError("the chain's tail is damaged or was not signed by this ledger's key") from error
    return tail


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """The signing key in ``<state_dir>/keys/audit``; made on first use, 0600. Raises LedgerError, OSError."""
    path = state_dir / KEY
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        replace_file(path, Ed25519PrivateKey.generate().private_bytes_raw(), only_writer=True)
    try:
        key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise LedgerError(f"{path} is not a key of this ledger: {error}") from None
    if not (state_dir / PUBLIC_KEY).exists():
        replace_file(state_dir / PUBLIC_KEY, key.public_key().public_bytes_raw(), only_writer=True)
    return key


def load_public_key(state_dir: Path) -> Ed25519PublicKey:
    """What signatures are checked with; makes nothing. Raises LedgerError where there is none."""
    path = state_dir / PUBLIC_KEY
    try:
        return Ed25519PublicKey.from_public_bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path}: the ledger's public key cannot be read: {error}") from None


def write_mark(path: Path, mark: Mark, key: Ed25519PrivateKey) -> None:
    """Signs ``mark`` into ``path``, in one step. Raises OSError.

    A checkpoint is on the disk, its name too, when this returns: what it lets be removed must not outlive it. The head
    is written every second, and one that a power cut sets back is legal.
    """
    mark.signature = key.sign(mark.signed_bytes())
    replace_file(path, msgspec.json.encode(mark), only_writer=True, sync_folder=path.name != HEAD)


def write_anchors(paths: Iterable[Path], seq: int, digest: bytes, key: Ed25519PrivateKey) -> None:
    """Notes in every one of ``paths`` how far the ledger is. Raises OSError."""
    mark = Mark("anchor", seq, digest)
    mark.signature = key.sign(mark.signed_bytes())
    for path in paths:
        replace_file(path, msgspec.json.encode(mark), only_writer=True, sync_folder=False)  # as the head's


def read_mark(path: Path, kind: str, key: Ed25519PublicKey) -> Mark | None:
    """The mark, or None where there is none. Raises LedgerError where it was not signed by us."""
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=Mark)
        key.verify(mark.signature, mark.signed_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, InvalidSignature) as error:
        raise LedgerError(f"{path} is damaged or was not signed by this ledger's key") from error
    if mark.kind != kind:
        raise LedgerError(f"{path} holds a {mark.kind}, not a {kind}")
    return mark
