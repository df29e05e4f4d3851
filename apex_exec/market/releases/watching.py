"""Watches the releases that go out in stages, and halts those that fail more often than the version before.

``look`` is called every few seconds in a thread of its own. It counts what the ledger has more, and holds every release
that is watched to the rule of ``core/staged_release``. There are two kinds: this marketplace's own releases, which only
a daemon that can sign its index judges; and those of an index that this daemon follows, which it judges by its own
calls and for itself alone. A halted release is not installed again anywhere here. Where it is served already it stays,
or the plugin goes back to the version before: ``market.halted`` decides. If the figures cannot be had for
``UNKNOWN_SECONDS``, what is watched is halted: nobody would notice its failures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

import sqlalchemy as sa

from apex_exec.common.names import version_key
from apex_exec.core.staged_release import CALLS_MIN, Judgement, Tally, judge
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.chain import own_chain
from apex_exec.ledger.records import LedgerError
from apex_exec.market.releases import signatures, stages
from apex_exec.market.releases.figures import Version, bring_up_to_date, by_version
from apex_exec.market.releases.signatures import Facts, Seen
from apex_exec.market.releases.stages import Release
from apex_exec.market.review import submissions as subs
from apex_exec.market.shop.following import Following
from apex_exec.market.shop.index import Entry
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry import store as registry
from apex_exec.registry import upgrade
from apex_exec.registry.context import Context
from apex_exec.registry.lifecycle import SERVED, read_bundle

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""How long the supervisor may take to say where plugins have failed."""
LOOK_SECONDS = 10.0
"""Between two looks, if everything was counted."""
STEP_SECONDS = 0.2
"""The rest between two steps of counting: the other threads of the registrar have their turns."""
UNKNOWN_SECONDS = 600.0
CATCH_UP_SECONDS = 5.0
"""How long the next stage of a release waits for figures that are up to date."""
BACK_AGAIN_SECONDS = 300.0
"""Between two tries to go back to the version before: the trial of each starts a worker."""
OPEN = ("staged", "published")


