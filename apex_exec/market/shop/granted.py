"""Entitlements that a marketplace signed for somebody else's daemon: files or URLs named by ``market.entitlements``.

A grant says who may run one paid plugin and until when: users by their ids, or everybody at one customer. The
marketplace's key signs it (``market entitle``); the daemon that uses it has that key in the role ``market``. A signed
grant cannot be revoked before it ends, so a marketplace keeps control through short terms and a URL: of two grants from
one place the newer one counts, and a grant that is older than an earlier one from that place is refused.

A grant counts from the moment it was issued until its end, by this machine's clock. A grant that is forged, expired,
signed with a key that is no longer trusted, for another customer, or unreadable entitles nobody. The last accepted
grant is stored, so that a daemon that starts without a network continues from it; its signature is then checked again.
Everything here runs in the registrar, in the thread that follows the index, and blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apex_exec.common.canonical_json import canonical_json
from apex_exec.errors import Code, Refusal
from apex_exec.market.money.sales import check_customer, check_user, one_spelling
from apex_exec.market.shop.download import fetch_file
from apex_exec.market.shop.index import Envelope
from apex_exec.market.shop.storefront import Shop, write_whole
from apex_exec.registry import store as registry
from apex_exec.registry.context import Context
from apex_exec.registry.trust.signing import key_id_of, raw_public, verify_bytes

log = logging.getLogger(__name__)

GRANT_BYTES_MAX = 1024 * 1024
USERS_MAX = 10_000
RETRY_SECONDS = 10.0
SKEW_NS = 300 * 10**9
"""How far the marketplace's clock may be ahead of ours."""
_PREFIX = b"apex-exec entitlement v1\n"


class Grant(msgspec.Struct, frozen=True):
    """Who may run a plugin: ``users`` (ids in lower case), or everybody that a daemon of ``customer`` serves; never
    both."""

    plugin: str
    users: list[str]
    customer: str
    issued_ns: int
    ends_ns: int
    format: int = 1

    def covers(self, now_ns: int) -> bool:
        """Whether it counts at that moment."""
        return self.issued_ns - SKEW_NS <= now_ns < self.ends_ns


def new_grant(plugin: str, users: list[str], customer: str, now_ns: int, until: str) -> Grant:
    """A grant from now on. Raises Refusal: scope_invalid, until_invalid, user_invalid, customer_invalid."""
    if bool(users) == bool(customer) or len(users) > USERS_MAX:
        raise Refusal("scope_invalid", f"a grant must be for 1 to {USERS_MAX} users or for one customer, not for both",
                      hint="use --user, once for each user, or --customer", code=Code.INVALID_INPUT)
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        raise Refusal("until_invalid",
                      f"{until[:40]!a} is not a date or time", hint="as in 2027-01-31 or 2027-01-31T12:00:00Z",
                      code=Code.INVALID_INPUT) from None
    ends_ns = int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()) * 10**9
    if ends_ns <= now_ns:
        raise Refusal("until_invalid",
                      f"{until[:40]} is in the past", hint="choose a later moment", code=Code.INVALID_INPUT)
    return Grant(plugin, sorted({check_user(user) for user in users}), check_customer(customer) if customer else "",
                 now_ns, ends_ns)


def seal(grant: Grant, key: Ed25519PrivateKey) -> bytes:
    """The bytes of the file."""
    text = canonical_json(grant)
    return msgspec.json.encode(Envelope(text, key_id_of(raw_public(key)), key.sign(_PREFIX + text.encode()).hex()))


