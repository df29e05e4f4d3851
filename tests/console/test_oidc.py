"""Signing in by OpenID Connect: tokens that lie, answers that were not asked for; and a real provider in a browser."""

from __future__ import annotations

import asyncio
import hmac
import shutil
import socket
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from apex_exec.config import ConsoleSection
from apex_exec.console.oidc import Pending, Provider, claims_of, is_protected
from apex_exec.console.sessions import NotSignedIn
from apex_exec.errors import ConfigError
from tests.console.walks import comes
from tests.support import need
from tests.support.chromium import be_wide, chromium
from tests.support.console import Console, wait_until
from tests.support.daemon import ECHO, Daemon, write_plugin

ISSUER, CLIENT = "https://login.example", "console"
KEY = RSAKey.generate_key(2048, {"kid": "one"})
KEYS = KeySet([RSAKey.import_key(KEY.as_dict(private=False))])
BEGUN = int(time.time())
PENDING = Pending(b"", "n", "v", BEGUN, False, None, 0.0)
GOOD: dict[str, Any] = {"iss": ISSUER, "aud": CLIENT, "sub": "1", "nonce": "n", "iat": BEGUN, "exp": BEGUN + 300}
PROVIDER = "oidc-provider@9.13.3"
"""A certified OpenID provider (panva, MIT), which only this test runs."""


def token(change: dict[str, Any] | None = None, key: Any = KEY, alg: str = "RS256") -> str:
    claims = {name: value for name, value in {**GOOD, **(change or {})}.items() if value is not None}
    return jwt.encode({"alg": alg, "kid": "one"}, claims, key, algorithms=[alg])


def test_a_token_for_this_sign_in_is_taken() -> None:
    assert claims_of(token({"groups": ["platform"]}), KEYS, ISSUER, CLIENT, PENDING)["groups"] == ["platform"]
    assert claims_of(token({"aud": [CLIENT, "x"], "azp": CLIENT}), KEYS, ISSUER, CLIENT, PENDING)["sub"] == "1"
    fresh = PENDING._replace(fresh=True)
    assert claims_of(token({"auth_time": BEGUN}), KEYS, ISSUER, CLIENT, fresh)["auth_time"] == BEGUN


@pytest.mark.parametrize("change", [
    {"iss": "https://evil.example"}, {"iss": None}, {"aud": "another"}, {"aud": None}, {"aud": [CLIENT, "x"]},
    {"azp": "another"}, {"nonce": "other"}, {"nonce": None}, {"exp": BEGUN - 120}, {"exp": None},
    {"iat": BEGUN + 86_400}, {"sub": None}, {"exp": "never"}])
def test_a_token_that_is_not_for_this_sign_in_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(NotSignedIn):
        claims_of(token(change), KEYS, ISSUER, CLIENT, PENDING)


def test_a_token_of_another_key_or_without_a_signature_is_refused() -> None:
    other = RSAKey.generate_key(2048, {"kid": "one"})
    head, body, _ = token().split(".")
    unsigned, shared = "eyJhbGciOiJub25lIn0." + body + ".", "eyJhbGciOiJIUzI1NiIsImtpZCI6Im9uZSJ9." + body
    by_the_public_key = hmac.new(KEY.as_pem(private=False), shared.encode(), "sha256").digest()  # the classic
    confused = f"{shared}.{urlsafe_b64encode(by_the_public_key).rstrip(b'=').decode()}"
    for bad in (token(key=other), confused, unsigned, f"{head}.{body}.", "", "x", None, 7, "a.b.c"):
        with pytest.raises(NotSignedIn):
            claims_of(bad, KEYS, ISSUER, CLIENT, PENDING)


@pytest.mark.parametrize("auth_time", [None, BEGUN - 3600, "now"], ids=["none", "an hour ago", "text"])
def test_a_fresh_sign_in_needs_a_password_that_was_typed_now(auth_time: Any) -> None:
    with pytest.raises(NotSignedIn, match="password again"):
        claims_of(token({"auth_time": auth_time}), KEYS, ISSUER, CLIENT, PENDING._replace(fresh=True))


def section(**change: Any) -> ConsoleSection:
    return ConsoleSection(**{"oidc_issuer": ISSUER, "oidc_client_id": CLIENT,
                             "oidc_roles": {"platform": ["operator"]}, **change})


def test_an_answer_that_nobody_asked_for_signs_nobody_in() -> None:
    provider = Provider(section(), "https://console.example")
    for query in ({}, {"state": "x", "code": "y"}, {"state": "", "error": "no"}):
        with pytest.raises(NotSignedIn, match="not begun in this browser"):
            asyncio.run(provider.finish(query, "x", 0.0))


