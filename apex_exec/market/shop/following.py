"""Follows the index that this daemon's plugins came from: what it lists as revoked is stopped here, too.

``refresh`` fetches the signed index, accepts it under the rules of ``index.py``, and revokes every installed version
that it lists as revoked, however its bytes arrived here. The last accepted index is stored in a file, so that a daemon
that starts without a network continues from it. An index that cannot be fetched causes a warning. An index that has
expired, or was never fetched, is stale: if ``market.stale`` is "stop", plugins from the marketplace are then not
served. Everything here runs in the registrar, in a thread of its own, and blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from pathlib import Path

import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market.shop.download import fetch
from apex_exec.market.shop.index import INDEX_BYTES_MAX, NAME, Entry, Index
from apex_exec.market.shop.storefront import Shop, write_whole
from apex_exec.registry import lifecycle
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context

log = logging.getLogger(__name__)

IDLE_SECONDS = 3600.0
"""The time between two checks if no index is followed; a reload wakes the thread."""
RETRY_SECONDS = 10.0
"""The wait after the first failed fetch. It doubles after each further one, up to ``market.refresh_seconds``."""
JITTER = 0.1
"""A random delay, so that a fleet that was started at once does not contact its mirror at once."""
STALE = "market_index_stale"
_OUTCOMES = {"not_fetched": "not_fetched", "too_large": "not_fetched", "place_invalid": "not_fetched",
             "index_rolled_back": "rolled_back", "index_forked": "rolled_back", "index_expired": "expired"}


class Following:
    """One index elsewhere. One thread calls ``refresh``; the rest never blocks, and any thread may call it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.trouble = ""
        """Why the last refresh did not yield a valid index; "" if it did."""
        self._place = ""
        self._index: Index | None = None
        self._revoked: dict[str, str] = {}
        self._listed: frozenset[str] = frozenset()
        self._halted: frozenset[str] = frozenset()
        self.staged: dict[str, Entry] = {}
        """The versions that the index offers to a share of the customers, by digest."""
        self._was_stale = False
        self._failures = 0

    # ------------------------------------------------------------------ for the registry
    def revoked(self, digest: str) -> str:
        """Why the marketplace forbids running these bytes; "" if it does not."""
        return self._revoked.get(digest, "")

    def halted(self, digest: str) -> str:
        """Why the marketplace's index offers these bytes to nobody for now; "" if it does not say so."""
        return "by the marketplace" if digest in self._halted else ""

    @property
    def has_halted(self) -> bool:
        """Whether the index lists a halted release at all."""
        return bool(self._halted)

    def share(self, digest: str) -> int:
        """The percentage of the customers that the index offers these bytes to; 0 if that is nobody."""
        if digest in self.staged:
            return self.staged[digest].percent
        return 100 if digest in self._listed and not (self.halted(digest) or self.revoked(digest)) else 0

    def stale(self, context: Context) -> str:
        """Why the followed index is no longer valid; "" if it is, or none is followed."""
        if not context.settings.market.index:
            return ""
        if self._index is None:
            return "the marketplace's index was never fetched"
        over_ns = self.shop.now_ns() - self._index.expires_ns
        return f"the marketplace's index expired {over_ns // 10**9} s ago" if over_ns >= 0 else ""

    def withheld(self, context: Context, db: sa.Connection, digest: str) -> str:
        """The reason, as one word, why a version is not served for now; "" if it is served."""
        if context.settings.market.stale != "stop" or not self.stale(context):
            return ""
        signed = digest in self._listed or any(
            row.role == "market" for row in registry.list_signatures(db, digest=digest))
        return STALE if signed else ""

    def check(self, context: Context, digest: str) -> str:
        """What ``plugin verify`` reports about a version. Raises Refusal("version_revoked" or "market_index_stale")."""
        if why := self.revoked(digest):
            raise Refusal("version_revoked", why, hint="remove it, or upgrade to another version")
        if why := self.stale(context):
            raise Refusal(STALE, f"{why}; whether it was revoked since is unknown"
                          + (f" ({self.trouble})" if self.trouble else ""), hint="check market.index")
        index = self._index
        return (f"index {index.version if index else 0} of the marketplace does not revoke it"
                + ("; it halts its release" if self.halted(digest) else "")
                + ("" if digest in self._listed else "; it is not listed there"))

    # ------------------------------------------------------------------ following the index
    def open(self, context: Context) -> None:
        """Continues from the last accepted index, if there is one."""
        self._follow(context.settings.market.index)
        if not self._place or self._index is not None:
            return
        with contextlib.suppress(OSError, Refusal):
            self._take(self.shop.take_index(self._place, self._kept().read_bytes(), self._keys(context), expired=True))
        self._was_stale = bool(self.stale(context))

    def refresh(self, context: Context) -> float:
        """Checks once. Returns the seconds until the next call."""
        market = context.settings.market
        self.open(context)
        if not self._place:
            return IDLE_SECONDS
        wait = market.refresh_seconds
        try:
            if self._index is not None:
                self._stop_revoked(context)  # a process that died may have accepted an index and revoked nothing
            data = fetch(self._place, NAME, INDEX_BYTES_MAX)
            index = self.shop.take_index(self._place, data, self._keys(context), expired=True)
            write_whole(self._kept(), data)
            self._take(index)
            self._stop_revoked(context)
            trouble, outcome, self._failures = self.stale(context), "expired" if self.stale(context) else "ok", 0
        except Refusal as error:
            trouble, outcome = error.message, _OUTCOMES.get(error.reason, "refused")
        except Exception as error:  # noqa: BLE001 - a disk, a name server: tried again like everything else
            trouble, outcome = f"{type(error).__name__}: {error}"[:300], "refused"
        if trouble:
            wait = min(wait, RETRY_SECONDS * 2 ** min(self._failures, 20))
            self._failures += 1
        self._tell(context, outcome, trouble)
        if self._index is not None and (left := (self._index.expires_ns - self.shop.now_ns()) / 1e9) > 0:
            wait = min(wait, left + 1)
        return max(1.0, wait * random.uniform(1 - JITTER, 1 + JITTER))

    def _tell(self, context: Context, outcome: str, trouble: str) -> None:
        """Counts the outcome, reports what is new, and has everything served again if what may be served has changed.
        """
        context.measure("market_index_refreshes_total", (outcome,), 1.0)
        stale = bool(self.stale(context))
        context.measure("market_index_stale", (), float(stale))
        if self._index is not None:
            context.measure("market_index_expires_timestamp_seconds", (), self._index.expires_ns / 1e9)
        if trouble and trouble != self.trouble:
            log.warning("the marketplace's index could not be fetched; new revocations are unknown meanwhile: %s",
                        trouble)
        elif self.trouble and not trouble:
            log.info("the marketplace's index can be fetched again")
        self.trouble = trouble
        if stale != self._was_stale:
            self._was_stale = stale
            if context.settings.market.stale == "stop":
                log.error("plugins from the marketplace are %s", "not served: its index is stale" if stale
                          else "served again: its index is valid")
                context.audit("marketplace", "market.stale" if stale else "market.fresh", {"place": self._place[:200]})
            context.in_doubt()

    def _stop_revoked(self, context: Context) -> None:
        """Revokes each of them, even if one fails; the error is raised at the end."""
        known = {version.digest: version for version in context.store.transact(registry.list_versions)}
        failed: Refusal | None = None
        for digest, why in self._revoked.items():
            version = known.get(digest)
            if version is None or version.state == "revoked":
                continue
            try:
                done = lifecycle.revoke_version(context, digest, why)
            except Refusal as error:
                log.error("%s %s could not be revoked: %s", version.plugin, version.version, error.message)
                failed = error
                continue
            log.error("%s %s was revoked by the marketplace%s", version.plugin, version.version,
                      " and is stopped" if done["stopped"] else "")
            context.audit(version.plugin, "market.revoked", {"version": version.version, "digest": digest,
                                                             "stopped": done["stopped"]})
            context.measure("market_revoked_total", (), 1.0)
        if failed is not None:
            raise failed

    def _follow(self, place: str) -> None:
        if place != self._place:
            self._place, self._index, self._revoked, self._listed = place, None, {}, frozenset()
            self._halted, self.staged = frozenset(), {}

    def _take(self, index: Index) -> None:
        self._index = index
        self._revoked = {entry.digest: "by the marketplace" for entry in index.plugins if entry.state == "revoked"}
        self._listed = frozenset(entry.digest for entry in index.plugins)
        self._halted = frozenset(entry.digest for entry in index.plugins if entry.state == "halted")
        self.staged = {entry.digest: entry for entry in index.plugins if entry.state == "staged"}

    def _kept(self) -> Path:
        return self.shop.folder / "taken" / f"{hashlib.sha256(self._place.encode()).hexdigest()[:32]}.json"

    def _keys(self, context: Context) -> dict[str, str]:
        now_ns = self.shop.now_ns()
        return context.store.transact(lambda db: registry.market_keys(db, now_ns))
