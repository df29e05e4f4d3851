"""The published index: static files in a folder that any web server or mirror can serve. Pure except for the signature.

``index.json`` has the index as text, and the market key's signature over exactly that text. The index has a version
that only grows and an expiry date, so that neither an old index (rollback) nor one that a mirror stopped refreshing
(freeze) goes unnoticed; and the SHA-256 of every bundle, so that a swapped one does not either. The bundles are beside
it, as ``bundles/<digest>.apx``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NoReturn

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apex_exec.common.canonical_json import canonical_json
from apex_exec.common.names import is_early, version_key
from apex_exec.core.staged_release import is_offered
from apex_exec.errors import Code, Refusal
from apex_exec.market.money.pricing import Price
from apex_exec.market.review.states import OFFERED
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.trust.signing import key_id_of, raw_public, verify_bytes

NAME = "index.json"
INDEX_BYTES_MAX = 16 * 1024 * 1024
LIFETIME_NS = 7 * 24 * 3600 * 1_000_000_000
"""How long an index is valid. It is signed anew at every change and every start, and when half of this time is over."""
_PREFIX = b"apex-exec index v1\n"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Entry(msgspec.Struct, frozen=True):
    """One published version. ``digest`` names the bundle's content, ``sha256`` the bytes of its ``.apx``. If ``state``
    is "staged", it is offered to ``percent`` of the customers; if "halted", to nobody."""

    id: str
    version: str
    digest: str
    sha256: str
    size: int
    name: str
    author: str
    state: str
    price: Price
    permissions: list[str] = []
    coverage: str = ""
    published_ns: int = 0
    description: str = ""
    licence: str = ""
    homepage: str = ""
    keywords: list[str] = []
    icon: str = ""
    percent: int = 100

    @property
    def path(self) -> str:
        """The place of the bundle, relative to the index."""
        return f"bundles/{self.digest}.apx"


SHOWN = ("description", "licence", "homepage", "keywords", "icon")
"""What an entry has of the manifest for people to read."""


class Index(msgspec.Struct, frozen=True):
    """What is on offer, with the latest facts of each version. Revoked ones stay listed, so that installations can be
    stopped."""

    version: int
    issued_ns: int
    expires_ns: int
    plugins: list[Entry]
    format: int = 1


class Envelope(msgspec.Struct, frozen=True):
    """``index.json``: the index as text, and who signed that text."""

    index: str
    key_id: str
    signature: str


class Seen(msgspec.Struct, frozen=True):
    """The newest index accepted from a place so far."""

    version: int
    sha256: str


def seal(index: Index, key: Ed25519PrivateKey) -> bytes:
    """The bytes of ``index.json``."""
    text = canonical_json(index)
    signature = key.sign(_PREFIX + text.encode()).hex()
    return msgspec.json.encode(Envelope(text, key_id_of(raw_public(key)), signature))


def open_index(data: bytes, keys: dict[str, str], now_ns: int, seen: Seen | None, *,
               expired: bool = False) -> tuple[Index, Seen]:
    """The index in ``data`` if it can be accepted, and what to remember of it.

    ``expired`` also accepts an expired index: what it says about revoked versions stays true.

    ``keys`` are the market keys trusted now: id → public key (hex). Raises Refusal: index_invalid, index_untrusted,
    index_rolled_back, index_forked (two indexes of one version), index_expired.
    """
    try:
        envelope = msgspec.json.decode(data[: INDEX_BYTES_MAX + 1], type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad("index_invalid", f"this is not a marketplace index: {error}"[:200]) from None
    public = keys.get(envelope.key_id)
    if public is None:
        raise _bad("index_untrusted",
                   f"the index is signed by {envelope.key_id[:32]!a}, which is not a market key here",
                   "register the marketplace's key: apex-exec keys register NAME --role market")
    if not verify_bytes(public, _PREFIX + envelope.index.encode(), envelope.signature):
        raise _bad("index_untrusted", "the index's signature does not match its content", "use another mirror")
    try:
        index = msgspec.json.decode(envelope.index, type=Index)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad("index_invalid", f"this release cannot read the index: {error}"[:200]) from None
    now = Seen(index.version, hashlib.sha256(envelope.index.encode()).hexdigest())
    if seen is not None and now.version < seen.version:
        raise _bad("index_rolled_back", f"the index is version {now.version}, but {seen.version} was seen here before",
                   "use another mirror")
    if seen is not None and now.version == seen.version and now.sha256 != seen.sha256:
        raise _bad("index_forked", f"two different indexes call themselves version {now.version}", "use another mirror")
    if now_ns >= index.expires_ns and not expired:
        raise _bad("index_expired", f"the index expired {(now_ns - index.expires_ns) // 10**9} s ago; the "
                   "mirror may be outdated", "use another mirror, or refresh: apex-exec market publish --refresh")
    return index, now


def is_open(entry: Entry, customer: str) -> bool:
    """Whether a version is offered to ``customer``. A state that this release does not know is offered to nobody."""
    if entry.state == "staged":
        return is_offered(entry.digest, customer, entry.percent)
    return entry.state in ("published", "deprecated")


def find(index: Index, plugin: str, version: str = "", customer: str | None = None) -> Entry:
    """The requested version, otherwise the newest one on offer to ``customer``; or, if that is None, the version that
    speaks for the plugin, which everybody is offered if there is one. Raises Refusal: plugin_unknown, plugin_revoked,
    release_halted, release_not_offered."""
    entries = [entry for entry in index.plugins if entry.id == plugin and version in ("", entry.version)]
    if not entries:
        raise Refusal("plugin_unknown", f"the index has no {plugin[:60]!r} {version[:20]}".rstrip(),
                      hint="apex-exec market search WORD", code=Code.NOT_FOUND)
    offered = [entry for entry in entries if entry.state != "revoked"]
    if not offered:
        raise Refusal("plugin_revoked", f"{plugin} was revoked by the marketplace")
    if customer is not None:
        offered = [entry for entry in offered if is_open(entry, customer)] or _closed(offered)
    best = max(offered, key=lambda entry: (
        OFFERED.get(entry.state, 0) if customer is None else entry.state in ("published", "staged"),
        not is_early(entry.version), version_key(entry.version)))
    if not _DIGEST.fullmatch(best.digest) or not 0 < best.size <= Bounds.apx_bytes_max():
        raise _bad("index_invalid", f"the index has an invalid entry for {plugin}")
    return best


def _closed(entries: list[Entry]) -> NoReturn:
    """Nothing of a plugin is on offer to a customer: says why."""
    last = max(entries, key=lambda entry: version_key(entry.version))
    if last.state == "staged":
        raise Refusal("release_not_offered", f"{last.id} {last.version} is offered to {last.percent} % of the "
                      "customers so far, and not yet to this one", hint="try again when its release has gone on",
                      code=Code.CONFLICT)
    raise Refusal("release_halted", f"the release of {last.id} {last.version} was halted by the marketplace",
                  hint="install another version, or try again when it is resumed", code=Code.CONFLICT)


def check_bundle(label: str, size: int, sha256: str, data: bytes) -> None:
    """Raises Refusal("bundle_swapped") if ``data`` is not the bundle that the index names."""
    if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
        raise _bad("bundle_swapped", f"the bundle of {label} is not the one that the index names", "use another mirror")


def search(index: Index, words: str, customer: str | None = None) -> list[Entry]:
    """The entries on offer to ``customer``, or to anybody, whose id, name, author, description or keywords contain
    every word, newest version of each, by id."""
    wanted = words.casefold().split()
    found: dict[str, Entry] = {}
    for entry in index.plugins:
        text = " ".join((entry.id, entry.name, entry.author, entry.description, *entry.keywords)).casefold()
        if entry.state != "revoked" and all(word in text for word in wanted) and (
                customer is None or is_open(entry, customer)):
            found[entry.id] = find(index, entry.id, customer=customer)
    return [found[name] for name in sorted(found)]


def _bad(reason: str, message: str, hint: str = "") -> Refusal:
    return Refusal(reason, message, hint=hint)


def public_facts(entry: Entry) -> dict[str, Any]:
    """What ``market search`` and ``show`` print about an entry."""
    facts: dict[str, Any] = msgspec.to_builtins(entry)
    return {key: facts[key] for key in ("id", "version", "name", "author", "state", "price", "permissions", "coverage",
                                        "digest", *SHOWN)}
