"""Signing in by an OpenID Connect provider: the code flow with PKCE, and groups that become roles.

joserfc checks signatures and claims; it is what authlib, of the same authors, has its own users take for that, and
authlib's clients would need another HTTP library than the one that serves the console. What a provider says is bounded
in size and time, and its word counts for a name and for groups alone: ``console.oidc_roles`` says what those may do.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from apex_exec.config import ConsoleSection
from apex_exec.console.control import person_of
from apex_exec.console.sessions import PENDING_SECONDS, NotSignedIn, Person, Session, digest
from apex_exec.errors import ConfigError

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
"""Signatures by the provider's own key: none that our client secret could make, and not "none"."""
PENDING_MAX = 200
"""Sign-ins under way. Above it those of the address that has most make room: nobody needs a right to begin one."""
KNOWN_SECONDS = 3600.0
"""How long the provider's addresses and keys are kept; an unknown key is looked for at once, but not more often than
every ``KEYS_SECONDS``."""
KEYS_SECONDS = 30.0
ANSWER_BYTES_MAX = 1024 * 1024
ANSWER_SECONDS = 10.0
SKEW_SECONDS = 60
GROUPS_MAX = 1000


class Pending(NamedTuple):
    """A sign-in that has begun: what its answer has to fit."""

    browser: bytes
    nonce: str
    verifier: str
    begun_s: int
    fresh: bool
    before: Session | None
    until: float
    address: str = ""


class SignedIn(NamedTuple):
    """Who came back, and the session from which the sign-in began. ``age_seconds``: how long ago the provider asked who
    it is; infinite if it does not say so."""

    person: Person
    before: Session | None
    age_seconds: float