def open_grant(data: bytes, keys: dict[str, str]) -> Grant:
    """The grant in ``data`` if one of ``keys`` (the market keys trusted now: id → public key) signed it.

    ``covers`` says whether it counts now. Raises Refusal: entitlement_invalid, entitlement_untrusted.
    """
    try:
        envelope = msgspec.json.decode(data[: GRANT_BYTES_MAX + 1], type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("entitlement_invalid", f"this is not an entitlement: {error}"[:200]) from None
    public = keys.get(envelope.key_id)
    if public is None:
        raise Refusal("entitlement_untrusted",
                      f"it is signed by {envelope.key_id[:32]!a}, which is not a market key here",
                      hint="register the marketplace's key: apex-exec keys register NAME --role market")
    if not verify_bytes(public, _PREFIX + envelope.index.encode(), envelope.signature):
        raise Refusal("entitlement_untrusted", "its signature does not match its content",
                      hint="request it from the marketplace again")
    try:
        grant = msgspec.json.decode(envelope.index, type=Grant)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("entitlement_invalid", f"this release cannot read it: {error}"[:200]) from None
    if grant.format != 1 or bool(grant.users) == bool(grant.customer):
        raise Refusal("entitlement_invalid", "this release cannot read it: another format, or no scope")
    return grant


class Granted:
    """The grants that this daemon has received. ``changed`` is called when the set of valid ones changes.

    One thread at a time calls ``refresh`` and ``open``; any thread may read ``grants``.
    """

    def __init__(self, shop: Shop, changed: Callable[[], None]) -> None:
        self.shop = shop
        self.grants: tuple[Grant, ...] = ()
        """All accepted grants; ``Grant.covers`` says whether one counts now."""
        self._by_place: dict[str, Grant] = {}
        self._troubles: dict[str, str] = {}
        self._changed = changed
        self._failures = 0

    def open(self, context: Context) -> None:
        """Continues from what was stored for each place, if its signature is still valid."""
        keys = self._keys(context)
        for place in context.settings.market.entitlements:
            with contextlib.suppress(OSError, Refusal):
                self._by_place.setdefault(place, open_grant(self._kept(place).read_bytes(), keys))
        self._settle(context)

    def refresh(self, context: Context) -> float | None:
        """Checks every place once. Returns the seconds until the next call, None if there are no places."""
        market = context.settings.market
        self.open(context)
        if not market.entitlements:
            return None
        keys, failed = self._keys(context), False
        for place in market.entitlements:
            try:
                self._take(context, place, keys)
                self._troubles.pop(place, None)
            except Exception as error:  # noqa: BLE001 - a disk, a name server: tried again like everything else
                failed = True
                self._refused(context, place, error)
        self._settle(context)
        self._failures = self._failures + 1 if failed else 0
        return min(market.refresh_seconds, RETRY_SECONDS * 2 ** min(self._failures - 1, 20)) if failed else (
            market.refresh_seconds)

    def _take(self, context: Context, place: str, keys: dict[str, str]) -> None:
        """Raises Refusal, OSError. An earlier grant stays until it ends, if its key is still trusted."""
        known = self._by_place.get(place)
        if known is not None:  # the key may no longer be trusted
            try:
                open_grant(self._kept(place).read_bytes(), keys)
            except (OSError, Refusal):
                del self._by_place[place]
        data = fetch_file(place, GRANT_BYTES_MAX)
        grant = open_grant(data, keys)
        if known is not None and grant.issued_ns < known.issued_ns:
            raise Refusal("entitlement_rolled_back", "it is older than an earlier one from the same place")
        customer = one_spelling(context.settings.market.customer)
        if grant.customer and grant.customer != customer:
            raise Refusal("entitlement_invalid", f"it is for the customer {grant.customer[:60]!a}, but "
                          f"market.customer is {customer[:60]!a}")
        counts = grant.covers(self.shop.now_ns())
        if grant != known:  # the replaced grant no longer counts, even if this one has ended
            write_whole(self._kept(place), data)
            self._by_place[place] = grant
        if not counts:
            raise Refusal("entitlement_expired", "it has expired, or its time has not begun by this machine's clock")
        if grant != known:
            log.info("an entitlement to %s counts until %s", grant.plugin, _moment(grant.ends_ns))
            context.audit(grant.plugin, "market.entitled", {
                "place": place[:200], "users": len(grant.users), "customer": grant.customer,
                "until": _moment(grant.ends_ns)})

    def _refused(self, context: Context, place: str, error: Exception) -> None:
        reason = error.reason if isinstance(error, Refusal) else type(error).__name__
        message = error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"[:300]
        if self._troubles.get(place) != reason:
            log.warning("the entitlement at %a does not count: %s", place[:200], message)
            context.audit("marketplace", "market.entitlement_refused", {"place": place[:200], "reason": reason})
        self._troubles[place] = reason

    def _settle(self, context: Context) -> None:
        market, customer = context.settings.market, one_spelling(context.settings.market.customer)
        counting = tuple(grant for place, grant in sorted(self._by_place.items()) if place in market.entitlements
                         and (not grant.customer or grant.customer == customer))
        if counting != self.grants:
            self.grants = counting
            self._changed()

    def _kept(self, place: str) -> Path:
        return self.shop.folder / "entitled" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"

    def _keys(self, context: Context) -> dict[str, str]:
        now_ns = self.shop.now_ns()
        return context.store.transact(lambda db: registry.market_keys(db, now_ns))


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(min(ns // 10**9, 253_402_300_799), UTC).isoformat()
