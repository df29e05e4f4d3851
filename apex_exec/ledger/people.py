"""Who the people in the ledger are: events hold pseudonyms of user ids, and this store holds the key to each of them.

A user's pseudonym is the HMAC-SHA256 of the user's id with a random key of that user alone. The keys are in a database
of their own beside the ledger's. If a user's row is deleted, nobody can say any longer whose events those were, even by
trying every id, and the chain of hashes still holds. The ledger process makes keys and pseudonyms; an erasure
(``erase``), in another process, deletes a row; readers (``Names``) only read. Every call blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from apex_exec.common.names import UUID
from apex_exec.common.sqlite import open_ours, open_readonly
from apex_exec.ledger.records import LedgerError

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS people (user_id TEXT PRIMARY KEY, key BLOB NOT NULL, pseudonym TEXT NOT NULL UNIQUE, "
    "since_ns INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS store (one INTEGER PRIMARY KEY, id TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS erased (pseudonym TEXT PRIMARY KEY, at_ns INTEGER NOT NULL, plain BLOB, month TEXT) "
    "WITHOUT ROWID",
)
"""``erased`` has the pseudonyms whose keys an erasure has destroyed. ``plain`` is the hash of the id, if the ledger
holds events of ``month``, or of months before, with the id itself, from before there were pseudonyms: until that month
is closed, they are billed under the pseudonym, as the events after them are."""
TABLE = "CREATE TABLE IF NOT EXISTS people (one INTEGER PRIMARY KEY, id TEXT NOT NULL)"
"""In the ledger's own database: the id of the store that its pseudonyms need."""
KEY_BYTES = 32
PSEUDONYM = re.compile(r"p-[0-9a-f]{32}")
"""The first 128 bits of the HMAC, 34 characters: no id of a user, of an administrator (``uid:0``) or of the daemon
looks like it, and it fits wherever an id fits."""
KNOWN_MAX = 50_000
"""Users whose pseudonyms are kept in memory, about ten megabytes. A user who is not among them costs one look-up."""
BUSY_SECONDS = 0.2
"""How long the ledger waits for an erasure's lock before its commit is reported as failing and tried again."""
ERASE_BUSY_SECONDS = 5.0
_NAMED = re.compile(rb'"(?:user|userId|user_id)":"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"')
"""A user's id where a record names a user: its own member ``userId``, or an argument of an operation. In texts, quotes
are escaped, so that nothing inside a text looks like this."""
_ANY = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ADMIN = b'"eventType":"admin.action"'
_SECURE = ("secure_delete = ON",)
"""What a deleted row held is overwritten."""


def people_path(database: Path) -> Path:
    """The store that belongs to the ledger's database: ``audit.people.db`` beside ``audit.db``."""
    return database.with_name(f"{database.stem}.people.db")


def pseudonym_of(user_id: str, key: bytes) -> str:
    """The pseudonym that ``key`` gives to a user's id."""
    return f"p-{hmac.digest(key, user_id.encode(), 'sha256').hex()[:32]}"


def _plain_hash(store: str, user_id: str) -> bytes:
    return hashlib.sha256(f"{store}:{user_id}".encode()).digest()


