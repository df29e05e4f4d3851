"""The preview of ``plugin dev``: a page on this machine with the latest answer to each hook, as JSON.

Nothing that a plugin makes is markup here: every text is escaped, the policy forbids scripts, and the page has none.
The address has a secret in it, so that neither other users of this machine nor pages of other sites can read it or make
a call; requests under another name than the loopback's are refused (DNS rebinding), and calls come from our own form.
"""

from __future__ import annotations

import hmac
import html
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from apex_exec.client import CallError, Client, ConnectionLost
from apex_exec.common.words import clean

FORM_BYTES_MAX = 1024 * 1024
SHOWN_CHARS_MAX = 2 * 1024 * 1024
"""A result has at most 1 MiB, and its JSON is longer by its spaces."""
REFRESH_SECONDS = 2
TIMEOUT_SECONDS = 10.0
"""How long one request may take to arrive: a connection that says nothing holds a thread."""
DEADLINE_MS = 30_000
CSP = ("default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
       "frame-ancestors 'self'")
HEADERS = {"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
           "X-Frame-Options": "SAMEORIGIN", "Cross-Origin-Opener-Policy": "same-origin",
           "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}
STYLE = """:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem }
pre { border: 1px solid; border-radius: 4px; overflow: auto; padding: .7rem; white-space: pre-wrap }
textarea { box-sizing: border-box; font: 13px ui-monospace, monospace; min-height: 4rem; width: 100% }
iframe { border: 0; height: 75vh; width: 100% }
.failed { border-left: 4px solid #b00020; padding-left: .7rem }
.answered { border-left: 4px solid #1b7f3b; padding-left: .7rem }
"""


class Preview:
    """Calls hooks for the page, and keeps the latest reply to each. ``close`` ends it."""

    def __init__(self, endpoint: str, plugin: str, samples: dict[str, dict[str, Any]], user: str,
                 port: int = 0) -> None:
        """``samples`` has a payload for each hook. Raises OSError if the port is taken."""
        self._endpoint = endpoint
        self._plugin = plugin
        self._samples = samples
        self._user = user
        self._lock = threading.Lock()
        self._replies: dict[str, tuple[str, dict[str, Any]]] = {}
        self._token = secrets.token_urlsafe(24)
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://127.0.0.1:{self._server.server_port}/{self._token}/"

    def close(self) -> None:
        """Ends the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, samples: dict[str, dict[str, Any]]) -> None:
        """A new save has these hooks, each with a payload. The replies to others are forgotten."""
        with self._lock:
            self._samples = samples
            self._replies = {hook: kept for hook, kept in self._replies.items() if hook in samples}

    def call(self, hook: str, payload: dict[str, Any] | None = None) -> None:
        """Calls a hook and keeps the reply; does nothing if the latest save does not have the hook. Blocks; what fails
        is a reply, too."""
        sample = self._samples.get(hook)
        if sample is None:
            return
        try:
            with Client(self._endpoint) as client:
                reply = client.invoke(self._plugin, hook, self._user, sample if payload is None else payload,
                                      DEADLINE_MS)
        except CallError as error:
            reply = dict(error.reply)
        except (ConnectionLost, ValueError, TypeError, OverflowError, RecursionError) as error:  # it has no encoding
            reply = {"type": "error", "message": f"{error}"}
        with self._lock:
            if hook in self._samples:
                self._replies[hook] = time.strftime("%H:%M:%S"), reply

    # ------------------------------------------------------------------ what a request may be
    def is_ours(self, host: str) -> bool:
        """Whether a request came by a name of the loopback and our port."""
        return host in (f"127.0.0.1:{self._server.server_port}", f"localhost:{self._server.server_port}")

    def below(self, path: str) -> str | None:
        """What stands behind the secret in ``path``; None without it."""
        token, slash, rest = path.removeprefix("/").partition("/")
        return rest if slash and hmac.compare_digest(token.encode(), self._token.encode()) else None

    def posted(self, form: str) -> str:
        """Makes the call that a form asks for; "" or what is wrong with it."""
        try:
            given = parse_qs(form, max_num_fields=4)
        except ValueError:
            return "the form has other fields than the page's own"
        hook = given.get("hook", [""])[0]
        if hook not in self._samples:
            return "this plugin does not declare that hook; choose one from the list"
        try:
            payload = json.loads(given.get("payload", ["{}"])[0])
        except (ValueError, RecursionError) as error:
            return f"the payload is not JSON: {error}"
        if not isinstance(payload, dict):
            return "the payload is not a map"
        self.call(hook, payload)
        return ""

    # ------------------------------------------------------------------ pages
    def page(self) -> str:
        """The forms, and the frame with the latest replies."""
        forms = "".join(
            f'<form method="post" action="call"><h2>{_text(hook)}</h2><input type="hidden" name="hook" '
            f'value="{_text(hook)}"><textarea name="payload" aria-label="Payload of {_text(hook)}">'
            f"{_text(_pretty(sample))}</textarea><p><button>Call {_text(hook)}</button></p></form>"
            for hook, sample in self._samples.items())
        return _document(self._plugin, f'{forms}<iframe src="latest" title="The latest replies"></iframe>')

    def latest(self) -> str:
        """The latest reply to each hook. The page loads itself anew."""
        with self._lock:
            replies = dict(self._replies)
        parts = "".join(map(_shown, replies, replies.values())) or "<p>No hook was called from this page yet.</p>"
        return _document(self._plugin, parts, f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">')


def _shown(hook: str, kept: tuple[str, dict[str, Any]]) -> str:
    at, reply = kept
    failed = reply.get("type") == "error"
    traceback = (reply.get("details") or {}).get("traceback", "") if failed else ""
    blocks = [("Traceback", str(traceback))] if traceback else []
    if failed:
        blocks.insert(0, (f"{reply.get('code', 'Failed')}", str(reply.get("message", ""))))
    else:
        result = reply.get("result")
        widgets = result.get("customWidgets") if isinstance(result, dict) else None
        for number, widget in enumerate(widgets if isinstance(widgets, list) else ()):
            name = widget.get("component", "") if isinstance(widget, dict) else ""
            blocks.append((f"Widget {number + 1}: {name}", _pretty(widget)))
        if not widgets:
            blocks.append(("Result", _pretty(result)))
        blocks += [(f"Effect: {effect.get('event') or effect.get('component') or ''}", _pretty(effect))
                   for effect in reply.get("effects") or () if isinstance(effect, dict)]
    shown = "".join(f"<h3>{_text(title)}</h3><pre>{_text(body)}</pre>" for title, body in blocks)
    took = (reply.get("usage") or {}).get("executionTimeMs")
    time_ = f", {took:.1f} ms" if isinstance(took, float) else ""
    return (f'<section class="{"failed" if failed else "answered"}"><h2>{_text(hook)}</h2>'
            f"<p>at {_text(at)}{_text(time_)}</p>{shown}</section>")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _text(text: str) -> str:
    """``text`` as text: escaped, bounded, and without control characters."""
    shown = text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"
    return html.escape("\n".join(map(clean, shown.split("\n"))))


def _document(title: str, body: str, head: str = "") -> str:
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>{head}'
            f'<link rel="stylesheet" href="style.css"></head><body><h1>{_text(title)}</h1>{body}</body></html>')


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that left before it had read its answer: the terminal is the plugin's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(preview: Preview) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_SECONDS
        server_version, sys_version = "apex-exec", ""

        def do_GET(self) -> None:
            """One of the two pages, or their style."""
            pages: dict[str, Callable[[], str]] = {
                "": preview.page, "latest": preview.latest, "style.css": lambda: STYLE}
            rest = self._rest()
            if rest is not None and rest in pages:
                self._answer(200, pages[rest](), "text/css" if rest == "style.css" else "text/html")
            elif rest is not None:
                self._answer(404, "the preview does not have this page; open the address that plugin dev printed")

        def do_POST(self) -> None:
            """A call from the page's own form; then the page again."""
            if (rest := self._rest()) is None:
                return
            origin, length = self.headers.get("Origin", ""), self.headers.get("Content-Length", "")
            if rest != "call" or not preview.is_ours(origin.removeprefix("http://")):
                self._answer(403, "a call comes from this page's own form")
            elif not length.isdecimal() or int(length) > FORM_BYTES_MAX:
                self._answer(413, f"a form has at most {FORM_BYTES_MAX} bytes")
            elif wrong := preview.posted(self.rfile.read(int(length)).decode("utf-8", "replace")):
                self._answer(400, wrong)
            else:
                self.send_response(303)
                self.send_header("Location", "./")
                self.end_headers()

        def _rest(self) -> str | None:
            """What is asked for; None if the request was refused."""
            rest = preview.below(self.path) if preview.is_ours(self.headers.get("Host", "")) else None
            if rest is None:
                self._answer(404, "the address is the one that `plugin dev` has printed")
            return rest

        def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
            body = text.encode("utf-8", "replace")
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8",
                                "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing: the terminal is the plugin's."""

    return Handler
