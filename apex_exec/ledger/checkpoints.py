"""Signed positions in the chain: the head and retention's checkpoint, outside the database, and the tail, inside it.

The head reveals truncation. The checkpoint says where a chain begins whose older events were removed on purpose. The
tail is signed with every commit, so that nobody without the key can add an event, not even beyond the head.
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
"""The file that records how long this ledger has been; a copy of ``audit.*`` that is put back does not include it."""
CHECKPOINT = "audit.checkpoint"
KEY = "keys/audit"
PUBLIC_KEY = "keys/audit.pub"


class SignedHead(msgspec.Struct):
    """A signed position in the chain. ``kind`` is signed, too: a head never passes as a checkpoint."""

    kind: str
    seq: int
    hash: bytes
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers."""
        return msgspec.msgpack.encode((self.kind, self.seq, self.hash))


class Tail(msgspec.Struct):
    """The end of the chain after the last commit, written by that commit. It includes batch ``last_index`` of the run
    ``trail``."""

    seq: int
    hash: bytes
    trail: str
    last_index: int
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers."""
        return msgspec.msgpack.encode(("tail", self.seq, self.hash, self.trail, self.last_index))


def write_tail(db: sqlite3.Connection, tail: Tail, key: Ed25519PrivateKey) -> None:
    """Signs ``tail`` and writes it in the open transaction. Raises sqlite3.Error."""
    tail.signature = key.sign(tail.signed_bytes())
    db.execute("INSERT OR REPLACE INTO tail VALUES (1, ?)", (msgspec.json.encode(tail),))


def read_tail(db: sqlite3.Connection, key: Ed25519PublicKey) -> Tail | None:
    """The tail, or None if no commit has written one. Raises LedgerError if we did not sign it."""
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
    """The signing key in ``<state_dir>/keys/audit``, created on first use with mode 0600. Raises LedgerError, OSError.
    """
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
    """The key that signatures are checked with. Creates nothing; raises LedgerError if there is none."""
    path = state_dir / PUBLIC_KEY
    try:
        return Ed25519PublicKey.from_public_bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path}: the ledger's public key cannot be read: {error}") from None


def write_signed(path: Path, signed: SignedHead, key: Ed25519PrivateKey) -> None:
    """Signs ``signed`` and writes it to ``path`` in one step. Raises OSError.

    A checkpoint and its name are durable when this returns: no event may be removed before its checkpoint is. The head
    is written every second, and one that a power cut sets back is legal.
    """
    signed.signature = key.sign(signed.signed_bytes())
    replace_file(path, msgspec.json.encode(signed), only_writer=True, sync_folder=path.name != HEAD)


def write_anchors(paths: Iterable[Path], seq: int, digest: bytes, key: Ed25519PrivateKey) -> None:
    """Records in each of ``paths`` how long the ledger is. Raises OSError."""
    signed = SignedHead("anchor", seq, digest)
    signed.signature = key.sign(signed.signed_bytes())
    for path in paths:
        # an anchor that a power cut sets back is legal, as for the head
        replace_file(path, msgspec.json.encode(signed), only_writer=True, sync_folder=False)


def read_signed(path: Path, kind: str, key: Ed25519PublicKey) -> SignedHead | None:
    """The signed position in ``path``, or None if there is none. Raises LedgerError if we did not sign it."""
    try:
        signed = msgspec.json.decode(path.read_bytes(), type=SignedHead)
        key.verify(signed.signature, signed.signed_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, InvalidSignature) as error:
        raise LedgerError(f"{path} is damaged or was not signed by this ledger's key") from error
    if signed.kind != kind:
        raise LedgerError(f"{path} contains a {signed.kind}, not a {kind}")
    return signed
