"""The marketplace inside the registrar: one shop for each configuration, its operations, gate and sweep.

``HANDLERS`` join the registry's, ``gate`` its enablements, and ``keep`` is called about once a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market import people, support
from apex_exec.market.arguments import OPERATIONS
from apex_exec.market.money import invoices
from apex_exec.market.operations import Operations
from apex_exec.market.releases.watching import LOOK_SECONDS, Watching
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.checks import Lines, Scanned
from apex_exec.market.review.workflow import Machine
from apex_exec.market.shop.entitlements import RETRY_NS, Entitlements
from apex_exec.market.shop.following import IDLE_SECONDS, RETRY_SECONDS, Following
from apex_exec.market.shop.index import LIFETIME_NS
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry import lifecycle
from apex_exec.registry import store as registry
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.bundles.scaffold import language_of, scaffold_readme
from apex_exec.registry.context import Context
from apex_exec.registry.database import forget_old_pages
from apex_exec.registry.operations import Handler
from apex_exec.registry.specs import commit
from apex_exec.registry.trials.packages import LeftOut, by_maps_of_the_operator
from apex_exec.registry.trials.testing import (
    PROOF_SECONDS_MAX,
    PROOFS_MIN,
    RUN_SECONDS_MAX,
    Proof,
    Run,
    prove,
    run_tests,
    sources_of,
)

log = logging.getLogger(__name__)

PUBLISHED_NS = 30 * 10**9
"""How often a daemon looks whether another one has published, although nobody has said so, and at the tickets' clocks.
"""

SUBMISSION_SECONDS_MAX = 300.0
"""How long the tests of one submission and the runs that prove their coverage may take together. Tests that are too
long are refused with that reason; otherwise a submitter could block the lane for hours."""


class Service:
    """One open marketplace. The registrar's threads may use it concurrently."""

    def __init__(self, shop: Shop, over_ns: Callable[[], int] | None = None) -> None:
        """``over_ns``: see ``Context.over_ns``; without it the shop's clock is always right."""
        self.shop = shop
        self.entitlements = Entitlements(shop, _disable, _publish, over_ns)
        self.following = Following(shop)
        self.watching = Watching(shop, self.following)
        self.operations = Operations(shop, Machine(_scan, _run_tests, _prove, _scaffold, _stop), self.entitlements,
                                     self.watching)
        self.handlers = self.operations.handlers()
        self.withdrawn: frozenset[str] = frozenset()
        """Digests that this marketplace itself has revoked."""
        self.looked_ns = 0
        self._keeping = threading.Lock()
        self.next_refresh_ns = self.published_ns = 0

    def keep(self, context: Context) -> None:
        """Ends rights whose time has come, and signs the index anew before it expires."""
        with self._keeping:
            self._keep(context)

    def _keep(self, context: Context) -> None:
        now_ns = self.shop.now_ns()
        if now_ns >= self.entitlements.due_ns or not 0 <= now_ns - self.looked_ns < RETRY_NS:
            self.looked_ns = now_ns
            self.stop_withdrawn(context)
            self.entitlements.sweep(context)
        set_back = now_ns < self.next_refresh_ns - LIFETIME_NS // 2  # to before the index was signed
        if now_ns >= self.published_ns or not 0 <= self.published_ns - now_ns <= PUBLISHED_NS:
            self.published_ns = now_ns + PUBLISHED_NS
            self.publish_here()
            for state, count in self.shop.read(lambda db: support.clocks(db, now_ns)).items():
                context.measure("market_tickets", (state,), float(count))
        if (now_ns >= self.next_refresh_ns or set_back) and (
                self.shop.public / "index.json").exists() and self.shop.can_sign:
            index = self.shop.change(self.shop.write_index)
            self.next_refresh_ns = index.issued_ns + LIFETIME_NS // 2

    def publish_here(self) -> None:
        """See ``Shop.publish_here``."""
        try:
            self.shop.publish_here()
        except OSError as error:
            log.error("what another daemon has published could not be written to %s: %s", self.shop.public, error)

    def stop_withdrawn(self, context: Context) -> None:
        """Revokes installed versions that this marketplace has revoked: the process that revoked them may have died
        before the registry was notified."""
        self.withdrawn = self.shop.read(lambda db: frozenset(
            one.digest for one in subs.offered(db) if one.state == "revoked"))
        if not self.withdrawn:
            return
        for version in context.store.transact(registry.list_versions):
            if version.digest in self.withdrawn and version.state != "revoked":
                lifecycle.revoke_version(context, version.digest, "by the marketplace")
                context.audit(version.plugin, "market.revoked", {"version": version.version, "digest": version.digest})


