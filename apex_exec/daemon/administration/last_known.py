"""The registry as it was last known, in a file of the state folder: a daemon starts from it while its server is away.

The file is written by this daemon only, and carries a code (HMAC-SHA256) under a key that only this daemon's user can
read: a file that was changed, cut off, or made by another daemon is not used. It holds what was served, not the rows;
operations wait for the database. Every function blocks on the disk.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import msgspec

from apex_exec.common.files import replace_file
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration.telling import Ends
from apex_exec.errors import Refusal
from apex_exec.registry.plugin_settings.rows import Row

NAME, KEY = "registry.known", "keys/registry.known"
_MAGIC = b"apex-exec registry 1\n"
_CODE_BYTES = 32


class Known(msgspec.Struct):
    """``at_ns`` is when it was last compared with the database at ``store`` (a digest of its address), ``change`` the
    number of the latest change then. ``held`` and ``ends`` are those of ``Telling``. ``settings`` are the rows of
    plugins' settings, secrets encrypted as they are in the database."""

    at_ns: int
    store: str
    change: int
    specs: list[PluginSpec]
    held: list[str] = []
    ends: Ends = {}
    settings: list[Row] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Known).decode


def store_of(url: str) -> str:
    """What names a database in the file: its address without the password, hashed."""
    import sqlalchemy as sa

    return hashlib.sha256(sa.make_url(url).render_as_string(hide_password=True).encode()).hexdigest()[:32]


def keep(state: Path, known: Known) -> None:
    """Writes the file. Raises OSError."""
    body = _encode(known)
    replace_file(state / NAME, _MAGIC + _code(_key(state), body) + body, only_writer=True)


def read(state: Path, store: str) -> Known | None:
    """What the file says; None if there is none, or only one about another database.

    Raises Refusal("snapshot_unusable") if it was not written by this daemon as it is.
    """
    path = state / NAME
    try:
        data = path.read_bytes()
        key = (state / KEY).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    code, body = data[len(_MAGIC) :][:_CODE_BYTES], data[len(_MAGIC) + _CODE_BYTES :]
    if not data.startswith(_MAGIC) or not hmac.compare_digest(code, _code(key, body)):
        raise _unusable(path, "the file was changed, or another daemon wrote it")
    try:
        known = _decode(body)
    except msgspec.DecodeError as error:
        raise _unusable(path, f"another release wrote it: {error}") from None
    return known if known.store == store else None


def _unusable(path: Path, why: str) -> Refusal:
    return Refusal("snapshot_unusable", f"{path} is not used: {why}",
                   hint="plugins are served once the registry's database answers; the file is then written again")


def _code(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _MAGIC + body, "sha256")


def _key(state: Path) -> bytes:
    path = state / KEY
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, os.urandom(_CODE_BYTES), only_writer=True)
        return path.read_bytes()
