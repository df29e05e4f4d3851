"""A copy of the whole state, made while the daemon runs, and put back into an empty place. Every call blocks.

A backup is a folder, or a tar file of it: ``BACKUP.json`` (what is in it, with size and SHA-256 of every file),
``databases/`` (one file each, made by SQLite's online backup: one snapshot, no writer waits) and ``state/`` (everything
else of the state folder: bundles, keys, the ledger's signed head and anchor, logs, the marketplace's files). Signed
marks of the ledger are copied before its database, so that they never name an event that the copy does not have; and
what was copied is verified as a whole before it gets its name. A PostgreSQL database is named as left out: it has tools
of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature

from apex_exec import __version__
from apex_exec.common.files import create_file, sync
from apex_exec.common.sqlite import open_readonly, path_of
from apex_exec.config import Settings
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.checkpoints import load_key, load_public_key, read_signed, write_anchors
from apex_exec.ledger.people import people_path
from apex_exec.ledger.records import AuditRecord, LedgerError
from apex_exec.ledger.verify import verify
from apex_exec.registry.plugin_settings.secret_keys import key_path

FORMAT = 1
LIST = "BACKUP.json"
PEOPLE = "audit.people"
DATABASES = ("registry", "market", "storage", "audit", PEOPLE, "data")
"""In the order in which they are copied: registry and market note how far the ledger is, and its copy has to go as
far; and a key is written before the first event that needs it, so the keys are copied after the ledger."""
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz")
TRIES = 5
"""What changes while it is copied (retention moves the ledger's beginning, a bundle is removed) is copied once more."""
LIST_BYTES_MAX = 64 * 1024 * 1024
CHUNK_BYTES = 1 << 20


class Entry(msgspec.Struct):
    """One file of a backup."""

    path: str
    size: int
    sha256: str


class Contents(msgspec.Struct, rename="camel"):
    """``BACKUP.json``, signed with the ledger's key. ``outside`` are the keys of databases that are not in it."""

    format: int
    version: str
    made_ns: int
    ledger_seq: int
    ledger_hash: str
    databases: list[str]
    outside: list[str]
    files: list[Entry]
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b""))

    def summary(self, path: Path) -> dict[str, Any]:
        """What the command and the record say of it."""
        return {"path": str(path), "files": len(self.files), "bytes": sum(entry.size for entry in self.files),
                "ledgerSeq": self.ledger_seq, "ledgerHash": self.ledger_hash, "madeAt": _moment(self.made_ns),
                "databases": self.databases, "outside": self.outside}


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9, UTC).isoformat().replace("+00:00", "Z")


def _database(settings: Settings, name: str) -> Path | None:
    """The file of one database; None if it is not ours to copy: on PostgreSQL, or the platform's data elsewhere."""
    url = settings.database_url(settings.audit.url if name == PEOPLE else getattr(settings, name).url)
    path = path_of(url)
    if path is None:
        return None
    path = people_path(path.absolute()) if name == PEOPLE else path.absolute()
    return None if name == "data" and not path.is_relative_to(settings.state_path.absolute()) else path


# ---------------------------------------------------------------------- making one
def make(settings: Settings, target: Path) -> dict[str, Any]:
    """Writes a backup to ``target``, which must not exist yet. Raises Refusal; then nothing is left of it."""
    state = settings.state_path.absolute()
    if not target.is_absolute():
        raise _wrong("path_not_absolute", f"{target} is not an absolute path, and the daemon works in another folder "
                                          "than this shell")
    if target.resolve().is_relative_to(state.resolve()):
        raise _wrong("inside_the_state", f"{target} is inside the state folder, which is what is being copied")
    if os.path.lexists(target):
        raise Refusal("exists", f"{target} already exists", code=Code.CONFLICT, hint="name a new folder or file")
    if not target.parent.is_dir():
        raise _wrong("no_folder", f"the folder {target.parent} does not exist", hint="create it first")
    part: Path | None = None
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))  # 0700
        contents = _copied(settings, state, part / "copy")
        if target.name.endswith(TAR_SUFFIXES):
            _pack(part / "copy", part / "tar", gzipped=not target.name.endswith(".tar"))
            os.link(part / "tar", target)  # unlike a rename it replaces nothing
        else:
            os.rename(part / "copy", target)
        sync(target.parent)
    except OSError as error:
        raise Refusal("not_written", f"the backup cannot be written to {target}: {error.strerror or error}"
                      + (f" ({error.filename})" if error.filename else ""),
                      hint="make sure that the daemon's user can write there, and that the disk has room") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return contents.summary(target)


def _wrong(reason: str, message: str, hint: str = "") -> Refusal:
    return Refusal(reason, message, code=Code.INVALID_INPUT, hint=hint)


