"""The marketplace as its operator runs it: one store, one market key, one published folder. Every call blocks.

``Shop`` has what the operations need, and runs each of them as one transaction at one moment of one clock.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apex_exec.common.files import replace_file
from apex_exec.config import Settings
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.audit import database_path
from apex_exec.ledger.checkpoints import HEAD
from apex_exec.ledger.reading import Event, Filter, hash_at, last_seqs, read_events, seqs_of
from apex_exec.ledger.records import LedgerError
from apex_exec.ledger.verify import verify
from apex_exec.market.money import invoices
from apex_exec.market.money.metering import METERED, Enablement, Key, Usage, callers, hosted, meter
from apex_exec.market.money.months import NS, month_interval, parse_month
from apex_exec.market.money.statements import Hosted
from apex_exec.market.progress import LOOK_EVERY, Progress
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.submissions import Submission
from apex_exec.market.shop.index import LIFETIME_NS, NAME, SHOWN, Entry, Index, Seen, open_index, seal
from apex_exec.market.store import NAME as STORE
from apex_exec.market.store import advance_clock, index_versions, indexes_seen, open_market, publications
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.bundle import Bundle, pack, unpack
from apex_exec.registry.context import Context
from apex_exec.registry.database import transact
from apex_exec.registry.trust.signing import load_private, new_key, read_signatures, sign_digest, write_signatures

T = TypeVar("T")

KEY_NAME = "market"
README_BYTES_MAX = 64 * 1024
"""How much of a README a listing shows."""
METERED_MONTHS_MAX = 3
"""How many months' sums are kept in memory: the open one, and those that are about to be closed."""


class Metered(NamedTuple):
    """What was counted of a month, up to the ledger's event ``seq`` with that hash."""

    seq: int = 0
    hash: bytes = b""
    usage: dict[Key, Usage] = {}


