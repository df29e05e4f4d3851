"""Ships this daemon's ledger into the marketplace's database, where several daemons share one on a server.

One transaction stores a segment of events, adds what they come to, and moves the chain's mark: all of it, or nothing.
It begins where the database says, so that each event is shipped once, whatever died before or after a commit, and even
if the database was restored from a backup. Nothing here stops the ledger: without the server it goes on, and is shipped
later.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from apex_exec.errors import Code, Refusal
from apex_exec.ledger.chain import holders, next_chain, note_holder, own_chain
from apex_exec.ledger.checkpoints import KEY, load_key
from apex_exec.ledger.people import Names
from apex_exec.ledger.reading import Event, ends_of, hash_of, open_readonly
from apex_exec.ledger.records import LedgerError, chain_hash, nanoseconds_of, time_of
from apex_exec.market.money.chains import Chain, head_text, pack_segment
from apex_exec.market.money.metering import Key, Usage, meter
from apex_exec.market.store import NAME as STORE
from apex_exec.market.store import SUMS, as_struct, chain_segments, chain_usage, chains
from apex_exec.registry.database import transact

SEGMENT_EVENTS_MAX, SEGMENT_BYTES_MAX = 10_000, 4 * 1024 * 1024
COVER_NS = 60 * 10**9
"""Until this long ago a chain counts as covered once all its events are shipped: a record reaches the disk within
milliseconds of its time, or work is not admitted."""
COVER_AGAIN_NS = 5 * 10**9
"""How often that is noted if there is nothing else to note."""
SAME_NAME_NS = 60 * 10**9
log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(Event).decode


class Shipper:
    """Ships the ledger at ``database``, of the daemon ``node`` whose state folder is ``state``. ``now_ns`` is the clock
    that gives events their times. Any thread may ship; one does at a time."""

    def __init__(self, engine: sa.Engine, state: Path, database: Path, node: str, now_ns: Callable[[], int]) -> None:
        self.unshipped = 0
        """How many events are still to be shipped, as of the last time."""
        self.trouble = ""
        """Why the last time failed, as a word; "" if it did not."""
        self._engine, self._state, self._database, self._node, self._now_ns = engine, state, database, node, now_ns
        self._lock = threading.Lock()
        self._holder = secrets.token_hex(16)
        self._held = False
        self._told = ""

    def ship(self) -> int:
        """Ships whatever there is; how many events. Blocks. Raises Refusal: chain_forked, chain_shared,
        ledger_unreadable, store_unusable."""
        with self._lock:
            try:
                count = 0
                while step := self._step():
                    count += step
            except Refusal as error:
                self.trouble = error.reason
                raise
            self.trouble = ""
            return count

    def begin_anew(self) -> str:
        """The ledger becomes a chain of its own if it was found not to continue the one that was shipped, or if another
        daemon ships that one; the new chain's name, "" if nothing was to be done. If no other daemon ships the chain
        before, nobody waits for it any longer. Raises Refusal, LedgerError."""
        with self._lock:
            if self.trouble not in ("chain_forked", "chain_shared"):
                return ""
            if self.trouble == "chain_forked":
                before = own_chain(self._state).name
                transact(self._engine, STORE, lambda db: db.execute(sa.update(chains).where(
                    chains.c.chain == before).values(left_ns=self._now_ns())))
            self._held = False
            return next_chain(self._state).name

    def _step(self) -> int:
        """One segment at most; how many events. 0 if there was none: then the chain is covered until now."""
        if not self._database.exists() or not (self._state / KEY).exists():
            return 0  # no ledger process has been here yet
        now_ns = self._now_ns()
        try:
            with closing(open_readonly(self._database)) as ledger, closing(Names(self._database)) as names:
                first, last = ends_of(ledger)
                if last < first:
                    return 0
                chain = own_chain(self._state).name
                if not self._held:
                    note_holder(self._state, self._holder)
                made = transact(self._engine, STORE, lambda db: self._write(db, ledger, names, chain, now_ns))
        except (LedgerError, sqlite3.Error, OSError) as error:
            raise Refusal("ledger_unreadable", f"the ledger cannot be shipped: {error}",
                          hint="apex-exec audit verify") from None
        self._held = True
        self.unshipped = max(0, last - made[1])
        return made[0]

    def _write(self, db: sa.Connection, ledger: sqlite3.Connection, names: Names, chain: str, now_ns: int
               ) -> tuple[int, int]:
        """(events shipped, the last event that the database has then)."""
        row = self._row(db, ledger, chain, now_ns)
        first, last = ends_of(ledger)
        self._check(ledger, row, first, last)
        bodies, digest = _next_segment(ledger, row)
        to_seq = row.to_seq + len(bodies)
        covered_ns = row.covered_ns
        if to_seq >= last:
            covered_ns = max(covered_ns, now_ns - COVER_NS)
        if not bodies and now_ns - row.changed_ns < COVER_AGAIN_NS and row.holder == self._holder and row.head:
            return 0, to_seq
        if bodies:
            db.execute(sa.insert(chain_segments).values(
                chain=chain, from_seq=row.to_seq + 1, to_seq=to_seq, prev_hash=row.hash, hash=digest,
                data=pack_segment(bodies)))
            _add(db, chain, meter(_named(bodies, names)))
        signature = load_key(self._state).sign(head_text(chain, to_seq, digest, covered_ns)).hex()
        db.execute(sa.update(chains).where(chains.c.chain == chain).values(
            node=self._node, holder=self._holder, to_seq=to_seq, hash=digest, covered_ns=covered_ns, head=signature,
            changed_ns=now_ns, left_ns=0))
        return len(bodies), to_seq

    def _row(self, db: sa.Connection, ledger: sqlite3.Connection, chain: str, now_ns: int) -> Chain:
        """The chain's row, which nobody else changes until the transaction ends; a new one, if it has none."""
        query = sa.select(chains).where(chains.c.chain == chain).with_for_update()
        found = db.execute(query).first()
        if found is None:
            first, _ = ends_of(ledger)
            values = {
                "chain": chain, "node": self._node, "holder": "", "first_ns": now_ns, "from_seq": first,
                "to_seq": first - 1, "hash": hash_of(ledger, first - 1).hex(), "covered_ns": 0, "head": "",
                "changed_ns": 0, "left_ns": 0,
                "public_key": load_key(self._state).public_key().public_bytes_raw().hex()}
            values["first_ns"] = min(now_ns, _first_ns(ledger, first))
            db.execute(sa.insert(chains).values(values))
            found = db.execute(query).one()
        row = as_struct(found, Chain)
        if row.public_key != load_key(self._state).public_key().public_bytes_raw().hex():
            raise Refusal("chain_shared", f"the chain {chain} belongs to another ledger, of the daemon {row.node}: its "
                          "key is another one", code=Code.CONFLICT,
                          hint="this state folder has another's `chain` file: remove that file here, and restart")
        if row.holder and row.holder != self._holder and row.holder not in holders(self._state):
            raise Refusal("chain_shared", f"another daemon, {row.node}, ships the chain {chain} too: one of them has "
                          "a copy of the other's state folder", code=Code.CONFLICT,
                          hint="give the copy an empty state folder, or stop it and restart this daemon")
        self._check_name(db, row, now_ns)
        return row

    def _check_name(self, db: sa.Connection, row: Chain, now_ns: int) -> None:
        other = db.execute(sa.select(chains.c.chain).where(
            chains.c.node == self._node, chains.c.chain != row.chain, chains.c.changed_ns > now_ns - SAME_NAME_NS,
            chains.c.left_ns == 0)).scalar()
        if other is not None and self._told != other and not other.startswith(row.chain.partition(".")[0]):
            self._told = other
            log.error("another daemon is called %s too (chain %s): set fleet.node to a name of its own", self._node,
                      other)

    @staticmethod
    def _check(ledger: sqlite3.Connection, row: Chain, first: int, last: int) -> None:
        """Raises Refusal("chain_forked") if the ledger does not go on where the database's chain ends."""
        why = ""
        if row.to_seq > last:
            why = f"it ends at event {last}, and the database has events up to {row.to_seq}"
        elif row.to_seq < first - 1:
            why = f"events from {row.to_seq + 1} to {first - 1} were removed before they were shipped"
        elif hash_of(ledger, row.to_seq).hex() != row.hash:
            why = f"its event {row.to_seq} is another one than the database has"
        if why:
            raise Refusal("chain_forked", f"the ledger does not continue the chain {row.chain} of this daemon, so "
                          f"nothing of it is shipped or billed: {why}", code=Code.CONFLICT,
                          hint="restore the newest copy of the state folder; or keep what is there as evidence and go "
                               "on with it as a chain of its own: apex-exec audit accept --reason TEXT")