class People:
    """The store as the ledger process uses it; one writer of keys. Raises LedgerError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = {}
        self._new: dict[str, tuple[str, bytes, str, int]] = {}
        try:
            self._db = open_ours(path, busy_seconds=BUSY_SECONDS, pragmas=_SECURE)
            for statement in SCHEMA:
                self._db.execute(statement)
            self._db.execute("INSERT OR IGNORE INTO store VALUES (1, ?)", (secrets.token_hex(16),))
            (self.id,) = self._db.execute("SELECT id FROM store").fetchone()
            self._version = self._data_version()
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, cannot be opened: {error}") from error

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def veil(self, lines: list[Any]) -> None:
        """Puts a pseudonym in the place of each user's id in ``lines``: bytes, or lists of an execution's fields, which
        are changed themselves, since a new list for each call would be the ledger's largest cost. The keys of users who
        are new are on the disk before this returns.

        Raises LedgerError; then nothing may be committed. It may be called again with the same lines: what is a
        pseudonym already stays, and keys that could not be written are written then.
        """
        try:
            self.forget_erased()
            known = self._known
            for at, line in enumerate(lines):
                if type(line) is bytes:
                    lines[at] = self._veil(line)
                else:
                    user = line[1]
                    line[1] = known.get(user) or self._pseudonym(user)
            self._save()
        except (sqlite3.Error, TypeError, IndexError) as error:
            raise LedgerError(f"the keys of the ledger's pseudonyms, {self.path}, cannot be used: {error}") from error

    def forget_erased(self) -> None:
        """Drops what is in memory if another process has changed the store: somebody was erased. Raises sqlite3.Error.
        """
        version = self._data_version()
        if version != self._version:
            self._version = version
            self._forget_known()

    def _forget_known(self) -> None:
        self._known = {user: pseudonym for user, (_, _, pseudonym, _) in self._new.items()}

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _veil(self, line: bytes) -> bytes:
        line = _NAMED.sub(self._named, line)
        if _ADMIN in line[:100]:  # a reason or a hint may name a user in the middle of a sentence
            line = _ANY.sub(self._mentioned, line)
        return line

    def _named(self, found: re.Match[bytes]) -> bytes:
        user = found[1].decode().lower()
        pseudonym = self._known.get(user) or self._pseudonym(user)
        return found[0].replace(found[1], pseudonym.encode())

    def _mentioned(self, found: re.Match[bytes]) -> bytes:
        user = found[0].decode().lower()
        known = self._known.get(user) or self._look_up(user)
        return known.encode() if known else found[0]

    def _pseudonym(self, user: str) -> str:
        """The pseudonym of a user who is not in memory; anything that is not a user's id comes back as it is."""
        if len(user) != 36 or UUID.fullmatch(user) is None:
            return user
        if found := self._look_up(user):
            return found
        key = os.urandom(KEY_BYTES)
        pseudonym = pseudonym_of(user, key)
        self._new[user] = user, key, pseudonym, time.time_ns()
        self._known[user] = pseudonym
        return pseudonym

    def _look_up(self, user: str) -> str:
        row = self._db.execute("SELECT pseudonym FROM people WHERE user_id = ?", (user,)).fetchone()
        if row is None:
            return ""
        if len(self._known) >= KNOWN_MAX:
            self._forget_known()
        self._known[user] = row[0]
        return str(row[0])

    def _save(self) -> None:
        if not self._new:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", self._new.values())
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._new.clear()