def _copied(settings: Settings, state: Path, folder: Path) -> Contents:
    """A copy of the state in ``folder`` that was found to be whole."""
    why = ""
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        _make_private(folder / "state")
        _make_private(folder / "databases")
        files: dict[str, Entry] = {}
        databases = {name: path for name in DATABASES if (path := _database(settings, name)) is not None
                     and path.exists()}
        keys = key_path(settings).absolute()  # beside them secrets would be as good as in the clear
        _copy_files(state, folder, files, databases, secret_keys=keys)
        for name, path in databases.items():
            _copy_database(path, folder / "databases" / f"{name}.db")
        _copy_files(state, folder, files, databases, only="bundles")  # that came since, and that a row may name
        why = _problem(folder, state)
        if not why:
            found = verify(folder / "databases" / "audit.db", folder / "state")
            for name in databases:
                path = folder / "databases" / f"{name}.db"
                files[f"databases/{name}.db"] = _entry(path, f"databases/{name}.db")
            contents = Contents(
                FORMAT, __version__, time.time_ns(), found.last, found.hash.hex(), sorted(databases),
                [f"{name}.url" for name in DATABASES if name not in databases and _is_elsewhere(settings, name)]
                + ["secrets.key_file"] * keys.exists(),
                sorted(files.values(), key=lambda entry: entry.path))
            contents.signature = load_key(folder / "state").sign(contents.signed_bytes())
            (folder / LIST).write_bytes(msgspec.json.format(msgspec.json.encode(contents)) + b"\n")
            for path in (folder / LIST, folder / "databases", folder / "state", folder):
                sync(path)
            return contents
    raise Refusal("not_consistent", f"the copy is not consistent, so it was discarded: {why}",
                  hint="run `apex-exec audit verify`, and then make the backup again")


def _is_elsewhere(settings: Settings, name: str) -> bool:
    path = _database(settings, name)
    return path is None or path.exists()


def _copy_files(state: Path, folder: Path, files: dict[str, Entry], databases: dict[str, Path],
                only: str = "", secret_keys: Path | None = None) -> None:
    """Copies all but databases, locks, half-written files and the keys of secrets; a file that has gone meanwhile is
    left out."""
    left_out = {str(path) + suffix for path in databases.values() for suffix in ("", "-wal", "-shm", "-journal")}
    if secret_keys is not None:
        left_out.add(str(secret_keys))
    for base, folders, names in os.walk(state / only):
        folders.sort()
        for name in sorted(names):
            path = Path(base, name)
            key = f"state/{path.relative_to(state)}"
            if str(path) in left_out or name.endswith((".lock", ".new")) or key in files:
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_symlink() or not path.is_file():
                    continue
                copy = folder / key
                _make_private(copy.parent)
                files[key] = _copy(path, copy, key)


