"""The marketplace as its operator runs it: one store, one market key, one published folder. Every call blocks.

``Shop`` has what the operations need, and runs each of them as one transaction at one moment of one clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from apex_exec.common.files import replace_file
from apex_exec.config import Settings
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.audit import database_path
from apex_exec.ledger.checkpoints import HEAD
from apex_exec.ledger.people import forget_plain
from apex_exec.ledger.reading import Event, Filter, hash_at, last_seqs, read_events, seqs_of
from apex_exec.ledger.records import LedgerError
from apex_exec.ledger.verify import verify
from apex_exec.market.money import chains, invoices
from apex_exec.market.money.metering import METERED, Enablement, Key, Usage, callers, hosted, meter
from apex_exec.market.money.months import NS, month_interval, parse_month
from apex_exec.market.money.shipping import Shipper
from apex_exec.market.money.statements import Hosted
from apex_exec.market.progress import LOOK_EVERY, Progress
from apex_exec.market.releases import stages
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.submissions import Submission
from apex_exec.market.shop.files import PUBLIC_KEY, SharedFiles
from apex_exec.market.shop.index import LIFETIME_NS, NAME, SHOWN, Entry, Index, Seen, open_index, seal
from apex_exec.market.store import CHANNEL, advance_clock, index_versions, indexes_seen, open_market, publications
from apex_exec.market.store import NAME as STORE
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.bundle import Bundle, pack, unpack
from apex_exec.registry.context import Context
from apex_exec.registry.database import is_server, tell_others, transact
from apex_exec.registry.trust.signing import load_private, new_key, read_signatures, sign_digest, write_signatures

T = TypeVar("T")

KEY_NAME = "market"
README_BYTES_MAX = 64 * 1024
"""How much of a README, and of a changelog, a listing shows."""
CHAINS_SECONDS, CHAINS_LOOK_SECONDS = 10.0, 0.5
"""How long the closing of a month waits for other daemons' ledgers: they are shipped every second."""
METERED_MONTHS_MAX = 3
"""How many months' sums are kept in memory: the open one, and those that are about to be closed."""


class Metered(NamedTuple):
    """What was counted of a month, up to the ledger's event ``seq`` with that hash."""

    seq: int = 0
    hash: bytes = b""
    usage: dict[Key, Usage] = {}

log = logging.getLogger(__name__)


