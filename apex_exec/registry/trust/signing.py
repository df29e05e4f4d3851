"""Ed25519 keys and signatures over a bundle's digest: the author's, and the marketplace's counter-signature.

Private keys are files of the person who signs; the registry stores public keys. A signature is kept in the bundle's
``SIGNATURES.json``, which the digest does not cover, so that signing does not change what is signed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from apex_exec.common.files import create_file
from apex_exec.errors import Code, Refusal
from apex_exec.registry.trust.signers import SUFFIX, Signer, load_signer, text_of

Key = Ed25519PrivateKey | Signer
"""What signs: a private key that is here, or a command that reaches one."""
ROLES = ("author", "approver", "market", "node")
SIGNATURE_FILE_BYTES_MAX = 16_384
SIGNATURES_MAX = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PREFIX = b"apex-exec signature v1\n"


class Signature(msgspec.Struct, frozen=True, rename="camel"):
    """One signature as written in a bundle. ``signed_ns`` is the time on the signer's clock."""

    role: str
    key_id: str
    signed_ns: int
    signature: str


def _malformed(message: str, hint: str = "") -> Refusal:
    return Refusal("signature_malformed", message, hint=hint or "sign it again with `apex-exec plugin sign`",
                   code=Code.INVALID_INPUT)


def key_id_of(public: bytes) -> str:
    """The id of a raw public key: the first half of its SHA-256, 32 hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()[:32]


def raw_public(key: Key | Ed25519PublicKey) -> bytes:
    """The 32 bytes of the public key."""
    if isinstance(key, Signer):
        return key.public
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def check_key_name(name: str) -> str:
    """``name``, if it can name a key's file. Raises Refusal."""
    if _NAME.fullmatch(name) is None or name.endswith(".pub"):
        raise Refusal("bad_name", f"{name[:80]!a} cannot name a key", code=Code.INVALID_INPUT,
                      hint="up to 63 letters, digits, dots, hyphens and underscores, as in acme-2026")
    return name


def new_key(folder: Path, name: str) -> tuple[Path, str]:
    """Makes ``folder/name.key`` (PEM, 0600) and ``name.pub``, and never overwrites. Returns the private file's path and
    the key's id."""
    check_key_name(name)
    key = Ed25519PrivateKey.generate()
    path = folder / f"{name}.key"
    _write_pair(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), key.public_key())
    return path, key_id_of(raw_public(key))


