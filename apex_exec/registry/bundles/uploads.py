"""Bundles that arrive in parts, since one message of the admin endpoint is bounded: ``<state_dir>/uploads``.

A caller sends an ``.apx`` piece by piece under the SHA-256 of the whole, and then names that hash in the operation that
wants the bundle. What one caller may leave unfinished is bounded in number, size and time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.blobs import is_digest
from apex_exec.registry.bundles.bounds import Bounds

PART_BYTES_MAX = 4 * 1024 * 1024
UNFINISHED_MAX = 2
"""How many uploads of one uid may wait to be finished or used."""
ALL_MAX = 16
"""The same for all callers together."""
SECONDS_MAX = 3600.0
"""After this time without a new part an upload is dropped."""


class Uploads:
    """The folder of uploads. Every method may block on the disk."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def add(self, uid: int, digest: str, offset: int, part: bytes) -> int:
        """Adds one part and returns how many bytes are there. ``offset`` is where the part begins: how many bytes are
        there, or 0 to begin anew. Raises Refusal."""
        path = self._path(uid, digest)
        if len(part) > PART_BYTES_MAX:
            raise Refusal("part_too_large", f"a part has at most {PART_BYTES_MAX:,} bytes; this has {len(part):,}",
                          code=Code.INVALID_INPUT, hint="send smaller parts")
        if offset < 0 or offset + len(part) > Bounds.apx_bytes_max():
            raise Refusal("bundle_too_large", f"an .apx has at most {Bounds.apx_bytes_max():,} bytes "
                          "(registry.bundle_bytes, registry.bundle_files)", code=Code.INVALID_INPUT,
                          hint="leave out what the plugin does not need")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            there = path.stat().st_size if path.exists() else 0
            if offset not in (0, there):
                raise Refusal("wrong_offset", f"{there} bytes are there, and the part begins at {offset}",
                              code=Code.CONFLICT, hint="continue where it ends, or start again at 0",
                              details={"received": there})
            if not path.exists():
                self._make_room(uid)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if offset else os.O_TRUNC)
            with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                file.write(part)
        except OSError as error:
            raise Refusal("disk", f"{self._folder}: {os.strerror(error.errno or 0)}",
                          hint="make room, or make the folder writable") from None
        return offset + len(part)

    def take(self, uid: int, digest: str) -> bytes:
        """The whole upload, which is removed. Raises Refusal if it is not there, or its hash is another."""
        path = self._path(uid, digest)
        try:
            data = path.read_bytes()
            path.unlink()
        except FileNotFoundError:
            raise Refusal("not_uploaded", f"nothing was uploaded under {digest}", code=Code.NOT_FOUND,
                          hint="send its parts with plugin.upload first; they are kept for an hour") from None
        except OSError as error:
            raise Refusal("disk", f"{path.parent}: {os.strerror(error.errno or 0)}", hint="make it readable") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise Refusal("upload_damaged", f"the {len(data)} bytes that were uploaded have another hash than {digest}",
                          code=Code.INVALID_INPUT, hint="send all its parts again")
        return data

    def _path(self, uid: int, digest: str) -> Path:
        if not is_digest(digest):
            raise Refusal("not_a_digest", f"{digest[:80]!a} is not a SHA-256", code=Code.INVALID_INPUT,
                          hint="name the upload by the SHA-256 of all its bytes, in hexadecimal")
        return self._folder / f"{uid}-{digest}"

    def _make_room(self, uid: int) -> None:
        """Drops what is too old. Raises Refusal if the caller, or all of them together, have too many."""
        waiting = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if self._now() - path.stat().st_mtime > SECONDS_MAX:
                    path.unlink()
                else:
                    waiting.append(path.name)
        own = sum(name.startswith(f"{uid}-") for name in waiting)
        if own >= UNFINISHED_MAX or len(waiting) >= ALL_MAX:
            raise Refusal("too_many_uploads", f"{own} uploads of this user wait already, {len(waiting)} in all",
                          code=Code.OVERLOADED, hint="use them, or wait: they are dropped after an hour")
