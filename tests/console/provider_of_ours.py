"""A provider of identities that says what a test wants: what a real one would never say, or says only after hours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.console import Answer, Browser


class Issuer:
    """Signs everybody in as ``anna`` of the group ``platform``, without a question. ``more`` are further claims."""

    def __init__(self) -> None:
        self.more: dict[str, Any] = {}
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self._nonce = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say({"/.well-known/openid-configuration": {
                    "issuer": outer.address, "jwks_uri": f"{outer.address}/keys",
                    "authorization_endpoint": f"{outer.address}/authorize", "token_endpoint": f"{outer.address}/token"},
                    "/keys": {"keys": [outer.key.as_dict(private=False)]}}[self.path])

            def do_POST(self) -> None:
                self._say({"id_token": outer.token()})

            def _say(self, answer: dict[str, Any]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Issuer]:
        """Until the block is left."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def token(self) -> str:
        now = int(time.time())
        return jwt.encode({"alg": "RS256", "kid": "one"}, {
            "iss": self.address, "aud": "console", "sub": "1", "nonce": self._nonce, "iat": now, "exp": now + 60,
            "preferred_username": "anna", "groups": ["platform"], **self.more}, self.key)

    def sign_in(self, browser: Browser, query: str = "") -> Answer:
        """The browser's way to the provider and back; the page that it comes back to."""
        return self.come_back(browser, browser.get(f"/login/oidc{query}"))

    def come_back(self, browser: Browser, left: Answer) -> Answer:
        """The way back of a browser that ``left`` for the provider."""
        assert left.status == 303, left
        asked = parse_qs(urlsplit(left.headers["location"]).query)
        self._nonce = asked["nonce"][0]
        return browser.get(f"/login/callback?code=c&state={asked['state'][0]}")