_lock = threading.Lock()
_open: dict[tuple[str, str, str], Service] = {}
_rest_until_ns = 0
_unwatched = ""
"""Why the latest look at the releases in stages failed; "" if it did not."""


def service_of(context: Context) -> Service:
    """The marketplace that ``context``'s settings name, opened on first use. Raises Refusal: store_unusable."""
    key = _key(context)
    with _lock:
        if key not in _open:
            _open[key] = Service(Shop(context.settings, context.now_ns, context.store.sender, context.ledger_ns),
                                 context.over_ns)
        return _open[key]


def _key(context: Context) -> tuple[str, str, str]:
    settings = context.settings  # called for every plugin at a start, so it uses only three texts
    return settings.market.url, settings.state_dir, settings.audit.url


def gate(context: Context, manifest: Manifest, user_id: str) -> None:
    """See ``Entitlements.gate``."""
    service_of(context).entitlements.gate(context, manifest, user_id)


def erase(context: Context, user_id: str, pseudonym: str) -> int:
    """Puts the pseudonym in the place of a user who is erased; in how many values of the store. Raises Refusal."""
    service = service_of(context)
    count = service.shop.change(lambda db, _now_ns: people.erase(db, user_id, pseudonym))
    service.shop.forget_usage()
    forget_old_pages(service.shop.engine)
    service.entitlements.due_ns = 0
    return count


def month_is_closed(context: Context, month: str) -> bool:
    """Whether a month (YYYY-MM) is closed; True if there is none. Raises Refusal."""
    return not month or bool(service_of(context).shop.read(lambda db: invoices.month_is_closed(db, month)))


def forget_usage(context: Context) -> None:
    """Has the usage of open months counted anew: somebody has another name now."""
    service_of(context).shop.forget_usage()


def begin(context: Context) -> str:
    """Reads who has paid for what, before anything is served. Returns why that is unknown ("" if it is known). Until it
    is known, nobody counts as having paid."""
    try:
        service = service_of(context)
        service.entitlements.granted.open(context)
        service.entitlements.begin()
        service.following.open(context)
        service.watching.read()
        service.stop_withdrawn(context)
    except Refusal as error:
        return error.message
    return ""


def entitled(context: Context, plugin: str, paid: bool) -> frozenset[str] | None:
    """See ``Entitlements.of``. If the marketplace could not be opened, nobody has paid."""
    service = _open.get(_key(context))
    if service is None:
        return frozenset() if paid else None
    return service.entitlements.of(plugin, paid)


def ship(context: Context) -> int | None:
    """Ships this daemon's ledger, if the marketplace's database is on a server; how many of its events are still to be
    shipped, None if none ever is. Blocks. Raises Refusal as ``Shipper.ship`` does, LedgerError."""
    shop = service_of(context).shop
    if not shop.is_shared:
        return None
    shop.shipper.ship()
    return shop.shipper.unshipped


def unshipped(context: Context) -> int | None:
    """The same, as of the last time."""
    service = _open.get(_key(context))
    return service.shop.shipper.unshipped if service is not None and service.shop.is_shared else None


def begin_chain_anew(context: Context) -> str:
    """The ledger that is there is a chain of its own from now on, if it does not continue the one that was shipped; the
    new chain's name, "" if it does. Raises Refusal, LedgerError."""
    shop = service_of(context).shop
    return shop.shipper.begin_anew() if shop.is_shared else ""


def ends(context: Context) -> dict[str, dict[str, int]]:
    """See ``Entitlements.ends``; nothing if the marketplace could not be opened."""
    service = _open.get(_key(context))
    return {} if service is None else service.entitlements.ends()


def look_again(context: Context) -> None:
    """Has what is paid for read anew: another daemon has changed it."""
    service = _open.get(_key(context))
    if service is not None:
        service.entitlements.due_ns = service.published_ns = 0
        keep(context)


def follow(context: Context) -> float:
    """See ``Following.refresh`` and ``Granted.refresh``."""
    try:
        service = service_of(context)
        granted = service.entitlements.granted.refresh(context)
        wait = service.following.refresh(context)
        return wait if granted is None else min(wait, granted)
    except Refusal as error:
        log.error("the marketplace's index could not be checked: %s", error.message)
        return RETRY_SECONDS if context.settings.market.index or context.settings.market.entitlements else IDLE_SECONDS


