"""Which JSON Web Tokens count: the right ones, and none of the wrong kinds that are known."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from apex_exec.config import DoorSection
from apex_exec.door.jwt_callers import JwtCallers, Keys, NoKey, Wrong
from apex_exec.errors import ConfigError
from tests.support.daemon import USER

SECRET = b"0123456789abcdef0123456789abcdef!"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED, "HS256": SECRET}
PUBLIC_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(algorithm: str, **more: Any) -> dict[str, Any]:
    maker = jwt.get_algorithm_by_name(algorithm)
    return {**json.loads(maker.to_jwk(PRIVATE[algorithm].public_key())), "kid": algorithm.lower(), **more}


def key_set() -> bytes:
    return json.dumps({"keys": [jwk(name) for name in ("RS256", "ES256", "EdDSA")]}).encode()


def callers(folder: Path, **changes: Any) -> JwtCallers:
    (folder / "secret").write_bytes(SECRET)
    keys = Keys()
    keys.replace(key_set())
    return JwtCallers(DoorSection(**{
        "jwt_algorithms": ("RS256", "ES256", "EdDSA", "HS256"), "jwt_jwks": "file", "jwt_issuer": "https://us",
        "jwt_audience": "apex", "jwt_secret_file": str(folder / "secret"), **changes}), keys)


def token(algorithm: str = "ES256", headers: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
    whole = {"iss": "https://us", "aud": "apex", "sub": USER, "exp": time.time() + 600, **claims}
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, key or PRIVATE[algorithm],
                      algorithm, {"kid": algorithm.lower(), **(headers or {})})


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    return f"{part(header)}.{part(claims)}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def by_hmac(key: bytes, header: dict[str, Any]) -> str:
    text = f"{part(header)}.{part(CLAIMS)}"
    return f"{text}.{signed(key, text)}"


def signed(key: bytes, text: str) -> str:
    return base64.urlsafe_b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()


CLAIMS = {"iss": "https://us", "aud": "apex", "sub": USER, "exp": time.time() + 6000}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "HS256"])
def test_a_right_token_names_its_user_and_nobody_else(algorithm: str, tmp_path: Path) -> None:
    caller = callers(tmp_path).find(token(algorithm), time.time())
    assert (caller.user, caller.act_as, caller.acts_as(None)) == (USER, False, USER)
    with pytest.raises(Exception, match="may act as its own user only"):
        caller.acts_as("11111111-1111-4111-8111-111111111112")
    assert "audit:read" not in caller.scopes


def test_scopes_are_in_the_token(tmp_path: Path) -> None:
    caller = callers(tmp_path).find(token(scope="openid act-as audit:read"), time.time())
    other = "11111111-1111-4111-8111-111111111112"
    assert caller.acts_as(other) == other and "audit:read" in caller.scopes


def wrong_tokens() -> dict[str, str]:
    """Every known kind of a token that must not count, by its name."""
    own = ec.generate_private_key(ec.SECP256R1())
    good = token()
    head, body, signature = good.split(".")
    return {
        "alg none": forged({"alg": "none", "typ": "JWT"}, CLAIMS), "alg None": forged({"alg": "None"}, CLAIMS),
        "alg nOnE": forged({"alg": "nOnE"}, CLAIMS, b"x"), "no alg": forged({"typ": "JWT"}, CLAIMS),
        "alg a list": forged({"alg": ["ES256"]}, CLAIMS), "alg HS512": jwt.encode(CLAIMS, SECRET * 2, "HS512"),
        "key confusion": by_hmac(PUBLIC_PEM, {"alg": "HS256", "kid": "rs256"}),
        "key confusion, der": by_hmac(RSA.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo), {"alg": "HS256"}),
        "key confusion, jwk": by_hmac(json.dumps(jwk("RS256")).encode(), {"alg": "HS256", "kid": "rs256"}),
        "empty secret": by_hmac(b"", {"alg": "HS256"}), "other secret": jwt.encode(CLAIMS, b"x" * 32, "HS256"),
        "kid of another type": token("ES256", {"kid": "rs256"}),
        "kid a path": token("ES256", {"kid": "../../../../dev/null"}, key=own),
        "kid sql": token("ES256", {"kid": "x' UNION SELECT 'key' --"}, key=own),
        "kid a url": token("ES256", {"kid": "https://evil.example/jwks"}, key=own),
        "kid a number": forged({"alg": "ES256", "kid": 5}, CLAIMS, b"x" * 64),
        "kid a map": forged({"alg": "ES256", "kid": {"$ne": 1}}, CLAIMS, b"x" * 64),
        "jwk in the header": token("ES256", {"kid": "es256", "jwk": json.loads(
            jwt.get_algorithm_by_name("ES256").to_jwk(own.public_key()))}, key=own),
        "jku in the header": token("ES256", {"jku": "https://evil.example/jwks"}, key=own),
        "x5u in the header": token("ES256", {"x5u": "https://evil.example/cert"}, key=own),
        "crit": token("ES256", {"crit": ["exp"]}), "typ dpop": token("ES256", {"typ": "dpop+jwt"}),
        "b64 in the header": by_hmac(SECRET, {"alg": "HS256", "b64": True}),
        "expired": token(exp=time.time() - 60), "not yet": token(nbf=time.time() + 600),
        "from the future": token(iat=time.time() + 600),
        "no exp": token(exp=None),
        "exp a text": by_hmac_of(f'{{"iss":"https://us","aud":"apex","sub":"{USER}","exp":"never"}}'),
        "exp infinite": by_hmac_of(f'{{"iss":"https://us","aud":"apex","sub":"{USER}","exp":1e999}}'),
        "wrong aud": token(aud="other"), "no aud": token(aud=None), "aud a list of others": token(aud=["a", "b"]),
        "wrong iss": token(iss="https://evil"), "no iss": token(iss=None), "no sub": token(sub=None),
        "sub no uuid": token(sub="anna"), "sub empty": token(sub=""), "sub a uuid and more": token(sub=f"{USER}\n"),
        "signature of zeros": f"{head}.{body}.{'A' * 86}", "signature cut": f"{head}.{body}.{signature[:-4]}",
        "no signature": f"{head}.{body}.",
        "body changed": f"{head}.{part({**CLAIMS, 'sub': USER[:-1] + '2'})}.{signature}",
        "four parts": f"{good}.x", "two parts": f"{head}.{body}", "encrypted": f"{good}.x.y", "empty": "..",
        "no base64": "§.§.§",
        "header no json": f"{base64.urlsafe_b64encode(b'{').decode()}.{body}.{signature}",
        "header a list": f"{part([])}.{body}.{signature}", "deep": f"{part_of('[' * 20_000)}.{body}.{signature}",
        "too long": token(more="x" * 9000),
    }


def part_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def by_hmac_of(claims: str) -> str:
    text = f"{part({'alg': 'HS256'})}.{part_of(claims)}"
    return f"{text}.{signed(SECRET, text)}"


def test_no_wrong_token_counts(tmp_path: Path) -> None:
    checked, counted = callers(tmp_path), []
    for kind, wrong in wrong_tokens().items():
        try:
            counted.append((kind, checked.find(wrong, time.time())))
        except (Wrong, NoKey):
            pass
    assert counted == []


def test_leeway_is_as_configured(tmp_path: Path) -> None:
    late = token(exp=time.time() - 20)
    assert callers(tmp_path).find(late, time.time()).user == USER
    with pytest.raises(Wrong, match="expired"):
        callers(tmp_path, jwt_leeway_seconds=5).find(late, time.time())


def test_a_token_that_was_checked_ends_with_its_time_and_with_its_key(tmp_path: Path) -> None:
    checked = callers(tmp_path, jwt_leeway_seconds=0)
    soon = token(exp=int(time.time()) + 30)
    checked.find(soon, time.time())
    checked.find(soon, time.time() + 25)
    checked._keys._keys.clear()  # the set has changed
    checked.find(soon, time.time())
    checked.forget()
    with pytest.raises(NoKey):
        checked.find(soon, time.time())


def test_a_user_that_is_no_uuid_is_one_of_the_namespace(tmp_path: Path) -> None:
    checked = callers(tmp_path, jwt_user_namespace="6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    assert checked.find(token(sub="python.org"), time.time()).user == "886313e1-3b8a-5372-9b90-0c9aee199e5d"

def test_a_name_that_is_another_users_number_names_nobody_but_itself(tmp_path: Path) -> None:
    """If users choose their names, one could choose the number of another user."""
    checked = callers(tmp_path, jwt_user_namespace="6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    for taken in ("886313e1-3b8a-5372-9b90-0c9aee199e5d", USER, USER.upper()):
        assert checked.find(token(sub=taken), time.time()).user not in (taken, taken.lower())
    assert callers(tmp_path).find(token(sub=USER.upper()), time.time()).user == USER


@pytest.mark.parametrize(("changes", "word"), [
    ({"jwt_issuer": ""}, "jwt_issuer"), ({"jwt_audience": ""}, "jwt_audience"), ({"jwt_jwks": ""}, "jwt_jwks"),
    ({"jwt_secret_file": ""}, "jwt_secret_file"), ({"jwt_secret_file": "/nowhere"}, "jwt_secret_file"),
    ({"jwt_user_namespace": "x"}, "jwt_user_namespace")])
def test_half_a_configuration_is_refused(changes: dict[str, str], word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        callers(tmp_path, **changes)


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 31)
    with pytest.raises(ConfigError, match="32 or more"):
        callers(tmp_path, jwt_secret_file=str(tmp_path / "short"))


@pytest.mark.parametrize("text", [
    b"", b"{}", b"[]", b'{"keys":5}', b'{"keys":[]}', b'{"keys":[5,null,{}]}', b"x" * 300_000, b"[" * 100_000,
    json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}).encode(),
    json.dumps({"keys": [jwk("RS256", use="enc")]}).encode(),
    json.dumps({"keys": [jwk("RS256", alg="RS512")]}).encode(),
    json.dumps({"keys": [json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(
        rsa.generate_private_key(65537, 1024).public_key()))]}).encode()],
    ids=["empty", "no keys", "a list", "a number", "none", "junk", "long", "deep", "a secret", "for encryption",
         "another algorithm", "1024 bits"])
def test_a_set_without_a_key_that_counts_is_refused_and_the_last_one_stays(text: bytes) -> None:
    keys = Keys()
    keys.replace(key_set())
    with pytest.raises(ValueError):
        keys.replace(text)
    assert len(keys) == 3 and keys.find("RS256", "rs256") is not None and keys.find("RS256", "es256") is None
