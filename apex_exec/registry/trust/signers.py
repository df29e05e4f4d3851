"""A key that never leaves a KMS or an HSM: a command signs with it, and a file says which.

``NAME.signer`` in the folder of keys is TOML: ``command``, a list of words, and ``public_key``, 64 hexadecimal digits.
The command reads the message on its standard input and writes the Ed25519 signature, as 64 raw bytes, hexadecimal or
base64. Every signature is checked with the public key before it is used, so a command that signs with another key, or
signs a hash of the message, is found where the signature is made and not where it is read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from apex_exec.errors import Code, Refusal

SUFFIX = ".signer"
COMMAND_SECONDS = 120.0
"""How long a command may take: a person may have to touch a token or type a PIN."""
SIGNATURE_BYTES = 64
OUTPUT_BYTES_MAX = 4096


class Signer(msgspec.Struct, frozen=True):
    """A key of which only the public half is here: ``public`` has its 32 bytes. ``path`` is the file that says so."""

    path: Path
    command: tuple[str, ...]
    public: bytes
    seconds: float = COMMAND_SECONDS

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``. Runs the command, and blocks for ``seconds`` at most. Raises Refusal."""
        made = _read(self._output(message))
        try:
            if made is None:
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(self.public).verify(made, message)
        except InvalidSignature:
            raise _failed(f"{self.command[0]} did not write a signature by the key of {self.path}",
                          "let it sign its standard input itself, not a hash, with that Ed25519 key") from None
        return made

    def _output(self, message: bytes) -> bytes:
        try:
            done = subprocess.run(self.command, input=message, capture_output=True, timeout=self.seconds)
        except subprocess.TimeoutExpired:
            raise _failed(f"{self.command[0]} gave no signature within {self.seconds:g} s",
                          "see whether it waits for somebody") from None
        except OSError as error:
            raise _failed(f"{self.command[0]} cannot be run: {error.strerror}",
                          f"mend command in {self.path}") from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
            raise _failed(f"{self.command[0]} ended with status {done.returncode}" + (f": {words}" if words else ""),
                          "run it by hand with any text on its standard input")
        return done.stdout[:OUTPUT_BYTES_MAX]


def load_signer(path: Path) -> Signer:
    """What the file says. It names a command that is run, so nobody but its owner may write it, and the owner is the
    user or root. Raises Refusal."""
    try:
        info = path.stat()
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)[:200]) from None
    if info.st_mode & 0o022 or info.st_uid not in (0, os.geteuid()):
        raise Refusal("key_exposed", f"{path} names a command, and others may write it",
                      hint=f"make it yours, and chmod 600 {path}")
    command, public = found.get("command"), found.get("public_key")
    if not (isinstance(command, list) and command and all(isinstance(word, str) and word for word in command)):
        raise _unreadable(path, "command must be a list of words, as [\"kms-sign\", \"--key\", \"acme\"]")
    if not (isinstance(public, str) and re.fullmatch("[0-9a-f]{64}", public)):
        raise _unreadable(path, "public_key must be 64 hexadecimal digits")
    return Signer(path, tuple(command), bytes.fromhex(public))


def text_of(command: Sequence[str], public: bytes) -> bytes:
    """The file's text. JSON's strings are TOML's, if nothing but ASCII is in them."""
    return f"command = {json.dumps(list(command))}\npublic_key = \"{public.hex()}\"\n".encode()


def _read(output: bytes) -> bytes | None:
    """The 64 bytes that a command has written in one of the three ways."""
    if len(output) == SIGNATURE_BYTES:
        return output
    text = b"".join(output.split())
    for decode in (binascii.unhexlify, lambda found: base64.b64decode(found, validate=True)):
        try:
            made = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(made) == SIGNATURE_BYTES:
            return made
    return None


def _failed(message: str, hint: str) -> Refusal:
    return Refusal("signer_failed", message, hint=hint, code=Code.INVALID_INPUT)


def _unreadable(path: Path, why: str) -> Refusal:
    return Refusal("key_unreadable", f"{path}: {why}", hint="write it with `apex-exec keys signer NAME`",
                   code=Code.INVALID_INPUT)