class Names:
    """The store as readers use it: who is behind a pseudonym. ``database`` is the ledger's. Raises LedgerError.

    Without ``required``, a reader who may not read the store sees pseudonyms. A ledger that is older than the store has
    none.
    """

    def __init__(self, database: Path, *, required: bool = True) -> None:
        self._db: sqlite3.Connection | None = None
        self._names: dict[str, str] = {}
        self._store = ""
        self._has_plain = False
        path = people_path(database)
        if not required and not os.access(path, os.R_OK):
            return
        wanted = wanted_store(database)
        if not wanted:
            return
        if not path.is_file():
            raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, are missing; restore them from a backup")
        try:
            self._db = open_readonly(path)
            (found,) = self._db.execute("SELECT id FROM store").fetchone() or ("",)
        except sqlite3.Error as error:
            self.close()
            raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, cannot be read: {error}") from error
        if found != wanted:
            self.close()
            raise LedgerError(f"{path} holds the keys of another ledger's pseudonyms; restore the file of this ledger "
                              "from a backup")
        self._store = found
        with contextlib.suppress(sqlite3.Error):  # the store is older than the table
            self._has_plain = self._db.execute("SELECT 1 FROM erased WHERE plain IS NOT NULL").fetchone() is not None

    def name(self, user_id: str) -> str:
        """The user's id behind a pseudonym. The pseudonym of somebody who was erased comes back as it is, and takes the
        place of the id that events of a month hold which is not closed yet. Whatever else is given comes back as it is.
        """
        if self._db is None:
            return user_id
        found = self._names.get(user_id)
        if found is None:
            if PSEUDONYM.fullmatch(user_id) is not None:
                row = self._db.execute("SELECT user_id FROM people WHERE pseudonym = ?", (user_id,)).fetchone()
            elif self._has_plain and UUID.fullmatch(user_id) is not None:
                row = self._db.execute("SELECT pseudonym FROM erased WHERE plain = ?",
                                       (_plain_hash(self._store, user_id),)).fetchone()
            else:
                return user_id
            if len(self._names) >= KNOWN_MAX:
                self._names.clear()
            found = self._names[user_id] = user_id if row is None else str(row[0])
        return found

    def is_accounted_for(self, pseudonym: str) -> bool:
        """Whether the key of a pseudonym is there, or was destroyed by an erasure. True if nothing shows which."""
        if self._db is None:
            return True
        for table in ("people", "erased"):
            try:
                if self._db.execute(f"SELECT 1 FROM {table} WHERE pseudonym = ?", (pseudonym,)).fetchone():
                    return True
            except sqlite3.OperationalError:  # the store is older than the table
                return True
        return False

    def pseudonym(self, user_id: str) -> str:
        """The pseudonym of a user; "" if there is none."""
        if self._db is None:
            return ""
        row = self._db.execute("SELECT pseudonym FROM people WHERE user_id = ?", (user_id.lower(),)).fetchone()
        return "" if row is None else str(row[0])

    def close(self) -> None:
        """Closes the database."""
        if self._db is not None:
            self._db.close()
            self._db = None


def wanted_store(database: Path) -> str:
    """The id of the store that the ledger's pseudonyms need; "" for a ledger that has none, or that is not there."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(open_readonly(database)) as db:
        row = db.execute("SELECT id FROM people").fetchone()
        return "" if row is None else str(row[0])
    return ""


def pseudonym_for_erasure(database: Path, user_id: str) -> str:
    """The user's pseudonym; a new one if the ledger knows none, so that other stores can replace the id. Raises
    LedgerError."""
    people = People(people_path(database))
    try:
        line = [0, user_id]
        people.veil([line])
        return str(line[1])
    finally:
        people.close()


def erase(database: Path, user_id: str, plain_month: str = "") -> bool:
    """Deletes the user's key, and what is left of it in the write-ahead log; whether there was one. The ledger process
    notices by itself, within a second. ``plain_month`` is the last month with events that hold the id itself, if that
    month is not closed. Raises LedgerError."""
    path = people_path(database)
    try:
        with contextlib.closing(open_ours(path, busy_seconds=ERASE_BUSY_SECONDS, pragmas=_SECURE)) as db:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT pseudonym, id FROM people, store WHERE user_id = ?", (user_id,)).fetchone()
            if row is not None:
                plain = _plain_hash(row[1], user_id) if plain_month else None
                db.execute("INSERT OR REPLACE INTO erased VALUES (?, ?, ?, ?)",
                           (row[0], time.time_ns(), plain, plain_month or None))
                db.execute("DELETE FROM people WHERE user_id = ?", (user_id,))
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return row is not None
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, cannot be written: {error}") from error


def forget_plain(database: Path, month: str) -> None:
    """What ``month``, which is closed, and the months before it were the last to need: the hashes of ids of people who
    were erased. Raises LedgerError."""
    path = people_path(database)
    if not path.is_file():
        return
    try:
        with contextlib.closing(open_ours(path, busy_seconds=ERASE_BUSY_SECONDS, pragmas=_SECURE)) as db:
            for statement in SCHEMA:
                db.execute(statement)
            if db.execute("UPDATE erased SET plain = NULL, month = NULL WHERE month <= ?", (month,)).rowcount:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, cannot be written: {error}") from error