def _write_pair(path: Path, private: bytes, public: Ed25519PublicKey) -> None:
    """Writes ``path`` (0600) and the ``.pub`` beside it, or neither."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_file(path, private, 0o600)
        try:
            create_file(path.with_name(f"{path.stem}.pub"),
                        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
        except OSError:
            path.unlink(missing_ok=True)  # half a pair is useless, and would block the next attempt
            raise
    except FileExistsError as error:
        raise _key_exists(error.filename) from None
    except OSError as error:
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (
            "run this as the user who owns the folder, or make the folder writable")
        raise Refusal("unwritable", f"{path}: {error.strerror}", hint=hint) from None


def _key_exists(path: str) -> Refusal:
    return Refusal("key_exists", f"{path} already exists", code=Code.CONFLICT,
                   hint="choose another name; a lost key cannot be recreated")


def find_key(folder: Path, name: str, suffix: str) -> Path:
    """The file of the key ``name``: ``name`` itself if it is an existing path, otherwise ``folder/name<suffix>``.
    Raises Refusal."""
    given = Path(name)
    if ("/" in name or given.suffix in (".key", ".pub", ".pem", SUFFIX)) and given.exists():
        return given
    path = folder / f"{name}{suffix}"
    if not path.exists():
        raise Refusal("key_not_found", f"the key {name!a} does not exist: looked for {path}", code=Code.NOT_FOUND,
                      hint=f"make one with `apex-exec keys new {name}`")
    return path


def open_key(folder: Path, name: str) -> Key:
    """The key ``name`` to sign with: the file of that path, otherwise ``folder/name.key`` or ``folder/name.signer``.
    Raises Refusal."""
    signer = folder / f"{name}{SUFFIX}"
    path = signer if not (folder / f"{name}.key").exists() and signer.exists() else find_key(folder, name, ".key")
    return load_signer(path) if path.suffix == SUFFIX else load_private(path)


def new_signer(folder: Path, name: str, command: Sequence[str], public: bytes) -> tuple[Path, str]:
    """Has the command sign a text, and then writes ``folder/name.signer`` (0600) and ``name.pub``; never overwrites.
    Returns the signer's path and the key's id. Raises Refusal."""
    check_key_name(name)
    path = folder / f"{name}{SUFFIX}"
    for other in (path, folder / f"{name}.key", folder / f"{name}.pub"):
        if other.exists():
            raise _key_exists(str(other))
    Signer(path, tuple(command), public).sign(_PREFIX + b"a trial\n")
    _write_pair(path, text_of(command, public), Ed25519PublicKey.from_public_bytes(public))
    return path, key_id_of(public)


def load_private(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file that only its owner can read. Raises Refusal."""
    try:
        info = path.stat()
        data = path.read_bytes()
    except OSError as error:
        raise Refusal("key_unreadable", f"{path}: {error}", hint="name a readable key file") from None
    if info.st_mode & 0o077:
        raise Refusal("key_exposed", f"{path} can be read by others", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise Refusal("key_unreadable", f"{path} is not an unencrypted PEM key: {error}"[:200],
                      hint="make one with `apex-exec keys new NAME`") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refusal("key_unreadable", f"{path} is not an Ed25519 key", hint="make one with `apex-exec keys new NAME`")
    return key


def load_public(path: Path) -> bytes:
    """The raw public key in a PEM file. Raises Refusal."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Refusal("key_unreadable", f"{path} is not a PEM public key: {error}"[:200],
                      hint="it is the .pub file beside the key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Refusal("key_unreadable", f"{path} is not an Ed25519 key", hint="make one with `apex-exec keys new NAME`")
    return raw_public(key)


def _message(role: str, digest: str, key_id: str, signed_ns: int) -> bytes:
    return _PREFIX + f"{role}\n{digest}\n{key_id}\n{signed_ns}\n".encode()


def sign_digest(key: Key, role: str, digest: str, now_ns: int) -> Signature:
    """A signature over ``digest`` in ``role``."""
    key_id = key_id_of(raw_public(key))
    return Signature(role, key_id, now_ns, key.sign(_message(role, digest, key_id, now_ns)).hex())


def verify_bytes(public_hex: str, message: bytes, signature_hex: str) -> bool:
    """True if the key signed exactly these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(bytes.fromhex(signature_hex), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_digest(public_hex: str, digest: str, signature: Signature) -> bool:
    """True if ``signature`` was made by the key over ``digest``, in the role that it names."""
    message = _message(signature.role, digest, signature.key_id, signature.signed_ns)
    return key_id_of(bytes.fromhex(public_hex)) == signature.key_id and verify_bytes(
        public_hex, message, signature.signature)


def read_signatures(data: bytes) -> list[Signature]:
    """The signatures in a bundle's ``SIGNATURES.json``; an empty list for b"". Raises Refusal("signature_malformed").
    """
    if not data:
        return []
    if len(data) > SIGNATURE_FILE_BYTES_MAX:
        raise _malformed(f"SIGNATURES.json is over {SIGNATURE_FILE_BYTES_MAX} bytes")
    try:
        found = msgspec.json.decode(data, type=dict[str, list[Signature]])["signatures"]
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"SIGNATURES.json cannot be read: {error}"[:200]) from None
    if len(found) > SIGNATURES_MAX:
        raise _malformed(f"more than {SIGNATURES_MAX} signatures")
    for item in found:
        if item.role not in ("author", "market") or not re.fullmatch("[0-9a-f]{32}", item.key_id):
            raise _malformed(f"a signature in the role {item.role[:20]!a} by the key {item.key_id[:40]!a}")
    return found


def write_signatures(signatures: list[Signature]) -> bytes:
    """``SIGNATURES.json`` with these signatures: one for each role and key, sorted."""
    unique = {(s.role, s.key_id): s for s in signatures}
    listed: list[Any] = [msgspec.to_builtins(unique[key]) for key in sorted(unique)]
    return json.dumps({"signatures": listed}, indent=1, sort_keys=True).encode() + b"\n"
