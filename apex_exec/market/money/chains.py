"""What daemons have shipped of their ledgers into one marketplace: chains, sums, who is behind, whether all holds.

A *chain* is one daemon's ledger. Its row says how far it was shipped, and until when it is *covered*: no event with an
earlier time is still to come. Its segments hold the events themselves, and ``chain_usage`` what they add up to by user.
Every function but ``verify_chains`` takes an open transaction.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from apex_exec.errors import Code, Refusal
from apex_exec.ledger.reading import Event
from apex_exec.ledger.records import GENESIS, chain_hash
from apex_exec.market.money.metering import Key, Usage, meter
from apex_exec.market.money.months import NS, month_interval, parse_month
from apex_exec.market.store import NAME as STORE
from apex_exec.market.store import SUMS, as_struct, chain_segments, chain_usage, chains
from apex_exec.registry.database import transact

SIGNED_PREFIX = b"apex-exec chain v1\n"
SEGMENTS_AT_ONCE = 20
"""Segments that one query brings: at most some eighty megabytes when they are unpacked, and mostly two."""
_decode = msgspec.json.Decoder(Event).decode


class Chain(msgspec.Struct, frozen=True):
    """One row of ``chains``. ``first_ns`` is when it was first shipped, ``left_ns`` when an operator went on without it
    (0: it is waited for)."""

    chain: str
    node: str
    public_key: str
    holder: str
    first_ns: int
    from_seq: int
    to_seq: int
    hash: str
    covered_ns: int
    head: str
    changed_ns: int
    left_ns: int


class ChainFound(msgspec.Struct, frozen=True):
    """What ``verify_chains`` found of one chain; ``problem`` is "" if it holds."""

    chain: str
    node: str
    first: int
    last: int
    covered_ns: int
    problem: str


def head_text(chain: str, to_seq: int, digest: str, covered_ns: int) -> bytes:
    """What a chain's key signs of it."""
    return SIGNED_PREFIX + msgspec.json.encode([chain, to_seq, digest, covered_ns])


def every(db: sa.Connection) -> list[Chain]:
    """All chains, by their nodes' names."""
    return [as_struct(row, Chain) for row in db.execute(sa.select(chains).order_by(chains.c.node, chains.c.chain))]


def behind(db: sa.Connection, month: str) -> list[Chain]:
    """The chains of which events of ``month`` may be still to come. Raises Refusal("month_invalid")."""
    end_ns = month_interval(*parse_month(month))[1] * NS
    return [one for one in every(db) if one.first_ns < end_ns and one.covered_ns < end_ns and not one.left_ns]


def check_covered(db: sa.Connection, month: str) -> None:
    """Raises Refusal("chains_behind") with the names of those that are."""
    late = behind(db, month)
    if late:
        named = "; ".join(f"{one.node} (chain {one.chain}) until {_moment(one.covered_ns)}" for one in late[:10])
        raise Refusal("chains_behind", f"{month} cannot be closed, because {len(late)} ledgers have not been shipped "
                                       "to its end: "
                      f"{named}", code=Code.CONFLICT, details={"chains": [one.chain for one in late]},
                      hint="start those daemons, or give them access to the database. To bill without a lost ledger: "
                           "apex-exec billing close --month MONTH --without CHAIN --reason TEXT")


def leave(db: sa.Connection, names: Iterable[str], now_ns: int) -> list[str]:
    """Goes on without these chains; what of them arrives later is corrected later. Returns who they were. Raises
    Refusal("chain_unknown")."""
    known = {one.chain: one for one in every(db)}
    for name in names:
        if name not in known:
            raise Refusal("chain_unknown", f"there is no chain {name[:64]!a}", code=Code.NOT_FOUND,
                          hint="the message that asked for --without names the chain")
        db.execute(sa.update(chains).where(chains.c.chain == name, chains.c.left_ns == 0).values(left_ns=now_ns))
    return [f"{known[name].node} ({name})" for name in names]


def usage_of(db: sa.Connection, month: str = "") -> dict[Key, Usage]:
    """What all chains add up to, of one month or of all, sorted by plugin, user and month."""
    c = chain_usage.c
    sums = [sa.cast(sa.func.sum(c[name]), sa.BigInteger).label(name) for name in SUMS]
    query = sa.select(c.plugin, c.user_id, c.month, *sums).group_by(c.plugin, c.user_id, c.month)
    rows = db.execute(query.where(c.month == month) if month else query)
    found = {(row.plugin, row.user_id, row.month): as_struct(row, Usage) for row in rows}
    return dict(sorted(found.items()))


def pack_segment(bodies: list[bytes]) -> bytes:
    """The events' texts as they are stored: they contain no line break."""
    return zlib.compress(b"\n".join(bodies), 1)