class Provider:
    """One provider, for a console whose address is ``origin``. ``section`` has what is configured."""

    def __init__(self, section: ConsoleSection, origin: str) -> None:
        self._issuer = section.oidc_issuer
        self._client = section.oidc_client_id
        self._roles = section.oidc_roles
        self._groups_claim, self._name_claim = section.oidc_groups_claim, section.oidc_name_claim
        self._back = f"{origin}/login/callback"
        if not is_protected(self._issuer):
            raise ConfigError(f"console.oidc_issuer: {self._issuer[:200]!r} is not an https address, so anybody on the "
                              "network path could sign in as any user; write it with https")
        if not self._client or not self._roles:
            raise ConfigError("console.oidc_issuer needs console.oidc_client_id, and console.oidc_roles with a group "
                              "that may do something, as {\"platform\" = [\"operator\"]}")
        self._secret = _secret(section.oidc_client_secret_file)
        self._pending: OrderedDict[bytes, Pending] = OrderedDict()
        self._known: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._keys: tuple[float, KeySet | None] = (float("-inf"), None)

    @property
    def name(self) -> str:
        """The provider's host, for the button."""
        return urlsplit(self._issuer).hostname or self._issuer

    async def begin(self, now: float, before: Session | None, fresh: bool, address: str) -> tuple[str, str]:
        """The provider's page that signs somebody in, and what the browser has to bring back. ``address`` is the
        browser's. Raises NotSignedIn."""
        known = await self._configuration(now)
        state, browser, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        self._pending[digest(state)] = Pending(digest(browser), nonce, verifier, int(time.time()), fresh, before,
                                               now + PENDING_SECONDS, address)
        self._make_room()
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {"response_type": "code", "client_id": self._client, "redirect_uri": self._back, "state": state,
                 "scope": "openid profile groups", "nonce": nonce, "code_challenge": challenge,
                 "code_challenge_method": "S256", **({"prompt": "login", "max_age": "0"} if fresh else {})}
        separator = "&" if urlsplit(known["authorization_endpoint"]).query else "?"
        return f"{known['authorization_endpoint']}{separator}{urlencode(asked)}", browser

    def _make_room(self) -> None:
        while len(self._pending) > PENDING_MAX:
            (most, _), = Counter(one.address for one in self._pending.values()).most_common(1)
            del self._pending[next(state for state, one in self._pending.items() if one.address == most)]

    async def finish(self, query: Mapping[str, str], browser: str, now: float) -> SignedIn:
        """Who came back from the provider. Raises NotSignedIn."""
        pending = self._pending.pop(digest(query.get("state", "")), None)
        if pending is None or now > pending.until or digest(browser) != pending.browser:
            raise NotSignedIn("This sign-in was not begun in this browser, or was begun too long ago; sign in again.")
        if query.get("error"):
            raise NotSignedIn(f"The provider did not sign you in: {query['error'][:100]}.")
        if query.get("iss", self._issuer) != self._issuer:
            raise NotSignedIn("The answer came from another provider than the one that was asked; sign in again.")
        known = await self._configuration(now)
        form = {"grant_type": "authorization_code", "code": query.get("code", "")[:4096], "redirect_uri": self._back,
                "code_verifier": pending.verifier, "client_id": self._client}
        basic = aiohttp.BasicAuth(quote(self._client, safe=""), quote(self._secret, safe="")) if self._secret else None
        answer = await _ask("POST", known["token_endpoint"], data=form, auth=basic)
        keys = await self._key_set(now, known)
        try:
            claims = claims_of(answer.get("id_token"), keys, self._issuer, self._client, pending)
        except UnknownKey:
            keys = await self._key_set(now, known, anew=True)
            claims = claims_of(answer.get("id_token"), keys, self._issuer, self._client, pending)
        if self._groups_claim not in claims and known.get("userinfo_endpoint") and answer.get("access_token"):
            more = await _ask("GET", known["userinfo_endpoint"], headers={
                "Authorization": f"Bearer {answer['access_token']}"})
            if more.get("sub") == claims["sub"]:
                claims = {**more, **claims}
        return SignedIn(self._person(claims), pending.before, age_seconds(claims, time.time()))

    def _person(self, claims: Mapping[str, Any]) -> Person:
        name, groups = claims.get(self._name_claim), claims.get(self._groups_claim)
        if not isinstance(name, str) or not name:
            raise NotSignedIn(f"The provider did not say who signed in: its answer has no claim {self._name_claim} "
                              "(console.oidc_name_claim).")
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        roles = [role for group in listed[:GROUPS_MAX] if isinstance(group, str) for role in self._roles.get(group, ())]
        if not roles:
            raise NotSignedIn(f"{name[:100]}, none of your groups has a role here (console.oidc_roles).")
        try:
            return person_of(name, list(dict.fromkeys(roles)))
        except ConfigError as error:
            raise NotSignedIn(f"{error}.") from None

    async def _configuration(self, now: float) -> dict[str, Any]:
        at, known = self._known
        if now - at > KNOWN_SECONDS:
            known = await _ask("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if known.get("issuer") != self._issuer:
                raise NotSignedIn("The provider names another issuer than console.oidc_issuer does; the operator "
                                  "should correct that key.")
            for key in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not is_protected(known.get(key)):
                    raise NotSignedIn(f"The provider's {key} is missing or is not an https address; the operator of "
                                      "the provider has to add it.")
            if not is_protected(known.get("userinfo_endpoint")):
                known.pop("userinfo_endpoint", None)
            self._known = now, known
        return known

    async def _key_set(self, now: float, known: dict[str, Any], anew: bool = False) -> KeySet:
        at, keys = self._keys
        if keys is None or now - at > (KEYS_SECONDS if anew else KNOWN_SECONDS):
            found = await _ask("GET", known["jwks_uri"])
            try:
                keys = KeySet.import_key_set({"keys": [key for key in found["keys"] if key.get("kty") != "oct"]})
            except (JoseError, KeyError, TypeError, ValueError, AttributeError):
                raise NotSignedIn("The provider's keys cannot be read; try again, or open a link instead.") from None
            self._keys = now, keys
        return keys


class UnknownKey(NotSignedIn):
    """A token by a key that is not among those that are known."""


def claims_of(token: Any, keys: KeySet, issuer: str, client: str, pending: Pending) -> dict[str, Any]:
    """The claims of an ID token that fits the sign-in. Raises NotSignedIn."""
    if not isinstance(token, str):
        raise NotSignedIn("The provider's answer has no ID token; the operator should check the scope openid of this "
                          "client.")
    try:
        decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise UnknownKey(f"The provider's ID token is not signed by it: {error}."[:200]) from None
    claims = dict(decoded.claims)
    audience = claims.get("aud")
    try:
        jwt.JWTClaimsRegistry(
            leeway=SKEW_SECONDS, iss={"essential": True, "value": issuer}, sub={"essential": True},
            aud={"essential": True, "value": client}, exp={"essential": True}, iat={"essential": True},
            nonce={"essential": True, "value": pending.nonce}).validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        raise NotSignedIn(f"The provider's ID token is not for this sign-in: {error}."[:200]) from None
    several = isinstance(audience, list) and len(audience) > 1
    if claims.get("azp", client) != client or (several and "azp" not in claims):
        raise NotSignedIn("The provider's ID token was issued for another client; the operator should check "
                          "console.oidc_client_id.")
    at = claims.get("auth_time")
    if pending.fresh and not (isinstance(at, int) and at >= pending.begun_s - SKEW_SECONDS):
        raise NotSignedIn("The provider did not ask for your password again, which a fresh sign-in needs.")
    return claims


def age_seconds(claims: Mapping[str, Any], now: float) -> float:
    """How long ago the provider asked who it is, by ``auth_time``; infinite if that is not said. A provider that
    remembers a browser signs in without a question."""
    at = claims.get("auth_time")
    return max(0.0, now - at) if type(at) is int and at <= now + SKEW_SECONDS else math.inf


def is_protected(address: Any) -> bool:
    """Whether nobody on the way reads or changes what is sent to ``address``: https, or this machine."""
    if not isinstance(address, str):
        return False
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return True
    try:
        return parts.scheme == "http" and bool(parts.hostname) and (
            parts.hostname == "localhost" or ipaddress.ip_address(str(parts.hostname)).is_loopback)
    except ValueError:
        return False


def _secret(path: str) -> str:
    if not path:
        return ""
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"console.oidc_client_secret_file: {path} cannot be read: "
                          f"{getattr(error, 'strerror', None) or 'it is not text'}") from None
    if not text:
        raise ConfigError(f"console.oidc_client_secret_file: the file {path} is empty; write the client's secret into "
                          "it")
    return text


async def _ask(method: str, address: str, **options: Any) -> dict[str, Any]:
    """One answer of the provider, an object. Raises NotSignedIn."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as client, client.request(
                method, address, allow_redirects=False, **options) as answer:
            body = await answer.content.read(ANSWER_BYTES_MAX)
            while len(body) < ANSWER_BYTES_MAX and (more := await answer.content.read(ANSWER_BYTES_MAX - len(body))):
                body += more
            found = json.loads(body)
            if answer.status != 200 or not isinstance(found, dict):
                raise NotSignedIn(f"The provider refused the request (status {answer.status}); try again, or open a "
                                  "link instead.")
            return found
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
        raise NotSignedIn("The provider does not answer as it should; try again, or open a link instead.") from None