def revoked(context: Context, digest: str) -> str:
    """Why a marketplace, this one or the one that is followed, forbids running these bytes; "" if none does."""
    service = _open.get(_key(context))
    if service is None:
        return ""
    return "by the marketplace" if digest in service.withdrawn else service.following.revoked(digest)


def halted(context: Context, digest: str) -> str:
    """See ``Watching.halted``. If the marketplace could not be opened, nothing is known about its releases."""
    service = _open.get(_key(context))
    return service.watching.halted(digest) if service is not None else ""


def watch(context: Context) -> float:
    """See ``Watching.look``. A failure is logged once, and tried again at the next look."""
    global _unwatched
    try:
        wait = service_of(context).watching.look(context)
    except Exception as error:  # noqa: BLE001 - the thread has to go on: what is not watched is not halted
        why = error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        if why != _unwatched:
            log.error("the releases that go out in stages could not be looked at: %s", why)
        _unwatched = why
        return LOOK_SECONDS
    _unwatched = ""
    return wait


def withheld(context: Context, db: sa.Connection, digest: str) -> str:
    """See ``Following.withheld``. If the marketplace could not be opened, nothing is known about its index."""
    service = _open.get(_key(context))
    return service.following.withheld(context, db, digest) if service is not None else ""


def check(context: Context, digest: str) -> str:
    """See ``Following.check``; "" if no index is followed."""
    return service_of(context).following.check(context, digest) if context.settings.market.index else ""


def keep(context: Context) -> None:
    """See ``Service.keep``. A failure is logged, and tried again in a minute."""
    global _rest_until_ns
    if time.monotonic_ns() < _rest_until_ns:  # not the wall clock, which may be set back
        return
    try:
        service_of(context).keep(context)
    except Refusal as error:
        _rest_until_ns = time.monotonic_ns() + RETRY_NS
        log.error("the marketplace's upkeep failed: %s", error.message)


def _handler(name: str) -> Handler:
    return lambda context, args: service_of(context).handlers[name](context, args)


HANDLERS: dict[str, Handler] = {operation.name: _handler(operation.name) for operation in OPERATIONS}
_begun = threading.local()
"""When the tests began for the submission that this thread works on."""


def _scan(context: Context, bundle: Bundle) -> Scanned:
    found = context.scan(bundle.files, bundle.manifest)
    errors, warnings = ([f"{one.path}:{one.line}: {one.message}: {one.fix}" for one in found.findings
                         if one.severity == severity] for severity in ("error", "warning"))
    return errors, warnings


def _run_tests(context: Context, bundle: Bundle) -> Run:
    _begun.at = time.monotonic()
    return run_tests(bundle, context.settings, left_out=_left_out(context, bundle))


def _left_out(context: Context, bundle: Bundle) -> LeftOut:
    return by_maps_of_the_operator(bundle, sources_of(bundle), context.settings.market.maps)


def _prove(context: Context, bundle: Bundle, lines: Lines) -> Proof:
    """Proves ``lines`` in what is left of the submission's time. Raises Refusal("tests_too_long")."""
    used = time.monotonic() - _begun.at
    left = SUBMISSION_SECONDS_MAX - used
    if used * PROOFS_MIN > left:
        raise Refusal("tests_too_long", f"the tests take {used:.0f} s, and proving their coverage takes {PROOFS_MIN} "
                      f"runs of them; a submission has {SUBMISSION_SECONDS_MAX:.0f} s in total",
                      hint="make them shorter")
    return prove(bundle, context.settings, lines, run_seconds=min(RUN_SECONDS_MAX, left / PROOFS_MIN),
                 proof_seconds=min(PROOF_SECONDS_MAX, left), left_out=_left_out(context, bundle))


def _scaffold(bundle: Bundle) -> str:
    return scaffold_readme(bundle.manifest.id, bundle.manifest.manifest.hooks[0], language_of(bundle))


def _stop(context: Context, digest: str, reason: str) -> None:
    service = service_of(context)
    service.withdrawn |= {digest}
    try:
        lifecycle.revoke_version(context, digest, reason)
    except Refusal as error:
        if error.code != Code.NOT_FOUND:  # not installed here, so there is nothing to stop
            raise


def _publish(context: Context, plugins: Iterable[str]) -> None:
    commit(context, lambda _: None, plugins, point="entitlements-looked-at", changes_rows=False)


def _disable(context: Context, plugin: str, user_id: str, reason: str) -> None:
    lifecycle.disable(context, plugin, user_id, reason)
