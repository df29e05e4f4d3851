"""What a node says of itself, signed: its name, its endpoint, its CURVE key, its capacity.

Who can write to the place where statements are kept (the *book*) could add a node of its own, which would then be
given calls. So a statement counts only with the signature of a key that is registered in the role ``node``, and only
for as long as that key is neither revoked nor expired.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from apex_exec.common.files import replace_file
from apex_exec.errors import Code, ConfigError, Refusal
from apex_exec.fleet.messages import Node
from apex_exec.registry.store import KeyRow
from apex_exec.registry.trust.keyring import unusable_because
from apex_exec.registry.trust.signing import Key, key_id_of, raw_public, verify_bytes

ROLE = "node"
CURVE_KEY = "node.key_secret"
"""The node's own CURVE pair, as pyzmq writes it, in ``fleet.keys_dir``."""
STATEMENT_BYTES_MAX = 4096
CURVES_MAX = 2
"""Keys of one node that count at once: the one it has, and the one it changes to."""
CAPACITY_MIN, CAPACITY_MAX = 0.001, 1e9
"""Numbers so near to 0 that they are all but equal would leave the owners to the order of the nodes' names."""
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
ENDPOINT = re.compile(r"tcp://(\[[0-9a-fA-F:.%]{2,60}\]|[A-Za-z0-9]([A-Za-z0-9._-]{0,250}[A-Za-z0-9])?):([0-9]{1,5})")
_PREFIX = b"apex-exec node v1\n"


class Statement(msgspec.Struct, frozen=True, rename="camel"):
    """One statement. ``curve`` is the public CURVE key in z85; ``issued_ns`` the time on the signer's clock."""

    name: str
    endpoint: str
    curve: str
    capacity: float
    issued_ns: int
    key_id: str = ""
    signature: str = ""

    def message(self) -> bytes:
        """What is signed: every field but the signature."""
        fields = (self.name, self.endpoint, self.curve, repr(float(self.capacity)), str(self.issued_ns), self.key_id)
        return _PREFIX + "\n".join(fields).encode()


def check_words(statement: Statement) -> str:
    """Why these words cannot be a statement, however they are signed; "" if they can."""
    if NAME.fullmatch(statement.name) is None:
        return "its name is not up to 63 of a-z, 0-9, dots and hyphens"
    if ENDPOINT.fullmatch(statement.endpoint) is None:
        return "its endpoint is not tcp://HOST:PORT"
    if len(statement.curve) != 40 or not statement.curve.isascii() or not statement.curve.isprintable():  # noqa: PLR2004 - z85 of 32 bytes
        return "its CURVE key is not 40 characters of Z85"
    if not 0 <= statement.issued_ns < 1 << 63:
        return "its time is none"
    if not CAPACITY_MIN <= statement.capacity <= CAPACITY_MAX:
        return f"its capacity is not between {CAPACITY_MIN:g} and {CAPACITY_MAX:g}"
    return ""


def sign(key: Key, statement: Statement) -> Statement:
    """The statement with the signature of ``key``. Raises Refusal if it could not count."""
    if wrong := check_words(statement):
        raise Refusal("bad_node", f"the node {statement.name[:63]!a}: {wrong}", code=Code.INVALID_INPUT)
    named = msgspec.structs.replace(statement, key_id=key_id_of(raw_public(key)), signature="")
    return msgspec.structs.replace(named, signature=key.sign(named.message()).hex())


def refused_because(statement: Statement, keys: Mapping[str, KeyRow], now_ns: int) -> str:
    """Why the statement does not count, for a person; "" if it does. ``keys`` are the registered ones by id."""
    if wrong := check_words(statement):
        return wrong
    key = keys.get(statement.key_id)
    if key is None or key.role != ROLE:
        return f"it is signed by the key {statement.key_id[:32]!a}, which is not registered in the role node"
    reason, message = unusable_because(key, now_ns)
    if message:
        return message if reason == "key_revoked" else f"{message}, by this machine's clock"
    if not verify_bytes(key.public_key, statement.message(), statement.signature):
        return f"its signature is not that of the key {key.name} over these words: it was changed or forged"
    return ""


def members(statements: list[Statement], keys: Mapping[str, KeyRow], wanted: set[str],
            now_ns: int) -> tuple[list[Node], dict[str, str]]:
    """The nodes of ``wanted`` whose statements hold, and of the others why not."""
    good: dict[str, list[Statement]] = {}
    refused: dict[str, str] = {}
    for statement in statements:
        if statement.name not in wanted:
            continue
        if why := refused_because(statement, keys, now_ns):
            refused[statement.name] = why
        else:
            good.setdefault(statement.name, []).append(statement)
    holders = _holders_of_pairs(good)
    nodes = []
    for name, found in sorted(good.items()):
        own = [statement for statement in found if holders[statement.curve] == name]
        if not own:
            refused[name] = (f"its CURVE key is that of the node {holders[found[0].curve]}, which had it first: give "
                             "each node a pair of its own with `apex-exec fleet keys`")
            continue
        own.sort(key=_newest_first)
        curves = list(dict.fromkeys(statement.curve for statement in own))[:CURVES_MAX]
        nodes.append(Node(name, own[0].endpoint, curves, own[0].capacity))
        refused.pop(name, None)
    for name in sorted(wanted - good.keys() - refused.keys()):
        refused[name] = "the book has no statement of it; make one with `apex-exec fleet keys`"
    return nodes, refused


def _newest_first(statement: Statement) -> tuple[int, str]:
    return -statement.issued_ns, statement.curve


def _holders_of_pairs(good: Mapping[str, list[Statement]]) -> dict[str, str]:
    """CURVE key → the node whose it is: a connection is recognized by its key, so that two nodes with one pair, as a
    machine and its copy have, would be taken for each other. The node that had the pair first keeps it."""
    every = sorted((statement for found in good.values() for statement in found),
                   key=lambda statement: (statement.issued_ns, statement.name))
    holders: dict[str, str] = {}
    for statement in every:
        holders.setdefault(statement.curve, statement.name)
    return holders


def newest_of(name: str, statements: list[Statement], keys: Mapping[str, KeyRow], now_ns: int) -> Statement | None:
    """The newest statement of ``name`` that holds; None if none does."""
    return min((statement for statement in statements
                if statement.name == name and not refused_because(statement, keys, now_ns)),
               key=_newest_first, default=None)


# ---------------------------------------------------------------------- files
def read(data: bytes) -> Statement:
    """A statement from its file or row. Raises ValueError."""
    if len(data) > STATEMENT_BYTES_MAX:
        raise ValueError(f"it has more than {STATEMENT_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=Statement)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def write(path: Path, statement: Statement) -> None:
    """Writes the statement to ``path``, in place of what was there. Raises ConfigError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, msgspec.json.format(msgspec.json.encode(statement)) + b"\n", mode=0o644)
    except OSError as error:
        raise ConfigError(f"fleet.book: {path}: {error.strerror}") from None