@pytest.mark.parametrize(("change", "says"), [
    ({"oidc_issuer": "http://login.example"}, "not an https address"), ({"oidc_client_id": ""}, "oidc_client_id"),
    ({"oidc_roles": {}}, "oidc_roles"), ({"oidc_client_secret_file": "/nonexistent"}, "/nonexistent")])
def test_a_provider_that_would_be_open_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Provider(section(**change), "https://console.example")


def test_only_tls_and_this_machine_are_protected() -> None:
    assert is_protected("https://a.example/x") and is_protected("http://127.0.0.1:9/x") and is_protected("http://[::1]/")
    for bad in ("http://a.example", "ftp://127.0.0.1", "http://127.0.0.1.evil.example", "", None, 3, "https://",
                "javascript:x"):
        assert not is_protected(bad), bad


SCRIPT = """
import * as library from "oidc-provider";
const Provider = library.Provider ?? library.default;
const [port, back] = [Number(process.argv[2]), process.argv[3]];
const groups = { anna: ["platform"], ben: ["nobody"], carl: ["platform"] };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ client_id: "console", client_secret: "s3cret+/=", redirect_uris: [back], response_types: ["code"],
              grant_types: ["authorization_code"] }],
  claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
  scopes: ["openid", "profile", "groups"],
  pkce: { required: () => true },
  cookies: { keys: ["test"] },
  findAccount: (ctx, id) => ({ accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [] }) }),
});
provider.listen(port, "127.0.0.1", () => console.log("ready"));
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def signed_in_by(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console whose provider is a real one, of npm."""
    folder = tmp_path_factory.mktemp("provider")
    npm, node = shutil.which("npm"), shutil.which("node")
    need(npm and node, "Node and npm are not installed")
    assert npm is not None and node is not None
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PROVIDER], cwd=folder,
                          capture_output=True, text=True, timeout=300)
    need(done.returncode == 0, f"npm cannot install {PROVIDER} here: {done.stderr[-300:]}")
    (folder / "provider.mjs").write_text(SCRIPT)
    (folder / "secret").write_text("s3cret+/=\n")
    port, own = free_port(), free_port()
    running = subprocess.Popen([node, "provider.mjs", str(port), f"http://127.0.0.1:{own}/login/callback"], cwd=folder,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        write_plugin(folder / "plugins", "echo", ECHO)
        config = {"console.oidc_issuer": f"http://127.0.0.1:{port}", "console.oidc_client_id": CLIENT,
                  "console.oidc_client_secret_file": str(folder / "secret"),
                  "console.oidc_roles": {"platform": ["operator", "approver"]}}
        with Daemon(plugins=folder / "plugins") as daemon, Console(
                daemon, f"--address=127.0.0.1:{own}", config=config) as console:
            yield console
    finally:
        running.kill()
        running.wait()


def enter(browser: Any, console: Console, name: str) -> None:
    browser.get(f"{console.origin}/login")
    browser.find_element("css selector", "a[href='/login/oidc']").click()
    at_the_provider(browser, console, name)


def at_the_provider(browser: Any, console: Console, name: str) -> None:
    wait_until(lambda: browser.find_elements("name", "login"), 60, "provider's page")
    browser.find_element("name", "login").send_keys(name)
    browser.find_element("name", "password").send_keys("x")
    browser.find_element("css selector", "button[type=submit]").click()
    wait_until(lambda: browser.current_url.startswith(console.origin) or browser.find_elements(
        "css selector", "form[action*='/interaction/'] button"), 60, "answer of the provider")
    if not browser.current_url.startswith(console.origin):
        browser.find_element("css selector", "form[action*='/interaction/'] button").click()
    wait_until(lambda: browser.current_url.startswith(console.origin), 60, "way back")


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_group_of_a_real_provider_becomes_roles_and_who_has_none_stays_outside(
        signed_in_by: Console, tmp_path: Path) -> None:
    console = signed_in_by
    with chromium(tmp_path / "one") as browser:
        be_wide(browser, 1440)
        enter(browser, console, "anna")
        wait_until(lambda: browser.find_elements("css selector", ".tiles"), 60, "overview")
        assert "anna operator, approver" in browser.find_element("css selector", ".who").text
        browser.get(f"{console.origin}/login/oidc?fresh=1")
        at_the_provider(browser, console, "anna")
        wait_until(lambda: browser.find_elements("css selector", ".tiles"), 60, "overview again")
    with chromium(tmp_path / "two") as browser:
        be_wide(browser, 1440)
        enter(browser, console, "ben")
        comes(browser, "none of your groups has a role here")
        browser.get(f"{console.origin}/plugins")
        assert "/login" in browser.current_url