class Shop:
    """Open it once for each process. ``now_ns`` is the wall clock; tests and the walkthrough pass their own."""

    def __init__(self, settings: Settings, now_ns: Callable[[], int]) -> None:
        self.settings = settings
        self.now_ns = now_ns
        self.engine = open_market(settings.database_url(settings.market.url))
        self._metering = threading.Lock()
        self._metered: dict[str, Metered] = {}
        self.folder = settings.state_path / "market"
        self.public = self.folder / "public"
        """The published folder: a web server's root, or the folder that ``market.index`` names."""

    def close(self) -> None:
        """Closes the database."""
        self.engine.dispose()

    def change(self, work: Callable[[sa.Connection, int], T]) -> T:
        """Runs ``work(db, now_ns)`` in one transaction, all or nothing. Raises Refusal("clock_set_back"), and what
        ``work`` raises."""
        return transact(self.engine, STORE, lambda db: work(db, advance_clock(db, self.now_ns())))

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs ``work(db)`` in one transaction that changes nothing."""
        return transact(self.engine, STORE, work)

    def key(self) -> Ed25519PrivateKey:
        """The market key, ``<state_dir>/keys/market.key``, created on first use."""
        folder = self.settings.state_path / "keys"
        path = folder / f"{KEY_NAME}.key"
        if not path.exists():
            new_key(folder, KEY_NAME)
        return load_private(path)

    # ------------------------------------------------------------------ submitted bundles
    def keep(self, bundle: Bundle, signatures: bytes) -> None:
        """Stores what was submitted, with its author's signatures, until it is published or replaced."""
        write_whole(self._kept(bundle.digest), pack(bundle, signatures))

    def kept(self, submission: Submission) -> tuple[Bundle, bytes]:
        """The submitted bytes, hashed again. Raises Refusal("digest_changed") if they have changed."""
        try:
            bundle, signatures = unpack(self._kept(submission.digest).read_bytes(), f"submission {submission.id}",
                                        is_stored=True)
        except OSError as error:
            raise Refusal("digest_changed", f"the bytes of submission {submission.id} are gone: {error}"[:300],
                          hint="submit it again", code=Code.CONFLICT) from None
        if bundle.digest != submission.digest:
            raise Refusal("digest_changed",
                          f"the bytes stored for submission {submission.id} differ from those that were "
                          "submitted", hint="submit it again", code=Code.CONFLICT)
        return bundle, signatures

    def _kept(self, digest: str) -> Path:
        return self.folder / "submitted" / f"{digest}.apx"

    # ------------------------------------------------------------------ publishing
    def put_public(self, submission: Submission) -> Entry:
        """Writes a bundle beside the index, with the author's signatures and ours over the same digest. Returns its
        entry."""
        now_ns = self.now_ns()
        bundle, data = self.kept(submission)
        ours = sign_digest(self.key(), "market", bundle.digest, now_ns)
        others = [one for one in read_signatures(data) if one.role != "market"]
        packed = pack(bundle, write_signatures([*others, ours]))
        write_whole(self.public / "bundles" / f"{bundle.digest}.apx", packed, mode=0o644)
        found = msgspec.json.decode(submission.result)
        return Entry(submission.plugin, submission.version, submission.digest, hashlib.sha256(packed).hexdigest(),
                     len(packed), bundle.manifest.name, submission.author, "published",
                     subs.decode_price(submission.price), list(bundle.manifest.permissions), found["coverage"], now_ns,
                     **{key: value for key, value in bundle.manifest.shown().items() if key in SHOWN})

    @staticmethod
    def record(db: sa.Connection, submission: Submission, entry: Entry) -> None:
        """Stores the index entry of a published version."""
        db.execute(sa.insert(publications).values(submission=submission.id, entry=subs.encode(entry)))

    @staticmethod
    def entry(db: sa.Connection, submission: Submission) -> Entry:
        """The index entry of a version that was published."""
        row = db.execute(sa.select(publications.c.entry).where(publications.c.submission == submission.id)).scalar_one()
        return msgspec.json.decode(row, type=Entry)

    def readme(self, submission: Submission) -> str:
        """The start of its README; "" if its bytes are gone."""
        try:
            body = self.kept(submission)[0].files.get("README.md", b"")
        except Refusal:
            return ""
        return body[:README_BYTES_MAX].decode("utf-8", "replace")

    def write_index(self, db: sa.Connection, now_ns: int) -> Index:
        """Signs the index of what is published now, one version higher, and replaces the old one."""
        last = db.execute(sa.select(sa.func.max(index_versions.c.version))).scalar() or 0
        index = msgspec.structs.replace(self.current(db, now_ns), version=last + 1)
        data = seal(index, self.key())
        db.execute(sa.insert(index_versions).values(version=index.version, at_ns=now_ns,
                                                    sha256=hashlib.sha256(data).hexdigest()))
        write_whole(self.public / NAME, data, mode=0o644)
        return index

    def current(self, db: sa.Connection, now_ns: int) -> Index:
        """What is published now, as an index that is not signed: version 0."""
        entries = {row.submission: msgspec.json.decode(row.entry, type=Entry)
                   for row in db.execute(sa.select(publications))}
        return Index(0, now_ns, now_ns + LIFETIME_NS, [
            msgspec.structs.replace(entries[one.id], state=one.state) for one in subs.offered(db)])

    def take_index(self, place: str, data: bytes, keys: dict[str, str], *, expired: bool = False) -> Index:
        """An index fetched from ``place``, checked against the newest one seen from there. Raises Refusal.

        ``expired`` also accepts an expired index, for what it revokes. A clock that was set back stops no revocation:
        nothing gets a date here.
        """
        now_ns = self.now_ns()

        def work(db: sa.Connection) -> Index:
            row = db.execute(sa.select(indexes_seen).where(indexes_seen.c.place == place)).first()
            seen = Seen(row.version, row.sha256) if row is not None else None
            index, newest = open_index(data, keys, now_ns, seen, expired=expired)
            db.execute(sa.delete(indexes_seen).where(indexes_seen.c.place == place))
            db.execute(sa.insert(indexes_seen).values(place=place, version=newest.version, sha256=newest.sha256))
            return index

        return transact(self.engine, STORE, work)

    # ------------------------------------------------------------------ the ledger
    def usage(self, month: str, progress: Progress | None = None) -> dict[Key, Usage]:
        """The usage of one UTC month from the ledger; empty if no ledger exists yet.

        The first call reads the whole month, about a second for 200,000 events, and later calls only what was added:
        every figure is a sum. If the ledger was replaced meanwhile, it is read anew. Raises
        Refusal("ledger_unreadable").
        """
        window = month_interval(*parse_month(month))
        path = self._ledger()
        if not path.exists():
            return {}
        since, until = (datetime.fromtimestamp(seconds, UTC) for seconds in window)
        try:
            with self._metering:
                known = self._metered.pop(month, Metered())
                if known.seq and hash_at(path, known.seq) != known.hash:
                    known = Metered()
                last = last_seqs(path, Filter(), 0)[1]
                wanted = Filter(since=since, until=until, event_types=tuple(sorted(METERED)), after_seq=known.seq)
                usage = meter(_counted(path, wanted, last, progress or Progress()), month, known.usage)
                self._metered[month] = Metered(last, hash_at(path, last), usage)
                while len(self._metered) > METERED_MONTHS_MAX:
                    del self._metered[next(iter(self._metered))]
                return dict(usage)
        except LedgerError as error:
            raise Refusal("ledger_unreadable", str(error), hint="apex-exec audit verify") from None

    def forget_usage(self) -> None:
        """Has every month read anew: a user's events have another name now."""
        with self._metering:
            self._metered.clear()

    def check_ledger(self, progress: Progress | None = None) -> None:
        """Raises Refusal("ledger_damaged") if the ledger was changed after it was written: nothing is billed from it.

        Walks the whole chain, about 700,000 events a second.
        """
        path, state = self._ledger(), self.settings.state_path
        if not path.exists() and not (state / HEAD).exists():
            return  # no daemon ever kept a ledger here
        progress = progress or Progress()
        if path.exists():
            try:
                progress.begin("verifying the ledger", sum(map(len, seqs_of(path, Filter()))))
            except LedgerError:  # the walk reports what is wrong
                progress.begin("verifying the ledger", 0)
        finding = verify(path, state, walked=progress.reached).finding
        if finding is not None:
            raise Refusal("ledger_damaged",
                          f"the ledger was changed after it was written, so no month is closed from it: "
                          f"{finding.kind} at event {finding.seq}: {finding.message}"[:400],
                          hint="apex-exec audit verify; restore the ledger from a backup", code=Code.CONFLICT)

    def _ledger(self) -> Path:
        return database_path(self.settings.audit.url, self.settings.state_path)

    def hosted(self, context: Context, month: str, usage: dict[Key, Usage]) -> Hosted:
        """The seconds for which each plugin was enabled for each user, up to the end of ``month`` or up to now.

        Earlier months are included, so that what turns out late becomes a correction. Who called in them was stored
        when they were closed, because the ledger removes old events.
        """
        calls = [*callers(self.read(invoices.closed_usage)), *callers(usage)]
        until_ns = min(self.now_ns(), month_interval(*parse_month(month))[1] * NS)
        rows = context.store.transact(registry.list_enablement)
        spans = [Enablement(row.plugin, row.user_id, row.from_ns, row.to_ns) for row in rows if row.from_ns < until_ns]
        return hosted(spans, calls, until_ns)


def _counted(path: Path, wanted: Filter, last: int, progress: Progress) -> Iterator[Event]:
    """The events that ``wanted`` selects up to the seq ``last``; ``progress`` also counts those that are skipped."""
    parts = seqs_of(path, wanted, last)
    total = sum(map(len, parts))
    progress.begin("reading the month", total)
    for number, event in enumerate(read_events(path, wanted)):
        if event.seq > last:
            break
        if number & (LOOK_EVERY - 1) == 0:
            progress.reached(sum(min(max(0, event.seq - part.start), len(part)) for part in parts))
        yield event
    progress.reached(total)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As ``replace_file``, in a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data, mode=mode)
