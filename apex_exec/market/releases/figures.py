"""What is counted of each version of each plugin: calls that ran, how they ended, how long they took.

The ledger does not say which version a call was answered by; the registry says when each was switched to. So a call
belongs to the version that was served when it began. The figures are kept in the market's store by ledger: daemons that
share the store add up, and each counts its own. No figure is about a user.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from apex_exec.core.staged_release import Tally
from apex_exec.errors import FAILURES
from apex_exec.ledger.chain import own_chain
from apex_exec.ledger.reading import Event, Filter, hash_at, last_seqs, read_events
from apex_exec.market.money.metering import EXECUTION, has_run
from apex_exec.market.shop.storefront import Shop
from apex_exec.market.store import figure_sources, figures
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.checks import NOBODY
from apex_exec.registry.lifecycle import SERVED
from apex_exec.registry.store import InstallRow, Served, Store

EVENTS_AT_ONCE = 20_000
"""Executions that one step reads, about a tenth of a second: what there is more of is read by the next."""
TIME_MS_MIN, TIME_GROWTH = 0.1, 1.25
"""Times are counted in classes, each a quarter longer than the one before: a percentile is at most a quarter off."""
_SECOND = slice(0, 19)
_NANOSECONDS = slice(20, 29)


class Figures(msgspec.Struct):
    """Sums for one version. ``codes`` counts the calls by their code, "" being success; ``times`` by their class."""

    calls: int = 0
    codes: dict[str, int] = {}
    times: dict[int, int] = {}

    @property
    def tally(self) -> Tally:
        """What a release is judged by: the failures are those that are the plugin's fault."""
        return Tally(self.calls, sum(count for code, count in self.codes.items() if code in FAILURES))

    def add(self, code: str, run_ms: float) -> None:
        """Counts one call."""
        self.calls += 1
        self.codes[code] = self.codes.get(code, 0) + 1
        number = time_class(run_ms)
        self.times[number] = self.times.get(number, 0) + 1

    def merge(self, other: Figures) -> None:
        """Adds the sums of ``other``."""
        self.calls += other.calls
        for code, count in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count
        for number, count in other.times.items():
            self.times[number] = self.times.get(number, 0) + count


def time_class(run_ms: float) -> int:
    """The class of a time: 0 up to TIME_MS_MIN, and one more for each TIME_GROWTH."""
    if run_ms <= TIME_MS_MIN:
        return 0
    return math.ceil(math.log(run_ms / TIME_MS_MIN, TIME_GROWTH))


def percentile_ms(times: Mapping[int, int], share: float) -> float | None:
    """The time within which ``share`` of the calls were done, as the end of its class; None without a call."""
    left = share * sum(times.values())
    for number in sorted(times):
        left -= times[number]
        if left <= 1e-9:
            return TIME_MS_MIN * TIME_GROWTH**number
    return None


class Switch(NamedTuple):
    """From ``at_ns`` on, the plugin serves ``digest``; "" means none."""

    at_ns: int
    digest: str


def switches(history: Iterable[InstallRow]) -> dict[str, list[Switch]]:
    """plugin → what it served, and from when, by the lines of its history that ``Store`` has."""
    found: dict[str, list[Switch]] = {}
    for row in history:
        found.setdefault(row.plugin, []).append(Switch(row.at_ns, "" if row.operation == "remove" else row.digest))
    for served in found.values():
        served.sort(key=lambda one: one.at_ns)
    return found


def count(events: Iterable[Event], served: Mapping[str, Sequence[Switch]]) -> dict[str, Figures]:
    """digest → figures of the calls among ``events`` that ran, without the daemon's own: the trial of a version runs
    before it is served. Pure."""
    found: dict[str, Figures] = {}
    moments = {plugin: [one.at_ns for one in history] for plugin, history in served.items()}
    for event in events:
        history = served.get(event.resource)
        if history is None or event.user_id == NOBODY or not has_run(event):
            continue
        run_ms = event.metadata.get("executionTimeMs")
        run_ms = float(run_ms) if isinstance(run_ms, int | float) else 0.0
        place = bisect_right(moments[event.resource], moment_ns(event.timestamp) - int(run_ms * 1e6))
        digest = history[place - 1].digest if place else ""
        if digest:
            found.setdefault(digest, Figures()).add(str(event.metadata.get("code") or ""), run_ms)
    return found


def moment_ns(timestamp: str) -> int:
    """Nanoseconds since 1970 of an event's time."""
    second = datetime.fromisoformat(timestamp[_SECOND] + "+00:00")
    return int(second.timestamp()) * 10**9 + int(timestamp[_NANOSECONDS])


class Counted(NamedTuple):
    """How far a ledger was counted."""

    seq: int
    hash: str


