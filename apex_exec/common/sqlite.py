"""Opening SQLite databases: ours, the platform's, either of them to read only. We begin every transaction ourselves.

A database of ours is a private file with a write-ahead log. The platform's own database stays as the platform made it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path

from apex_exec.common.files import create_file

URL_PREFIX = "sqlite:///"
BUSY_PAUSE_SECONDS = 0.01
LOG_BYTES_KEPT = 64 * 1024 * 1024
"""What is left of a write-ahead log that a long reader has made grow, once nothing in it is needed."""
OURS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
"""With a write-ahead log a reader never waits for a writer, nor a writer for a reader. FULL: what is committed survives
a power cut."""


def path_of(url: str) -> Path | None:
    """The file that ``url`` names, as in ``sqlite:////var/lib/x.db``; None if it names no SQLite database."""
    return Path(url.removeprefix(URL_PREFIX)) if url.startswith(URL_PREFIX) else None


def open_ours(path: Path, *, busy_seconds: float, pragmas: tuple[str, ...] = (),
              any_thread: bool = False) -> sqlite3.Connection:
    """A connection to a database that only we write; makes the file and its folder if they are not there.

    The file is its owner's alone from its first byte. Python begins no transaction by itself: "BEGIN IMMEDIATE" does.
    ``busy_seconds`` is how long a statement waits for somebody else's lock. ``pragmas`` come after OURS.
    ``any_thread``: one thread at a time may use it, and not always the same. Raises sqlite3.Error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(path)
    except OSError as error:
        raise sqlite3.OperationalError(f"{path} cannot be opened: {error.strerror}") from error
    database = sqlite3.connect(path, isolation_level=None, timeout=busy_seconds, check_same_thread=not any_thread)
    try:
        for pragma in (*OURS, *pragmas):
            _set(database, pragma, time.monotonic() + busy_seconds)
    except BaseException:
        database.close()
        raise
    return database


def _set(database: sqlite3.Connection, pragma: str, until: float) -> None:
    """Sets a pragma. SQLite does not wait for other connections while it changes the journal of a new database,
    whatever the timeout of the connection is. So we wait here, until ``until`` (CLOCK_MONOTONIC, seconds) at most."""
    while True:
        try:
            database.execute(f"PRAGMA {pragma}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(BUSY_PAUSE_SECONDS)


def open_theirs(path: Path, *, busy_seconds: float, detect_types: int = 0, log_ahead: bool = False
                ) -> sqlite3.Connection:
    """A connection, for any thread, to a database that the platform writes too. Its mode stays as it is, and its
    journal, too, unless ``log_ahead``: then it gets a write-ahead log if nobody else is using it in this moment. A file
    that is not there is made; it is its owner's alone and has a write-ahead log. Raises OSError, sqlite3.Error."""
    with contextlib.suppress(FileExistsError):
        create_file(path, b"")
        log_ahead = True
    database = sqlite3.connect(path, isolation_level=None, timeout=busy_seconds, check_same_thread=False,
                               detect_types=detect_types)
    try:
        if log_ahead:
            with contextlib.suppress(sqlite3.OperationalError):  # somebody uses it: its journal stays as it is
                database.execute("PRAGMA journal_mode = WAL").fetchone()
            database.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")  # off by default; a platform that declares them relies on them
    except BaseException:
        database.close()
        raise
    return database


def open_readonly(path: Path, *, busy_seconds: float = 5.0, any_thread: bool = False, detect_types: int = 0,
                  cached_statements: int = 128) -> sqlite3.Connection:
    """A connection that cannot write and makes no file. Raises sqlite3.Error, at the latest when it is first used."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=busy_seconds,
                           check_same_thread=not any_thread, detect_types=detect_types,
                           cached_statements=cached_statements)


def make_private(path: Path) -> None:
    """Makes the file if it is not there, and takes it from everybody but its owner, if that is us.

    SQLite gives ``-wal`` and ``-shm`` the mode that it finds. Earlier releases left databases that others could read;
    those are private from now on. Raises OSError.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(fd, 0o600)
            for name in (f"{path}-wal", f"{path}-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(name, 0o600)
    finally:
        os.close(fd)