class Shop:
    """Open it once for each process. ``now_ns`` is the wall clock; tests and the walkthrough pass their own."""

    def __init__(self, settings: Settings, now_ns: Callable[[], int], sender: str = "",
                 ledger_ns: Callable[[], int] | None = None) -> None:
        """``sender`` names this process to others that listen to what changes. ``ledger_ns`` is the clock that gives
        the ledger's events their times, if that is another one."""
        self.ledger_ns = ledger_ns or now_ns
        self.settings = settings
        self.sender = sender
        self.now_ns = now_ns
        self.engine = open_market(settings.database_url(settings.market.url))
        self.files = SharedFiles(self.engine)
        self._metering = threading.Lock()
        self._metered: dict[str, Metered] = {}
        self.is_shared = is_server(self.engine)
        """Whether other daemons may work with this store: what all have shipped is billed then, and not this ledger."""
        self.folder = settings.state_path / "market"
        self.public = self.folder / "public"
        """The published folder: a web server's root, or the folder that ``market.index`` names."""

    def close(self) -> None:
        """Closes the database."""
        self.engine.dispose()

    def change(self, work: Callable[[sa.Connection, int], T]) -> T:
        """Runs ``work(db, now_ns)`` in one transaction, all or nothing. Raises Refusal("clock_set_back"), and what
        ``work`` raises."""
        def changed(db: sa.Connection) -> T:
            done = work(db, advance_clock(db, self.now_ns()))
            tell_others(db, CHANNEL, self.sender)
            return done

        return transact(self.engine, STORE, changed)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs ``work(db)`` in one transaction that changes nothing."""
        return transact(self.engine, STORE, work)

    def key(self) -> Ed25519PrivateKey:
        """The market key, ``<state_dir>/keys/market.key``, created on first use.

        Daemons that share the store share the key: the first that signs makes it, and others need a copy of the file.
        Raises Refusal: market_key_elsewhere, market_key_differs.
        """
        folder = self.settings.state_path / "keys"
        path = folder / f"{KEY_NAME}.key"
        known = self.files.get(PUBLIC_KEY)
        hint = f"copy keys/{KEY_NAME}.key from the state folder of the daemon that has it to {path}"
        if not path.exists():
            if known is not None:
                raise Refusal("market_key_elsewhere", "this marketplace's key is in another daemon's state folder, and "
                              "only who has it can sign", hint=f"{hint}, or sign there", code=Code.CONFLICT)
            new_key(folder, KEY_NAME)
        key = load_private(path)
        public = key.public_key().public_bytes_raw()
        if self.files.put_first(PUBLIC_KEY, public, self.now_ns()) != public:
            raise Refusal("market_key_differs", f"{path} is not the key that this marketplace signs with",
                          hint=hint, code=Code.CONFLICT)
        return key

    def public_key(self) -> Ed25519PublicKey:
        """What the marketplace's signatures are checked with, at every daemon."""
        known = self.files.get(PUBLIC_KEY)
        return self.key().public_key() if known is None else Ed25519PublicKey.from_public_bytes(known)

    @property
    def can_sign(self) -> bool:
        """Whether this daemon has the market key, or may make it."""
        path = self.settings.state_path / "keys" / f"{KEY_NAME}.key"
        return path.exists() or self.files.get(PUBLIC_KEY) is None

    # ------------------------------------------------------------------ submitted bundles
    def keep(self, bundle: Bundle, signatures: bytes) -> None:
        """Stores what was submitted, with its author's signatures, until it is published or replaced."""
        data = pack(bundle, signatures)
        write_whole(self._kept(bundle.digest), data)
        self.files.put(f"submitted/{bundle.digest}.apx", data, self.now_ns())

    def kept(self, submission: Submission) -> tuple[Bundle, bytes]:
        """The submitted bytes, hashed again. Raises Refusal("digest_changed") if they have changed."""
        try:
            self.files.bring(f"submitted/{submission.digest}.apx", self._kept(submission.digest))
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
        write_whole(self._published(bundle.digest), packed, mode=0o644)
        self.files.put(f"bundles/{bundle.digest}.apx", packed, now_ns)
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

    def about(self, submission: Submission) -> dict[str, Any]:
        """What its bundle has for people to read: the start of its ``readme`` and ``changelog``, ``description`` and
        the like, how many ``screenshots``. A README of "" if its bytes are gone."""
        shown: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        with contextlib.suppress(Refusal):
            bundle = self.kept(submission)[0]
            shown, files = bundle.manifest.shown(), bundle.files
        start = {name: files.get(path, b"")[:README_BYTES_MAX].decode("utf-8", "replace")
                 for name, path in (("readme", "README.md"), ("changelog", shown.get("changelog", "")))}
        return {**{key: shown.get(key, "") for key in SHOWN}, "keywords": shown.get("keywords", []), **start,
                "screenshots": len(shown.get("screenshots", ()))}

    def write_index(self, db: sa.Connection, now_ns: int) -> Index:
        """Signs the index of what is published now, one version higher, and replaces the old one."""
        last = db.execute(sa.select(sa.func.max(index_versions.c.version))).scalar() or 0
        index = msgspec.structs.replace(self.current(db, now_ns), version=last + 1)
        data = seal(index, self.key())
        db.execute(sa.insert(index_versions).values(version=index.version, at_ns=now_ns,
                                                    sha256=hashlib.sha256(data).hexdigest()))
        self.files.put(NAME, data, now_ns, db)
        write_whole(self.public / NAME, data, mode=0o644)
        return index

    def _published(self, digest: str) -> Path:
        return self.public / "bundles" / f"{digest}.apx"

    def publish_here(self) -> bool:
        """Has this daemon's published folder be the one that another has published; whether it changed. Every bundle is
        there before the index that names it. Raises Refusal, OSError."""
        if not self.is_shared:
            return False
        latest = sa.select(index_versions.c.sha256).order_by(index_versions.c.version.desc()).limit(1)
        wanted = self.read(lambda db: db.execute(latest).scalar())
        path = self.public / NAME
        if wanted is None or (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted):
            return False
        data = self.files.get(NAME)
        if data is None or hashlib.sha256(data).hexdigest() != wanted:
            return False  # an earlier release wrote it, into its own folder alone; or another version comes right now
        for one in self.read(subs.offered):
            self.files.bring(f"bundles/{one.digest}.apx", self._published(one.digest), mode=0o644)
        write_whole(path, data, mode=0o644)
        return True

    def current(self, db: sa.Connection, now_ns: int) -> Index:
        """What is published now, as an index that is not signed: version 0."""
        entries = {row.submission: msgspec.json.decode(row.entry, type=Entry)
                   for row in db.execute(sa.select(publications))}
        percents = {release.digest: release.percent for release in stages.every(db)}
        return Index(0, now_ns, now_ns + LIFETIME_NS, [
            msgspec.structs.replace(entries[one.id], state=one.state, percent=percents.get(one.digest, 100))
            for one in subs.offered(db)])

    @cached_property
    def customer(self) -> str:
        """What this daemon is as a customer of a marketplace that it installs from: ``market.customer``, otherwise a
        random id that is made once and that daemons with one store share. It decides which stage of a release includes
        it. Raises Refusal, OSError."""
        if self.settings.market.customer:
            return " ".join(self.settings.market.customer.casefold().split())
        path = self.folder / "installation"
        if not path.exists():
            write_whole(path, secrets.token_hex(16).encode())
        return self.files.put_first("installation", path.read_bytes(), self.now_ns()).decode("ascii", "replace")

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
        if self.is_shared:
            self.shipper.ship()
            return self.read(lambda db: chains.usage_of(db, month))
        path = self.ledger
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

    @cached_property
    def shipper(self) -> Shipper:
        """Ships this daemon's ledger into the store. Raises LedgerError."""
        return Shipper(self.engine, self.settings.state_path, self.ledger, self.settings.node_name,
                       self.ledger_ns)

    def wait_for_chains(self, month: str, progress: Progress) -> None:
        """Blocks until every ledger has been shipped to the end of ``month``, for CHAINS_SECONDS at most, and checks
        them all. Raises Refusal: chains_behind, ledger_damaged."""
        progress.begin("waiting for the daemons' ledgers", 0)
        self.shipper.ship()
        until = time.monotonic() + CHAINS_SECONDS
        while self.read(lambda db: chains.behind(db, month)) and time.monotonic() < until:
            time.sleep(CHAINS_LOOK_SECONDS)
            self.shipper.ship()
        self.read(lambda db: chains.check_covered(db, month))
        progress.begin("verifying the daemons' ledgers", self.read(
            lambda db: sum(one.to_seq - one.from_seq + 1 for one in chains.every(db))))
        for found in chains.verify_chains(self.engine, progress.reached):
            if found.problem:
                raise Refusal("ledger_damaged", f"the ledger of {found.node} (chain {found.chain}) is not what was "
                              f"shipped, so no month is closed from it: {found.problem}"[:400],
                              hint="apex-exec audit verify --fleet; restore the database from a backup",
                              code=Code.CONFLICT)

    def forget_usage(self) -> None:
        """Has every month read anew: a user's events have another name now."""
        with self._metering:
            self._metered.clear()

    def forget_plain_names(self, month: str) -> None:
        """No bill of an open month needs the ids any longer that events of ``month`` and before may hold: it is closed.
        Whatever goes wrong is tried again when the next month is closed."""
        try:
            forget_plain(self.ledger, month)
        except LedgerError as error:
            log.warning("%s", error)

    def check_ledger(self, progress: Progress | None = None) -> None:
        """Raises Refusal("ledger_damaged") if the ledger was changed after it was written: nothing is billed from it.

        Walks the whole chain, about 700,000 events a second.
        """
        path, state = self.ledger, self.settings.state_path
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

    @property
    def ledger(self) -> Path:
        """This daemon's own ledger, which may not exist yet."""
        return database_path(self.settings.audit.url, self.settings.state_path)

    def hosted(self, context: Context, month: str, usage: dict[Key, Usage]) -> Hosted:
        """The seconds for which each plugin was enabled for each user, up to the end of ``month`` or up to now.

        Earlier months are included, so that what turns out late becomes a correction. Who called in them was stored
        when they were closed, because the ledger removes old events.
        """
        calls = [*callers(self.read(invoices.closed_usage)), *callers(usage)]
        if self.is_shared:  # of closed months, too: what arrived late is corrected
            calls += callers(self.read(chains.usage_of))
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