def bring_up_to_date(shop: Shop, store: Store, at_once: int = EVENTS_AT_ONCE) -> bool:
    """Counts a part of what this daemon's ledger has more than the store knows, ``at_once`` executions at most; whether
    that was all of it.

    A ledger that is not the one that was counted is counted from its beginning. Blocks. Raises Refusal, LedgerError.
    """
    path = shop.ledger
    if not path.exists():
        return True
    source = own_chain(shop.settings.state_path).name
    known = shop.read(lambda db: _counted(db, source))
    is_anew = bool(known.seq) and hash_at(path, known.seq).hex() != known.hash
    after = 0 if is_anew else known.seq
    last = last_seqs(path, Filter(), 0)[1]
    history = store.transact(registry.list_switches)  # after ``last``: a version is in it before its first event
    served = {one.digest: one for one in store.transact(lambda db: registry.list_installed(db, SERVED))}
    if last <= after and not is_anew:
        shop.read(lambda db: _note_installed(db, source, served))
        return True
    events, end = _part(path, after, last, at_once)
    found = count(events, switches(history))
    versions = {row.digest: row for row in history}
    reached = Counted(end, hash_at(path, end).hex())

    def work(db: sa.Connection, now_ns: int) -> None:
        if _counted(db, source) != known:
            return  # somebody else has counted meanwhile
        if is_anew:
            db.execute(sa.delete(figures).where(figures.c.source == source))
        for digest, more in found.items():
            _add(db, source, versions[digest], more)
        _note_installed(db, source, served)
        db.execute(sa.delete(figure_sources).where(figure_sources.c.source == source))
        db.execute(sa.insert(figure_sources).values(source=source, seq=reached.seq, hash=reached.hash,
                                                    counted_ns=now_ns))

    shop.change(work)
    return end >= last


def _part(path: Path, after: int, last: int, at_once: int) -> tuple[list[Event], int]:
    """At most ``at_once`` executions after ``after``, and the seq up to which these are all."""
    events: list[Event] = []
    for event in read_events(path, Filter(after_seq=after, event_types=(EXECUTION,)), named=False):
        if event.seq > last:
            break
        events.append(event)
        if len(events) == at_once:
            return events, event.seq
    return events, last


def _counted(db: sa.Connection, source: str) -> Counted:
    row = db.execute(sa.select(figure_sources).where(figure_sources.c.source == source)).first()
    return Counted(0, "") if row is None else Counted(row.seq, row.hash)


def _add(db: sa.Connection, source: str, version: InstallRow, more: Figures) -> None:
    here = (figures.c.source == source) & (figures.c.digest == version.digest)
    row = db.execute(sa.select(figures).where(here)).first()
    kept = _figures(row) if row is not None else Figures()
    kept.merge(more)
    db.execute(sa.delete(figures).where(here))
    _put(db, source, version.digest, version.plugin, version.version, kept)


def _put(db: sa.Connection, source: str, digest: str, plugin: str, version: str, kept: Figures) -> None:
    db.execute(sa.insert(figures).values(
        source=source, digest=digest, plugin=plugin, version=version, installed=False, calls=kept.calls,
        codes=msgspec.json.encode(kept.codes).decode(), times=msgspec.json.encode(kept.times).decode()))


def _note_installed(db: sa.Connection, source: str, served: Mapping[str, Served]) -> None:
    """Notes which versions this daemon serves now. Writes nothing if that is what the store knows."""
    rows = {row.digest: row.installed for row in db.execute(
        sa.select(figures.c.digest, figures.c.installed).where(figures.c.source == source))}
    for digest, one in served.items():
        if digest not in rows:
            _put(db, source, digest, one.plugin, one.version, Figures())
    changed = {digest for digest in {*rows, *served} if rows.get(digest, False) != (digest in served)}
    for digest in changed:
        db.execute(sa.update(figures).where(figures.c.source == source, figures.c.digest == digest).values(
            installed=digest in served))


def _figures(row: Any) -> Figures:
    return Figures(row.calls, msgspec.json.decode(row.codes), msgspec.json.decode(row.times, type=dict[int, int]))


class Version(msgspec.Struct):
    """What all daemons with this store have counted of one version; ``installs`` is how many serve it now."""

    plugin: str
    version: str
    digest: str
    installs: int = 0
    figures: Figures = msgspec.field(default_factory=Figures)


def by_version(db: sa.Connection, plugins: Iterable[str]) -> list[Version]:
    """The figures of every version of these plugins, by plugin; the versions in no order."""
    found: dict[str, Version] = {}
    query = sa.select(figures).where(figures.c.plugin.in_(sorted(plugins))).order_by(figures.c.plugin)
    for row in db.execute(query):
        one = found.setdefault(row.digest, Version(row.plugin, row.version, row.digest))
        one.installs += row.installed
        one.figures.merge(_figures(row))
    return list(found.values())


def counted_ns(db: sa.Connection) -> int:
    """When the ledger was counted that was counted longest ago; 0 if none was."""
    return int(db.execute(sa.select(sa.func.min(figure_sources.c.counted_ns))).scalar() or 0)