def _make_private(folder: Path) -> None:
    """Makes ``folder`` and whatever is missing above it, each 0700: ``mkdir`` gives its mode to the last one alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700)


def _copy(source: Path, target: Path, key: str) -> Entry:
    """Copies the bytes that are there now, synced; a file that grows (a log) is cut there."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC,
                                                    0o600), "wb") as writing:
        left = os.fstat(reading.fileno()).st_size
        while left > 0 and (chunk := reading.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            writing.write(chunk)
            size += len(chunk)
            left -= len(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return Entry(key, size, digest.hexdigest())


def _copy_database(source: Path, target: Path) -> None:
    """One snapshot of an SQLite database, in one step: in the write-ahead mode of ours no writer waits for a reader."""
    try:
        create_file(target, b"")  # private from its first byte
        with contextlib.closing(open_readonly(source, busy_seconds=30)) as reading, \
                contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writing:
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
    except sqlite3.Error as error:
        raise Refusal("database_unreadable", f"the database {source} cannot be copied: {error}",
                      hint="check the file, its folder's permissions and the disk") from None
    sync(target)


def _entry(path: Path, key: str) -> Entry:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return Entry(key, path.stat().st_size, digest.hexdigest())


def _problem(folder: Path, state: Path | None = None) -> str:
    """What is wrong with the copy in ``folder``; "" if its databases are sound, its ledger's chain is whole, and
    every bundle that ``state`` has for a version is there."""
    for path in sorted((folder / "databases").glob("*.db")):
        try:
            with _readonly(path) as database:
                (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if answer != "ok":
                    return f"{path.name}: {answer}"
                digests = [row[0] for row in database.execute("SELECT digest FROM versions")] if (
                    path.stem == "registry") else []
        except sqlite3.Error as error:
            return f"{path.name}: {error}"
        for digest in digests:
            name = f"bundles/{digest}.apx"
            if state is not None and not (folder / "state" / name).exists() and (state / name).exists():
                return f"the bundle {digest} was not copied"
    if not (folder / "databases" / "audit.db").exists():
        return "there is no ledger"
    finding = verify(folder / "databases" / "audit.db", folder / "state").finding
    return f"the ledger: {finding.message}" if finding is not None else ""


def _unsigned(contents: Contents, state: Path) -> str:
    try:
        load_public_key(state).verify(contents.signature, contents.signed_bytes())
    except (InvalidSignature, LedgerError):
        return f"{LIST} was not signed by this ledger's key, or was changed since"
    return ""


@contextlib.contextmanager
def _readonly(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(open_readonly(path)) as database:
        yield database


def _pack(folder: Path, target: Path, *, gzipped: bool) -> None:
    with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b") as file:
        with tarfile.open(fileobj=file, mode="w:gz" if gzipped else "w") as archive:
            archive.add(folder / LIST, LIST)  # first: what follows is held to it
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / LIST):
                archive.add(path, str(path.relative_to(folder)))
        file.flush()
        os.fsync(file.fileno())


# ---------------------------------------------------------------------- putting one back
def restore(settings: Settings, source: Path, *, accept_older: bool = False, reason: str = "") -> dict[str, Any]:
    """Puts the backup ``source`` into the empty state folder of ``settings``. Raises Refusal; then nothing is changed.

    A ledger that has been further (``audit.anchor`` says so) than the backup goes is put back only with
    ``accept_older`` and a ``reason``; the event ``state.restore`` says in the ledger how much of it is missing, and the
    anchor is kept aside as evidence.
    """
    state = settings.state_path.absolute()
    _check_empty(settings, state)
    if accept_older and not reason.strip():
        raise _wrong("reason_missing", "continuing from an older copy needs a reason", hint="say why with --reason")
    part: Path | None = None
    try:
        _make_private(state.parent)
        part = Path(tempfile.mkdtemp(prefix=f".{state.name}.restore.", dir=state.parent))
        contents = _unpacked(source, part)
        if why := _problem(part) or _unsigned(contents, part / "state"):
            raise Refusal("backup_damaged", f"{source}: {why}", hint="use another backup")
        missing = _missing(settings, part / "state", contents)
        if missing and not accept_older:
            raise Refusal("older_than_anchor", f"this backup's ledger ends at event {contents.ledger_seq} "
                          f"({_moment(contents.made_ns)}), and {settings.audit.anchor} says that it has been "
                          f"{missing} events further", details={"missingEvents": missing},
                          hint="restore a newer backup, or go on without them: --accept-older --reason TEXT")
        return _place(settings, part, state, contents, missing, reason)
    except OSError as error:
        raise Refusal("not_restored", f"{source} cannot be restored to {state}: {error.strerror or error}"
                      + (f" ({error.filename})" if error.filename else "")) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _check_empty(settings: Settings, state: Path) -> None:
    for lock in (settings.runtime_path / "lock", state / "state.lock"):
        if _is_held(lock):
            raise Refusal("daemon_runs", f"a daemon is still running on the state folder {lock.parent}",
                          code=Code.CONFLICT,
                          hint="stop it first: `apex-exec drain --stop --wait`")
    try:
        left = [entry.name for entry in os.scandir(state)]
    except FileNotFoundError:
        left = []
    except OSError as error:
        raise Refusal("not_restored", f"the folder {state} cannot be read: {error.strerror}",
                      hint="run this as the daemon's user") from None
    if left:
        raise Refusal("state_not_empty", f"{state} is not empty ({', '.join(sorted(left)[:3])}…)", code=Code.CONFLICT,
                      hint="move it aside, or name another folder as state_dir")
    for name in DATABASES:
        path = _database(settings, name)
        if path is not None and os.path.lexists(path):
            raise Refusal("state_not_empty", f"the database {path} (named by {name}.url) already exists",
                          code=Code.CONFLICT,
                          hint="move it aside")


def _is_held(lock: Path) -> bool:
    """Whether a daemon holds ``lock``."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _unpacked(source: Path, part: Path) -> Contents:
    """Copies exactly the files that the list names into ``part``, each with the size and the sum that stand there."""
    if source.is_dir():
        def opened(name: str) -> Any:
            path = source / name
            if path.is_symlink() or not path.is_file():
                raise FileNotFoundError(name)
            return path.open("rb")

        return _take(source, part, opened)
    try:
        with tarfile.open(source) as archive:
            def member(name: str) -> Any:
                found = archive.getmember(name)
                file = archive.extractfile(found) if found.isreg() else None
                if file is None:
                    raise FileNotFoundError(name)
                return file

            return _take(source, part, member)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise Refusal("backup_damaged", f"{source} is not a backup: {error}", hint="name a file or folder that "
                                                                                   "`apex-exec backup` made") from None


def _take(source: Path, part: Path, opened: Any) -> Contents:
    def damaged(why: str) -> Refusal:
        return Refusal("backup_damaged", f"{source}: {why}", hint="use another backup")

    try:
        with opened(LIST) as file:
            contents = msgspec.json.decode(file.read(LIST_BYTES_MAX), type=Contents)
    except (KeyError, FileNotFoundError):
        raise Refusal("no_backup", f"{source} is not a backup: it contains no {LIST}", code=Code.NOT_FOUND,
                      hint="name a file or folder that `apex-exec backup` made") from None
    except msgspec.MsgspecError as error:
        raise damaged(f"{LIST}: {error}") from None
    if contents.format != FORMAT:
        raise Refusal("other_format", f"the backup {source} has format {contents.format}, and this release reads "
                                      f"format {FORMAT}",
                      hint=f"restore it with apex-exec {contents.version[:20]}, which made it")
    for entry in contents.files:
        path = Path(entry.path)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] not in (("state",), ("databases",)) or (
                entry.path.count("/") < 1):
            raise damaged(f"{entry.path!a} is not a valid path in a backup")
        copy = part / path
        _make_private(copy.parent)
        digest, left = hashlib.sha256(), entry.size
        try:
            with opened(entry.path) as reading, open(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600),
                                                     "wb") as writing:
                while left > 0 and (chunk := reading.read(min(CHUNK_BYTES, left))):
                    digest.update(chunk)
                    writing.write(chunk)
                    left -= len(chunk)
                more = bool(reading.read(1))
                writing.flush()
                os.fsync(writing.fileno())
        except (KeyError, FileNotFoundError, ValueError):  # a path with a NUL is none
            raise damaged(f"{entry.path!a} is missing") from None
        except FileExistsError:
            raise damaged(f"{entry.path!a} is listed twice") from None
        if left or more or digest.hexdigest() != entry.sha256:
            raise damaged(f"{entry.path!a} was changed after the backup (its size or its SHA-256 differs)")
    return contents


def _missing(settings: Settings, state: Path, contents: Contents) -> int:
    """How many events the ledger has been further than the backup, by ``audit.anchor``."""
    if not settings.audit.anchor:
        return 0
    try:
        mark = read_signed(Path(settings.audit.anchor), "anchor", load_public_key(state))
    except LedgerError as error:
        raise Refusal("another_ledger", f"audit.anchor belongs to another ledger than this backup: {error}",
                      hint="name another file as audit.anchor, or use a backup of that ledger") from None
    return max(0, mark.seq - contents.ledger_seq) if mark is not None else 0


def _place(settings: Settings, part: Path, state: Path, contents: Contents, missing: int,
           reason: str) -> dict[str, Any]:
    """The verified copy becomes the state, with an event that says so."""
    made = part / "state"
    databases = {name: part / "databases" / f"{name}.db" for name in contents.databases if name in DATABASES}
    left = [name for name in databases if _database(settings, name) is None]
    store = AuditStore(databases["audit"], made)
    try:
        store.append([AuditRecord(time.time_ns(), "admin.action", f"uid:{os.geteuid()}", "daemon", "state.restore",
                                  "success", {"uid": os.geteuid(), "madeAt": _moment(contents.made_ns),
                                              "backupSeq": contents.ledger_seq, "missingEvents": missing,
                                              **({"reason": reason[:1024]} if reason else {})})])
        store.write_head()
        seq, digest, key = store.seq, store.hash, store.key
    finally:
        store.release()
    (part / "databases" / "audit.db.lock").unlink(missing_ok=True)
    databases.setdefault(PEOPLE, people_path(databases["audit"]))  # a backup of before there were pseudonyms has none
    for name, database in databases.items():
        target = _database(settings, name)
        if target is None:
            continue
        place = made / target.relative_to(state) if target.is_relative_to(state) else target
        _make_private(place.parent)
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                shutil.move(f"{database}{suffix}", f"{place}{suffix}")
        sync(place)
    sync(made)
    with contextlib.suppress(FileNotFoundError):
        state.rmdir()
    os.rename(made, state)
    sync(state.parent)
    anchor, kept = Path(settings.audit.anchor) if settings.audit.anchor else None, ""
    if anchor is not None:  # last: a restore that was cut off before is refused by the ledger, and done again
        if missing:
            kept = f"{anchor}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            os.replace(anchor, kept)
        write_anchors([anchor], seq, digest, key)
    return {**contents.summary(state), "missingEvents": missing, "anchorKept": kept,
            "outside": sorted({*contents.outside, *(f"{name}.url" for name in left)})}