def _next_segment(ledger: sqlite3.Connection, row: Chain) -> tuple[list[bytes], str]:
    """The texts of the next events, and the hash of the last of them. Raises LedgerError if one was changed."""
    before = bytes.fromhex(row.hash)
    bodies: list[bytes] = []
    size, seq = 0, row.to_seq
    for number, body, digest in ledger.execute(
            "SELECT seq, body, hash FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, SEGMENT_EVENTS_MAX)):
        seq += 1
        if number != seq or chain_hash(before, body) != bytes(digest):
            raise LedgerError(f"event {seq} is not what was originally written")
        before = bytes(digest)
        bodies.append(body)
        size += len(body)
        if size >= SEGMENT_BYTES_MAX:
            break
    return bodies, before.hex()


def _named(bodies: list[bytes], names: Names) -> list[Event]:
    events = [_decode(body) for body in bodies]
    for event in events:
        event.user_id = names.name(event.user_id)
    return events


def _first_ns(ledger: sqlite3.Connection, seq: int) -> int:
    return nanoseconds_of(time_of(ledger.execute("SELECT body FROM events WHERE seq = ?", (seq,)).fetchone()[0]))


def _add(db: sa.Connection, chain: str, found: dict[Key, Usage]) -> None:
    """Adds to what the chain has come to."""
    if not found:
        return
    rows = [{"chain": chain, "month": month, "plugin": plugin[:200], "user_id": user[:200],
             **msgspec.structs.asdict(usage)} for (plugin, user, month), usage in found.items()]
    query = insert(chain_usage)
    db.execute(query.on_conflict_do_update(
        index_elements=["chain", "month", "plugin", "user_id"],
        set_={name: chain_usage.c[name] + query.excluded[name] for name in SUMS}), rows)
