"""The content-addressed store of bundles, ``<state_dir>/bundles/<digest>.apx``: read-only files that workers load.

A blob is written to a temporary file, synced and renamed, and then its folder is synced: a crash leaves either the
whole blob or a leftover that ``sweep`` removes. Every read computes the digest again, so that the bytes that are loaded
are the bytes that were hashed.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from apex_exec.common.files import TEMPORARY_PREFIX, replace_file
from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import Bundle, pack, unpack

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(value: str) -> bool:
    """True for 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(value) is not None


class BlobStore:
    """The folder of bundles. Every method may block on the disk; a disk error is raised as a Refusal."""

    def __init__(self, folder: Path, *, at_point: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._at_point = at_point

    def path(self, digest: str) -> Path:
        """The path of the blob named ``digest``, whether or not it exists."""
        if not is_digest(digest):
            raise Refusal("not_a_digest", f"{digest[:80]!a} is not a bundle's digest")
        return self.folder / f"{digest}.apx"

    def put(self, bundle: Bundle) -> bool:
        """Stores ``bundle`` and returns once it is durable. Returns False if an intact copy already existed."""
        path = self.path(bundle.digest)
        try:
            if path.exists():
                with contextlib.suppress(Refusal):
                    self.read(bundle.digest)
                    return False
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, pack(bundle), mode=0o400, at_point=lambda: self._at_point("blob-written"))
        except OSError as error:
            raise _disk_refusal(error, self.folder) from None
        return True

    def copy_in(self, digest: str, data: bytes) -> bool:
        """Stores ``data``, the bytes of an .apx that somebody else keeps, if it is the bundle ``digest``; False if it
        is not. It is not synced to the disk, since it can be copied again: a power cut may take it away."""
        path = self.path(digest)
        try:
            if unpack(data, path.name, is_stored=True)[0].digest != digest:
                return False
        except Refusal:
            return False
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _disk_refusal(error, self.folder) from None
        return True

    def read(self, digest: str) -> Bundle:
        """The bundle named ``digest``, verified against that name. Raises Refusal."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Refusal("blob_missing", f"the bundle {digest} is not in {self.folder}",
                          hint="install the plugin's .apx file again") from None
        except OSError as error:
            raise _disk_refusal(error, self.folder) from None
        try:
            bundle, _ = unpack(data, path.name, is_stored=True)
        except Refusal as error:
            raise _corrupt(digest, error.message) from None
        if bundle.digest != digest:
            raise _corrupt(digest, "its content has another digest than its name")
        return bundle

    def remove(self, digest: str) -> None:
        """Removes a blob. It is not an error if the blob does not exist."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise _disk_refusal(error, self.folder) from None

    def has(self, digest: str) -> bool:
        """Whether a blob of that name exists, whatever its content: a file that a power cut emptied does not count."""
        try:
            return self.path(digest).stat().st_size > 0
        except OSError:
            return False

    def digests(self) -> set[str]:
        """The names of all blobs."""
        try:
            return {entry.stem for entry in self.folder.glob("*.apx") if is_digest(entry.stem)}
        except OSError:
            return set()

    def sweep(self, known: Iterable[str], older_than: float = math.inf) -> list[str]:
        """Removes what a crash left behind, and blobs that no row in ``known`` names. Returns the names that were
        removed.

        Only blobs that were made before ``older_than`` (Unix time): the rows may be another's, or an hour old.
        """
        gone: list[str] = []
        for digest in sorted(self.digests() - set(known)):
            with contextlib.suppress(Refusal, OSError):
                if self.path(digest).stat().st_mtime < older_than:
                    self.remove(digest)
                    gone.append(digest)
        if self.folder.is_dir():
            for left in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
                with contextlib.suppress(OSError):
                    left.unlink()
                    gone.append(left.name)
        return gone


def _corrupt(digest: str, why: str) -> Refusal:
    return Refusal("blob_corrupt", f"the stored bundle {digest} is not what was installed: {why}",
                   hint="install the plugin's .apx file again")


def _disk_refusal(error: OSError, folder: Path) -> Refusal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal("disk_full", f"the disk is full: {folder} has no room for the bundle; nothing was installed",
                       hint="free some space and try again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Refusal("store_read_only", f"the bundle store {folder} cannot be written: {os.strerror(error.errno)}",
                       hint="make the folder writable for the daemon")
    return Refusal("store_failed", f"the bundle store {folder}: {error}", hint="check the disk")


class BundleSource:
    """Where a worker's code is loaded from: bundles of ``plugins_dir`` are kept in memory, installed ones are in the
    store."""

    def __init__(self, store: BlobStore | None = None) -> None:
        self._store = store
        self._of: dict[str, str] = {}  # plugin of the folder → digest of its content
        self._in_memory: dict[str, tuple[dict[str, bytes], dict[str, str]]] = {}
        self._maps: dict[str, dict[str, bytes]] = {}

    def replace(self, bundles: Iterable[Bundle]) -> None:
        """Keeps ``bundles`` in memory, in the place of those before.

        If a plugin's content has changed, its content before stays until the next call, since a worker may be starting
        with it. Older content, and that of removed plugins, is dropped.
        """
        new = {bundle.manifest.id: bundle for bundle in bundles}
        replaced = {digest for plugin, digest in self._of.items() if plugin in new}
        self._of = {plugin: bundle.digest for plugin, bundle in new.items()}
        self._in_memory = {digest: content for digest, content in self._in_memory.items() if digest in replaced}
        self._in_memory |= {bundle.digest: (bundle.loaded, bundle.sha256) for bundle in new.values()}
        self._maps = {digest: maps for digest, maps in self._maps.items() if digest in replaced}
        self._maps |= {bundle.digest: bundle.map_files for bundle in new.values()}

    @property
    def in_memory(self) -> frozenset[str]:
        """The digests of the bundles that are kept in memory."""
        return frozenset(self._in_memory)

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """The files of ``digest`` and their SHA-256, verified. Blocks for one read; raises Refusal."""
        content = self._in_memory.get(digest)
        if content is not None:
            return content
        if self._store is None:
            raise Refusal("blob_missing", f"the bundle {digest} is not in memory, and the daemon has no bundle store")
        bundle = self._store.read(digest)
        return bundle.loaded, bundle.sha256

    def maps(self, digest: str) -> dict[str, bytes]:
        """What the bundle ``digest`` has of source maps; empty if it has none. Blocks for one read; raises Refusal."""
        if digest in self._maps:
            return self._maps[digest]
        return self._store.read(digest).map_files if self._store is not None else {}
