"""JSON Web Tokens: which of them count, and which user they name. PyJWT checks signatures and times; the rest is here.

Which key may check a token is decided by the configuration and the key's own type, never by the token: HS256 takes only
the configured secret, the others only a key of their type from the key set, and ``kid`` is nothing but a name in it.
A token's ``jku``, ``jwk`` and ``x5u`` are not looked at; one with ``crit`` is refused.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from apex_exec.common.names import UUID
from apex_exec.config import DoorSection
from apex_exec.door.callers import ACT_AS, AUDIT, DISPATCH, INVOKE, PLUGINS, Caller
from apex_exec.errors import ConfigError

SECRET_BYTES_MIN = 32
RSA_BITS_MIN = 2048
TOKEN_CHARS_MAX = 8192
KEYS_MAX = 100
SET_BYTES_MAX = 256 * 1024
KEPT_SECONDS = 60.0
"""How long a token that was checked counts without another look at its signature."""
KEPT_MAX = 10_000
CLAIM_CHARS_MAX = 500
ALWAYS = frozenset((INVOKE, DISPATCH, PLUGINS))
"""What every user may do; ``act-as`` and ``audit:read`` have to be in the claim ``scope``."""
TYPES = ("jwt", "at+jwt", "application/at+jwt")


class Wrong(Exception):
    """A token that does not count. ``str()`` says why, without anything from the token."""


class NoKey(Exception):
    """No key has the name that a token gives: a look at the key set may change that."""


class Keys:
    """The public keys of one key set by algorithm and name."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], Any] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, text: bytes) -> None:
        """Takes over a key set (RFC 7517) in place of the one before. Keys that no algorithm here can use are left
        out. Raises ValueError if it is none, or has no key that can be used."""
        if len(text) > SET_BYTES_MAX:
            raise ValueError(f"the key set has more than {SET_BYTES_MAX} bytes")
        try:
            rows = json.loads(text)["keys"]
            found: dict[tuple[str, str], Any] = {}
            for row in rows[:KEYS_MAX]:
                if isinstance(row, dict) and row.get("use", "sig") == "sig" and (made := _key(row)) is not None:
                    found[made[0], str(row.get("kid", ""))] = made[1]
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
            raise ValueError(f"the file is not a JSON Web Key Set ({type(error).__name__})") from None
        if not found:
            raise ValueError("the key set has no key for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")
        self._keys = found

    def find(self, algorithm: str, kid: str | None) -> Any:
        """The key with that name, or the only one of that type if the token names none; None if there is none."""
        if kid is not None:
            return self._keys.get((algorithm, kid))
        fitting = [key for (kind, _), key in self._keys.items() if kind == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def _key(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    try:
        key = jwt.PyJWK(dict(row)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    said = row.get("alg")
    if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN and said in (None, "RS256"):
        return "RS256", key
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1" and said in (None, "ES256"):
        return "ES256", key
    if isinstance(key, Ed25519PublicKey) and said in (None, "EdDSA"):
        return "EdDSA", key
    return None


class JwtCallers:
    """Checks tokens by one configuration. Raises ConfigError if that is not whole."""

    def __init__(self, section: DoorSection, keys: Keys) -> None:
        self._section = section
        self._keys = keys
        self._kept: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._secret = b""
        self.is_on = bool(section.jwt_algorithms)
        self.needs_keys = bool(set(section.jwt_algorithms) - {"HS256"})
        if not self.is_on:
            return
        if not section.jwt_issuer or not section.jwt_audience:
            raise ConfigError("door.jwt_algorithms: set door.jwt_issuer and door.jwt_audience too: a token that was "
                              "made by somebody else, or for somebody else, must not count here")
        if self.needs_keys and not section.jwt_jwks:
            raise ConfigError("door.jwt_jwks: name the key set, a file or an https URL, that RS256, ES256 and EdDSA "
                              "are checked by")
        if "HS256" in section.jwt_algorithms:
            self._secret = _read_secret(section.jwt_secret_file)
        if section.jwt_user_namespace and UUID.fullmatch(section.jwt_user_namespace.lower()) is None:
            raise ConfigError(f"door.jwt_user_namespace: {section.jwt_user_namespace!r} is not a UUID")

    def forget(self) -> None:
        """Looks at every token anew: the keys have changed."""
        self._kept.clear()

    def find(self, token: str, now: float) -> Caller:
        """The caller that a token names. ``now`` is UTC in seconds. Raises Wrong, NoKey."""
        if len(token) > TOKEN_CHARS_MAX:
            raise Wrong("the token is too long")
        name = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        kept = self._kept.get(name)
        if kept is not None and now < kept[1]:
            return kept[0]
        caller, expires = self._check(token)
        self._kept[name] = caller, min(now + KEPT_SECONDS, expires + self._section.jwt_leeway_seconds)
        self._kept.move_to_end(name)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return caller

    def _check(self, token: str) -> tuple[Caller, float]:
        section = self._section
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in section.jwt_algorithms:
                raise Wrong("the token's algorithm is not one of door.jwt_algorithms")
            if "crit" in header or "b64" in header or str(header.get("typ") or "JWT").lower() not in TYPES:
                raise Wrong("the token's header has `crit`, `b64` or a `typ` that is not supported")
            key: Any = self._secret if algorithm == "HS256" else self._keys.find(
                algorithm, kid if kid is None or isinstance(kid, str) else "")
            if key is None:
                raise NoKey("the token's key is not in the key set")
            claims = jwt.decode(token, key, algorithms=[algorithm], audience=section.jwt_audience,
                                issuer=section.jwt_issuer, leeway=section.jwt_leeway_seconds,
                                options={"require": ["exp", "iss", "aud", section.jwt_user_claim]})
            return self._caller(claims), float(claims["exp"])
        except (Wrong, NoKey):
            raise
        except jwt.PyJWTError as error:
            raise Wrong(_why(error)) from None
        except Exception as error:  # noqa: BLE001 - whatever a hostile token makes a library do, it does not count
            raise Wrong(f"the token cannot be read ({type(error).__name__})") from None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        section = self._section
        named = claims[section.jwt_user_claim]
        if not isinstance(named, str) or not named or len(named) > CLAIM_CHARS_MAX:
            raise Wrong(f"the claim {section.jwt_user_claim} does not name a user")
        if section.jwt_user_namespace:  # of a UUID, too: a name that its user chose could be another user's
            user = str(uuid.uuid5(uuid.UUID(section.jwt_user_namespace), named))
        else:
            user = named.lower()
            if UUID.fullmatch(user) is None:
                raise Wrong(f"the claim {section.jwt_user_claim} is not a UUID, and door.jwt_user_namespace is not set")
        scopes = _scopes(claims)
        return Caller(key=f"jwt:{user}", name=f"user {user}", user=user, act_as=ACT_AS in scopes,
                      plugins=frozenset(), hooks=frozenset(), scopes=ALWAYS | (scopes & {AUDIT}),
                      requests_per_minute=section.jwt_requests_per_minute)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    said = claims.get("scope", claims.get("scp", ""))
    words = said.split(" ") if isinstance(said, str) else said if isinstance(said, list) else []
    return frozenset(word for word in words if isinstance(word, str))


_WHY = {
    jwt.ExpiredSignatureError: "the token has expired", jwt.ImmatureSignatureError: "the token does not count yet",
    jwt.InvalidAudienceError: "the token is for somebody else (aud)",
    jwt.InvalidIssuerError: "the token was made by somebody else (iss)",
    jwt.InvalidSignatureError: "the token's signature is wrong",
    jwt.MissingRequiredClaimError: "the token lacks a claim: exp, iss, aud and the user's are needed"}


def _why(error: jwt.PyJWTError) -> str:
    return next((words for kind, words in _WHY.items() if isinstance(error, kind)), "the token cannot be read")


def _read_secret(path: str) -> bytes:
    if not path:
        raise ConfigError("door.jwt_secret_file is not set, and HS256 needs it; name the file with the secret")
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"door.jwt_secret_file: {path}: {error.strerror}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"door.jwt_secret_file: {path} has {len(secret)} bytes; HS256 takes a secret of "
                          f"{SECRET_BYTES_MIN} or more")
    return secret