def verify_chains(engine: sa.Engine, reached: Callable[[int], None] = lambda _events: None) -> list[ChainFound]:
    """Reads every segment of every chain again: each event, the hash that chains it, the signed end, and the sums.

    Blocks for about a second for 300,000 events. Raises Refusal if the database fails.
    """
    counted = 0

    def tell(events: int) -> None:
        nonlocal counted
        counted += events
        reached(counted)

    return [_verify(engine, one, tell) for one in transact(engine, STORE, every)]


def _verify(engine: sa.Engine, chain: Chain, tell: Callable[[int], None]) -> ChainFound:
    walk = _Walk(chain)
    problem = ""
    while not problem and walk.seq < chain.to_seq:
        rows = transact(engine, STORE, lambda db: db.execute(sa.select(chain_segments).where(
            chain_segments.c.chain == chain.chain, chain_segments.c.from_seq > walk.seq).order_by(
            chain_segments.c.from_seq).limit(SEGMENTS_AT_ONCE)).all())
        if not rows:
            problem = f"the segment from event {walk.seq + 1} is missing"
        for row in rows:
            if walk.seq >= chain.to_seq:
                break  # it was shipped meanwhile
            if problem := walk.take(row):
                break
            tell(row.to_seq - row.from_seq + 1)
    problem = problem or walk.check_end()
    if not problem and walk.seq == chain.to_seq:
        problem = _sums_differ(engine, chain, walk)
    return ChainFound(chain.chain, chain.node, chain.from_seq, walk.seq, chain.covered_ns, problem)


class _Walk:
    """Follows one chain from segment to segment."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.seq = chain.from_seq - 1
        self.sums: dict[tuple[str, str], list[int]] = {}
        self._hash: bytes | None = GENESIS if chain.from_seq == 1 else None

    def take(self, row: Any) -> str:
        """Why the next segment is not what was shipped; "" if it is."""
        if row.from_seq != self.seq + 1:
            return f"the segment from event {self.seq + 1} is missing"
        before = bytes.fromhex(row.prev_hash)
        if self._hash is not None and before != self._hash:
            return f"the segment from event {row.from_seq} does not continue the one before"
        try:
            bodies = zlib.decompress(row.data).split(b"\n")
        except zlib.error as error:
            return f"the segment from event {row.from_seq} cannot be unpacked: {error}"
        for body in bodies:
            if not body.startswith(b'{"seq":%d,' % (self.seq + 1)):
                return f"event {self.seq + 1} is not in its place"
            before = chain_hash(before, body)
            self.seq += 1
        if before.hex() != row.hash or self.seq != row.to_seq:
            return f"an event between {row.from_seq} and {row.to_seq} is not what was shipped"
        self._hash = before
        for (plugin, _, month), usage in meter(map(_decode, bodies)).items():
            total = self.sums.setdefault((month, plugin), [0] * len(SUMS))
            for place, name in enumerate(SUMS):
                total[place] += getattr(usage, name)
        return ""

    def check_end(self) -> str:
        """Why the end is not the one that the chain's own key signed; "" if it is."""
        chain = self.chain
        if self._hash is not None and (self.seq, self._hash.hex()) != (chain.to_seq, chain.hash):
            return f"the chain ends at event {self.seq}, and not as its row says"
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(chain.public_key)).verify(
                bytes.fromhex(chain.head), head_text(chain.chain, chain.to_seq, chain.hash, chain.covered_ns))
        except (ValueError, InvalidSignature):
            return "its end is not signed by its ledger's key"
        return ""


def _sums_differ(engine: sa.Engine, chain: Chain, walk: _Walk) -> str:
    """Users are under pseudonyms in the events and under their ids in the sums, so plugins' sums are compared."""
    def work(db: sa.Connection) -> tuple[bool, dict[tuple[str, str], list[int]]]:
        now = db.execute(sa.select(chains.c.to_seq).where(chains.c.chain == chain.chain)).scalar()
        c = chain_usage.c
        rows = db.execute(sa.select(c.month, c.plugin, *(sa.cast(sa.func.sum(c[name]), sa.BigInteger)
                                                         for name in SUMS)).where(
            c.chain == chain.chain).group_by(c.month, c.plugin))
        return now == chain.to_seq, {(row[0], row[1]): [int(value) for value in row[2:]] for row in rows}

    is_same, stored = transact(engine, STORE, work)
    if not is_same or stored == {key: sums for key, sums in walk.sums.items() if any(sums)}:
        return ""
    where = min(key for key in stored.keys() | walk.sums.keys() if stored.get(key) != walk.sums.get(key))
    return f"the sums of {where[1]} in {where[0]} are not those of its events"




def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ns else "never"