class Watching:
    """The releases of one marketplace's store and of the index that is followed. ``look`` belongs to one thread; any
    thread may ask ``halted``, which never blocks."""

    def __init__(self, shop: Shop, following: Following, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that pass, whatever the wall clock does."""
        self._shop = shop
        self._clock = clock
        self._following = following
        self._here: dict[str, str] = {}
        self._unknown_since: float | None = None
        self._tried: dict[str, float] = {}
        self._kept: set[str] = set()

    # ------------------------------------------------------------------ for the registry
    def halted(self, digest: str) -> str:
        """Why these bytes are not to be installed; "" if they may be."""
        return self._here.get(digest, "") or self._following.halted(digest)

    def read(self) -> None:
        """Reads which releases are halted. Raises Refusal."""
        self._here = {one.digest: one.reason or "by the marketplace" for one in self._shop.read(stages.every)
                      if one.halted_ns}

    # ------------------------------------------------------------------ one look
    def look(self, context: Context) -> float:
        """Counts, judges, and goes back where that is configured. Returns the seconds until the next look. Raises
        Refusal if the market's store cannot be read."""
        self.read()
        self._take_over(context)
        watched = self._watched()
        try:
            is_counted = not (watched or self._has_offers()) or bring_up_to_date(self._shop, context.store)
            self._unknown_since = None
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody would notice failures meanwhile
            self._unknown(context, watched, error)
            return LOOK_SECONDS
        if is_counted:
            for release in watched:
                self._judge(context, release)
        if self._has_offers():
            self._take_failures(context)
        self._go_back(context)
        return LOOK_SECONDS if is_counted else STEP_SECONDS

    def _has_offers(self) -> bool:
        """Whether anybody may ask for figures."""
        return bool(self._shop.read(subs.offered))

    def _take_failures(self, context: Context) -> None:
        """Adds where plugins have failed since the last look. What the supervisor cannot say now, it says later."""
        try:
            seen = [Seen(*row) for row in context.ask("failures", {}, ASK_SECONDS) or ()]
        except Refusal as error:
            log.warning("the supervisor did not say where plugins failed: %s", error.message)
            return
        if seen:
            source = own_chain(context.settings.state_path).name
            known = {digest: self._facts(context, digest) for digest in {one.digest for one in seen}}
            self._shop.change(lambda db, now_ns: signatures.keep(db, now_ns, source, seen, known))

    @staticmethod
    def _facts(context: Context, digest: str) -> Facts | None:
        try:
            return signatures.facts_of(read_bundle(context, digest))
        except Refusal:  # it was removed meanwhile, or comes from plugins_dir
            return None

    def _take_over(self, context: Context) -> None:
        """A version in a stage of the followed index that is served here is watched from now on, until some time after
        it has reached everybody."""
        staged = self._following.staged
        known = {one.digest: one for one in self._shop.read(stages.every)}
        for digest, release in known.items():
            share = self._following.share(digest)
            if not release.submission and share > release.percent:
                self._shop.change(partial(_widen, release, share))
        if not staged.keys() - known.keys():
            return
        for one in self._served(context):
            entry = staged.get(one.digest)
            if entry is not None and entry.digest not in known:
                self._shop.change(partial(_watch, entry))

    def _watched(self) -> list[Release]:
        """The releases that this daemon judges. Of this marketplace's own only a daemon that signs does, and only those
        that are on offer."""
        def work(db: sa.Connection) -> list[Release]:
            on_offer = {one.digest for one in subs.offered(db) if one.state in OPEN}
            return [one for one in stages.every(db) if one.is_watched(now_ns)
                    and (self._shop.can_sign and one.digest in on_offer if one.submission else True)]

        now_ns = self._shop.now_ns()
        return self._shop.read(work)

    def _judge(self, context: Context, release: Release) -> None:
        """Holds one release to the rule; a look that was made is noted, and is not made again."""
        versions = self._shop.read(lambda db: by_version(db, [release.plugin]))
        new, old = compared(release, versions)
        found = judge(new, old, release.looked)
        if found is None:
            return
        if found.halt:
            self._halt(context, release, why(release, found, new, old), {
                "calls": new.calls, "failures": new.failures, "callsBefore": old.calls, "failuresBefore": old.failures,
                "likelihood": found.likelihood, "allowed": found.allowed})
        else:
            self._shop.read(lambda db: stages.note_look(db, release.digest, found.look))

    def _halt(self, context: Context, release: Release, reason: str, evidence: dict[str, float | int]) -> None:
        """Halts it in one transaction, which also signs the index anew, and records that."""
        def work(db: sa.Connection, now_ns: int) -> bool:
            now = stages.find(db, release.digest)
            if now is None or now.halted_ns or now.watched_ns != release.watched_ns:
                return False  # somebody has halted it, resumed it or let it go on meanwhile
            stages.halt(db, now_ns, now, reason, actor=subs.MACHINE, uid=0)
            if now.submission:
                self._shop.write_index(db, now_ns)
            return True

        if not self._shop.change(work):
            return
        self.read()
        log.error("the release of %s %s was halted: %s", release.plugin, release.version, reason)
        context.audit(release.plugin, "market.halted", {
            "version": release.version, "digest": release.digest, "percent": release.percent, "reason": reason,
            "own": bool(release.submission), **evidence})
        context.measure("market_halts_total", (), 1.0)

    def _unknown(self, context: Context, watched: Iterable[Release], error: Exception) -> None:
        """The figures cannot be had. After a while, what is watched is halted: fail closed."""
        text = error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        now = self._clock()
        if self._unknown_since is None:
            self._unknown_since = now
            log.warning("the calls of releases in stages cannot be counted: %s", text)
        if now - self._unknown_since < UNKNOWN_SECONDS:
            return
        for release in watched:
            self._halt(context, release, f"its failures could not be counted for {UNKNOWN_SECONDS / 60:.0f} minutes: "
                       f"{text}"[: stages.REASON_CHARS_MAX], {})

    # ------------------------------------------------------------------ going back
    def _go_back(self, context: Context) -> None:
        """Plugins that serve a halted version go back to the one before, or stay, as ``market.halted`` says."""
        stays = 0
        served = self._served(context) if self._here or self._following.has_halted else []
        for one in served:
            reason = self.halted(one.digest)
            if not reason:
                continue
            stays += 1
            if context.settings.market.halted == "keep":
                if one.digest not in self._kept:
                    self._kept.add(one.digest)
                    log.warning("%s %s is served although its release is halted (%s): market.halted is \"keep\"; "
                                "`apex-exec plugin rollback %s` goes back", one.plugin, one.version, reason, one.plugin)
                continue
            now = self._clock()
            if now - self._tried.get(one.digest, -BACK_AGAIN_SECONDS) < BACK_AGAIN_SECONDS:
                continue
            self._tried[one.digest] = now
            try:
                done = upgrade.rollback(context, one.plugin, None, upgrade.CanaryCall(hook="none"))
            except Refusal as error:
                log.error("%s %s stays although its release is halted: %s", one.plugin, one.version, error.message)
                continue
            stays -= 1
            del self._tried[one.digest]  # it may be resumed, upgraded to, and halted again
            log.warning("%s went back from %s to %s: %s", one.plugin, one.version, done["version"], reason)
            context.audit(one.plugin, "market.went_back", {
                "version": one.version, "to": done["version"], "digest": one.digest, "reason": reason})
        context.measure("market_halted_served", (), float(stays))

    @staticmethod
    def _served(context: Context) -> list[registry.Served]:
        return context.store.transact(lambda db: registry.list_installed(db, SERVED))

    # ------------------------------------------------------------------ for operations
    def check_known(self, context: Context, submission: int) -> None:
        """Before a release goes on to its next stage: counts and judges it now. Raises Refusal: figures_unknown,
        release_halted."""
        release = next((one for one in self._watched() if one.submission == submission), None)
        if release is None:
            return
        until = self._clock() + CATCH_UP_SECONDS
        try:
            while not bring_up_to_date(self._shop, context.store):
                if self._clock() > until:
                    raise LedgerError("there are many calls to be counted yet")
        except LedgerError as error:
            raise Refusal("figures_unknown", f"how {release.plugin} {release.version} does is not known, so it does "
                          f"not go on to another stage: {error}"[:400], code=Code.CONFLICT,
                          hint="try again in a minute") from None
        self._judge(context, release)

    def halt(self, context: Context, plugin: str, version: str, reason: str, actor: str) -> Release:
        """Somebody halts a release. Raises Refusal: reason_missing, release_unknown, invalid_transition."""
        def work(db: sa.Connection, now_ns: int) -> Release:
            release = stages.named(db, plugin, version)
            if not release.halted_ns:
                stages.halt(db, now_ns, release, reason, actor=actor, uid=context.uid)
                if release.submission:
                    self._shop.write_index(db, now_ns)
            return stages.named(db, plugin, release.version)

        _check_reason(reason, actor)
        release = self._shop.change(work)
        self.read()
        return release

    def resume(self, context: Context, plugin: str, version: str, reason: str, actor: str) -> Release:
        """Somebody lets a halted release go on; what failed before does not count again. Raises Refusal:
        reason_missing, release_unknown, release_not_halted, invalid_transition."""
        def work(db: sa.Connection, now_ns: int) -> Release:
            release = stages.named(db, plugin, version)
            if not release.halted_ns:
                raise Refusal("release_not_halted", f"the release of {plugin} {release.version} is not halted",
                              code=Code.CONFLICT)
            so_far = next((one.figures.tally for one in by_version(db, [plugin]) if one.digest == release.digest),
                          Tally())
            stages.resume(db, now_ns, release, so_far, reason, actor=actor, uid=context.uid)
            if release.submission:
                self._shop.write_index(db, now_ns)
            return stages.named(db, plugin, release.version)

        _check_reason(reason, actor)
        release = self._shop.change(work)
        self._kept.discard(release.digest)
        self.read()
        return release


def _widen(release: Release, percent: int, db: sa.Connection, now_ns: int) -> None:
    stages.widen(db, now_ns, release, percent)


def _watch(entry: Entry, db: sa.Connection, now_ns: int) -> None:
    """A release of another marketplace is watched from now on."""
    stages.put(db, Release(entry.digest, entry.id, entry.version, 0, entry.percent, 0, "", now_ns, 0, 0, 0))


def compared(release: Release, versions: Iterable[Version]) -> tuple[Tally, Tally]:
    """The calls of the release that count, and those of the latest version before it that has enough of them."""
    known = list(versions)
    new = next((one.figures.tally for one in known if one.digest == release.digest), Tally())
    before = [one for one in known if one.digest != release.digest and one.figures.calls >= CALLS_MIN
              and version_key(one.version) < version_key(release.version)]
    old = max(before, key=lambda one: version_key(one.version), default=None)
    return release.since(new), old.figures.tally if old is not None else Tally()


def why(release: Release, found: Judgement, new: Tally, old: Tally) -> str:
    """The reason of an automatic halt, for the author and the operator: figures and nothing else."""
    against = (f"{old.failures:,} of {old.calls:,} of the version before it" if found.compared else
               "and no version before it has enough calls to compare with")
    return (f"at {release.percent} % of the customers, {new.failures:,} of {new.calls:,} calls failed, {against}; that "
            f"is chance with a probability of {found.likelihood:.1g} at most")


def _check_reason(reason: str, actor: str) -> None:
    if not reason.strip() or not actor.strip():
        raise Refusal("reason_missing", "to halt or resume a release needs a reason and the actor's name",
                      code=Code.INVALID_INPUT, hint="say why with --reason")
