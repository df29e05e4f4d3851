"""The keys that secrets are encrypted with at rest: AES-256-GCM, and every ciphertext names its key.

A key file has one key a line, ``NAME BASE64``; the first line encrypts, all of them decrypt. So a key is replaced in
two steps, put the new one first and encrypt everything anew, and several daemons on one store can know both meanwhile.
A ciphertext is bound to its row: moved to another plugin, owner or name, it does not decrypt. Every call blocks.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
import subprocess
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from apex_exec.common.files import create_file, replace_file
from apex_exec.config import Settings
from apex_exec.errors import Code, Refusal

KEY_BYTES = 32
NONCE_BYTES = 12
FILE_BYTES_MAX = 65_536
COMMAND_SECONDS = 10
FORMAT = "v1"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")


class SecretKeys:
    """Keys by name; ``current`` encrypts."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._keys = keys
        self.current = next(iter(keys))

    def encrypt(self, text: str, row: tuple[str, ...]) -> str:
        """``text`` as it is stored in ``row``: plugin, scope, owner and name."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(self._keys[self.current]).encrypt(nonce, text.encode(), _bound_to(row))
        return f"{FORMAT}:{self.current}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, stored: str, row: tuple[str, ...]) -> str:
        """The text that ``stored`` was made of. Raises Refusal("secrets_unavailable")."""
        name = key_of(stored)
        key = self._keys.get(name)
        if key is None:
            raise unavailable(f"the key {name[:40]!a} is not among those of this daemon")
        try:
            raw = base64.b64decode(stored.split(":", 2)[2], validate=True)
            return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound_to(row)).decode()
        except (InvalidTag, ValueError, IndexError):
            raise unavailable(f"a secret of {row[0]} was changed in the database, or belongs to another row") from None


def _bound_to(row: tuple[str, ...]) -> bytes:
    return "\0".join(row).encode()


def key_of(stored: str) -> str:
    """The name of the key that a ciphertext was made with."""
    parts = stored.split(":", 2)
    return parts[1] if len(parts) == 3 and parts[0] == FORMAT else ""  # noqa: PLR2004 - format, key, bytes


def unavailable(why: str) -> Refusal:
    """Secrets cannot be read; ``why`` names a file, a key or a command and never a secret."""
    return Refusal("secrets_unavailable", why,
                   hint="see secrets.key_file and secrets.key_command; a lost key is restored from your own copy, or "
                        "`apex-exec secrets rotate --forget-unreadable` deletes what it had encrypted")


def key_path(settings: Settings) -> Path:
    """Where the file of keys is."""
    return Path(settings.secrets.key_file.replace("<state_dir>", str(settings.state_path)))


def load(settings: Settings, *, may_create: bool = False) -> SecretKeys:
    """The keys by the configuration. With ``may_create`` a missing key file is made, 0600, with a new key.

    Raises Refusal("secrets_unavailable") if there are none, or if others than their owner could have read them.
    """
    if settings.secrets.key_command:
        return _parsed(_said(list(settings.secrets.key_command)), "secrets.key_command")
    path = key_path(settings)
    try:
        return _parsed(_private(path), str(path))
    except FileNotFoundError:
        if not may_create:
            raise unavailable(f"there is no key file {path}") from None
    except OSError as error:
        raise unavailable(f"the key file {path} cannot be read: {error.strerror}") from None
    try:
        create_file(path, _line(_new_name(), secrets.token_bytes(KEY_BYTES)).encode())
        return _parsed(_private(path), str(path))
    except OSError as error:
        raise unavailable(f"the key file {path} cannot be made: {error.strerror}") from None


def _private(path: Path) -> str:
    """The file's text, if only its owner can read it. Raises OSError, Refusal."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise unavailable(f"the key file {path} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}); "
                              f"run: chmod 600 {path}")
        if found.st_uid not in (os.geteuid(), 0):
            raise unavailable(f"the key file {path} belongs to uid {found.st_uid}, and not to the daemon's user")
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:  # half a line would be no key, and would say nothing of the reason
        raise unavailable(f"the key file {path} has more than {FILE_BYTES_MAX} bytes: take out old keys that no backup "
                          "needs")
    return data.decode("ascii", "replace")


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise unavailable(f"secrets.key_command gave no keys within {COMMAND_SECONDS} s") from None
    except OSError as error:
        raise unavailable(f"secrets.key_command: {command[0]}: {error.strerror}") from None
    if done.returncode:
        raise unavailable(f"secrets.key_command ended with status {done.returncode}")
    return done.stdout[:FILE_BYTES_MAX].decode("ascii", "replace")


def _parsed(text: str, where: str) -> SecretKeys:
    """The keys in ``text``. Errors name a line's number and nothing of its content."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = base64.b64decode(words[1], validate=True) if len(words) == 2 else b""  # noqa: PLR2004 - name, key
        except (binascii.Error, ValueError):
            key = b""
        if _NAME.fullmatch(words[0]) is None or len(key) != KEY_BYTES or words[0] in keys:
            raise unavailable(f"{where}: line {number} is not a key: NAME and {KEY_BYTES} bytes in base64")
        keys[words[0]] = key
    if not keys:
        raise unavailable(f"{where} contains no key")
    return SecretKeys(keys)


def _line(name: str, key: bytes) -> str:
    return f"{name} {base64.b64encode(key).decode()}\n"


def _new_name() -> str:
    return f"k{secrets.token_hex(4)}"


def add_key(settings: Settings) -> str:
    """Puts a new key first in the key file and returns its name; the old ones stay, for backups. Raises Refusal."""
    if settings.secrets.key_command:
        raise Refusal("keys_elsewhere", "secrets.key_command has the keys, so this daemon cannot add one",
                      code=Code.INVALID_INPUT,
                      hint="have it print a new key first, reload, and run `apex-exec secrets rotate --keep-key`")
    path = key_path(settings)
    try:
        old = _private(path)
    except FileNotFoundError:
        raise unavailable(f"there is no key file {path}") from None
    except OSError as error:
        raise unavailable(f"the key file {path} cannot be read: {error.strerror}") from None
    name = _new_name()
    text = _line(name, secrets.token_bytes(KEY_BYTES)) + old
    if len(text) > FILE_BYTES_MAX:
        raise unavailable(f"the key file {path} has no room for another key: take out old ones that no backup needs")
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise unavailable(f"the key file {path} cannot be written: {error.strerror}") from None
    return name
