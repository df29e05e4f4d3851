"""The stages of a release in the store: its share of the customers, whether it is halted, since when it is watched.

Every function takes an open transaction. ``submission`` is 0 for a release of a marketplace that this daemon follows:
then the row says only what this daemon itself has seen of it and decided for itself.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.core.staged_release import Tally
from apex_exec.errors import Code, Refusal
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.submissions import Submission
from apex_exec.market.store import as_struct, releases

WATCHED_NS = 7 * 86_400 * 10**9
"""How long a release is watched after it has reached everybody, or was resumed: later failures have other causes."""
REASON_CHARS_MAX = 500


class Release(msgspec.Struct, frozen=True):
    """One row. ``halted_ns`` is 0 while the release goes on; ``watched_ns`` is when its latest stage began. Calls that
    were made before somebody resumed it do not count: ``base_calls``, of which ``base_failures`` failed."""

    digest: str
    plugin: str
    version: str
    submission: int
    percent: int
    halted_ns: int
    reason: str
    watched_ns: int
    looked: int
    base_calls: int
    base_failures: int

    def since(self, tally: Tally) -> Tally:
        """What of ``tally`` counts: what came after the release was last resumed."""
        return Tally(max(0, tally.calls - self.base_calls), max(0, tally.failures - self.base_failures))

    def is_watched(self, now_ns: int) -> bool:
        """Whether its failures may halt it now."""
        return not self.halted_ns and (self.percent < 100 or now_ns - self.watched_ns < WATCHED_NS)


def find(db: sa.Connection, digest: str) -> Release | None:
    """The release of these bytes; None if it is not one in stages."""
    row = db.execute(sa.select(releases).where(releases.c.digest == digest)).first()
    return None if row is None else as_struct(row, Release)


def every(db: sa.Connection) -> list[Release]:
    """Every release that went out in stages."""
    return [as_struct(row, Release) for row in db.execute(sa.select(releases).order_by(releases.c.digest))]


def check_percent(percent: int) -> None:
    """Raises Refusal("percent_invalid")."""
    if not 1 <= percent <= 100:
        raise Refusal("percent_invalid", f"a release is offered to 1 to 100 percent of the customers, not to {percent}",
                      code=Code.INVALID_INPUT)


def begin(db: sa.Connection, now_ns: int, one: Submission, percent: int) -> None:
    """The first stage of a submission's release."""
    put(db, Release(one.digest, one.plugin, one.version, one.id, percent, 0, "", now_ns, 0, 0, 0))


def put(db: sa.Connection, release: Release) -> None:
    """Adds the row or replaces it."""
    db.execute(sa.delete(releases).where(releases.c.digest == release.digest))
    db.execute(sa.insert(releases).values(msgspec.structs.asdict(release)))


def widen(db: sa.Connection, now_ns: int, release: Release, percent: int) -> None:
    """The next stage: a greater share, to which everybody belongs who had the release before. Raises
    Refusal("percent_not_greater")."""
    if percent <= release.percent:
        raise Refusal("percent_not_greater", f"{release.plugin} {release.version} is offered to {release.percent} % "
                      f"already, so it cannot go on to {percent} %", code=Code.CONFLICT,
                      hint="name a greater share; `apex-exec market halt` stops the release")
    _change(db, release.digest, percent=percent, watched_ns=now_ns)


def note_look(db: sa.Connection, digest: str, look: int) -> None:
    """The number of the latest look at its figures, which is not made again."""
    _change(db, digest, looked=look)


def halt(db: sa.Connection, now_ns: int, release: Release, reason: str, *, actor: str, uid: int) -> None:
    """Halts the release: it is offered to nobody, until it is resumed. The move is recorded with its reason, which the
    author reads."""
    reason = reason[:REASON_CHARS_MAX]
    if release.submission:
        subs.move(db, now_ns, release.submission, "halted", actor=actor, uid=uid, reason=reason)
    _change(db, release.digest, halted_ns=now_ns, reason=reason)


def resume(db: sa.Connection, now_ns: int, release: Release, so_far: Tally, reason: str, *, actor: str,
           uid: int) -> None:
    """The release goes on where it was halted. What has failed ``so_far`` does not count again."""
    if release.submission:
        state = "published" if release.percent == 100 else "staged"
        subs.move(db, now_ns, release.submission, state, actor=actor, uid=uid, reason=reason[:REASON_CHARS_MAX])
    _change(db, release.digest, halted_ns=0, reason="", looked=0, watched_ns=now_ns,
            base_calls=so_far.calls, base_failures=so_far.failures)


def named(db: sa.Connection, plugin: str, version: str) -> Release:
    """The release of a plugin's version; without ``version``, its latest. Raises Refusal("release_unknown")."""
    found = [one for one in every(db) if one.plugin == plugin and version in ("", one.version)]
    if not found:
        raise Refusal("release_unknown", f"no release of {plugin[:60]!a} {version[:20]} went out in stages".rstrip(),
                      code=Code.NOT_FOUND, hint="`apex-exec market publish ID --percent N` begins one")
    return max(found, key=lambda one: (one.watched_ns, one.submission))


def shown(release: Release) -> dict[str, Any]:
    """A release as the operations answer it."""
    return {"plugin": release.plugin, "version": release.version, "digest": release.digest, "percent": release.percent,
            "state": "halted" if release.halted_ns else "staged" if release.percent < 100 else "published",
            "reason": release.reason}


def _change(db: sa.Connection, digest: str, **values: Any) -> None:
    db.execute(sa.update(releases).where(releases.c.digest == digest).values(**values))
