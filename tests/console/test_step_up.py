"""What cannot be undone needs a sign-in of the last minutes: on a real daemon, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from apex_exec.config import ConsoleSection
from apex_exec.console.daemon_link import DaemonLink
from apex_exec.console.guard import Guard
from apex_exec.console.market_pages import MarketPages
from apex_exec.console.money_pages import MoneyPages
from apex_exec.console.oidc import PENDING_MAX, Provider
from apex_exec.console.pages import Pages
from apex_exec.console.place import Place
from apex_exec.console.review_pages import ReviewPages
from apex_exec.console.sessions import DRAFTS_MAX, FRESH_SECONDS, Drafts, Links, NotSignedIn, Person, Session, Sessions
from apex_exec.console.web import Web
from tests.console.pages_of_ours import text_of
from tests.console.provider_of_ours import Issuer
from tests.support.console import Browser
from tests.support.daemon import ECHO, Daemon, write_plugin


class Served:
    """A console in a thread of this process. ``now`` is its clock."""

    def __init__(self, endpoint: str, issuer: str = "") -> None:
        self.now = 0.0
        self.links = Links()
        self._endpoint = endpoint
        self._issuer = issuer
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.origin = f"http://{self.host}"
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        place = Place("127.0.0.1", int(self.host.rpartition(":")[2]), "http", frozenset((self.host,)), "", None)
        daemon = DaemonLink(self._endpoint)
        provider = Provider(ConsoleSection(oidc_issuer=self._issuer, oidc_client_id="console", oidc_roles={
            "platform": ["operator"]}), self.origin) if self._issuer else None
        web_ = Web(Guard(place), daemon, self.links, Sessions(8 * 3600.0), lambda: self.now, provider)
        app = web_.application()
        for pages in (Pages, ReviewPages, MarketPages, MoneyPages):
            pages(web_).add_to(app)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, self._listening).start()
        self._ended = asyncio.Event()
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()
        daemon.close()

    @contextmanager
    def running(self) -> Iterator[Served]:
        """Until the block is left."""
        self._thread.start()
        assert self._ready.wait(60)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(60)

    def sign_in(self, browser: Browser, name: str = "anna", *roles: str) -> str:
        """By a fresh link; where it leads."""
        answer = browser.sign_in(f"?token={self.links.make(Person(name, roles or ('operator',)), self.now)}")
        return answer.headers["location"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "d", None) as running:
        running.install(write_plugin(tmp_path / "plugins", "echo", ECHO))
        yield running


def test_what_cannot_be_undone_needs_a_sign_in_of_the_last_minutes(daemon: Daemon) -> None:
    with Served(daemon.admin).running() as console:
        where: Any = SimpleNamespace(host=console.host, origin=console.origin)
        browser = Browser(where)
        assert console.sign_in(browser) == "/"
        console.now = FRESH_SECONDS + 1
        digest = daemon.operate("plugin.show", id="echo")["digest"]
        for act, form in (("remove", {"sure": "echo"}), ("revoke", {"digest": digest, "reason": "x"})):
            answer = browser.post(f"/plugins/echo/{act}", csrf=browser.get("/doctor").csrf, **form)
            shown = text_of(answer.body)
            assert answer.status == 403 and "Sign in again" in shown and "console link NAME --role operator" in shown
        token = browser.get("/doctor").csrf
        for path, form in (("/market/echo/revoke", {"reason": "x"}), ("/money/2026-01/close", {"sure": "2026-01"}), (
                "/review/1/publish", {}), ("/review/1/decide", {"decision": "approved", "reason": "x"})):
            assert browser.post(path, csrf=token, **form).status == 403, path
        assert browser.post("/plugins/echo/restart", csrf=token).status == 303, "what can be undone needs none"
        assert daemon.operate("plugin.show", id="echo")["versions"][0]["state"] == "installed"

        browser.post("/plugins/echo/remove", csrf=token, sure="echo")
        assert console.sign_in(browser) == "/plugins/echo", "the person goes on where it was asked for"
        wrong = browser.act("echo", "remove", sure="eko")
        assert "Type echo to remove it" in text_of(wrong.body)
        assert "echo is removed" in text_of(browser.act("echo", "remove", sure="echo").body)
        with pytest.raises(AssertionError, match="NOT_FOUND"):
            daemon.operate("plugin.show", id="echo")


def test_another_person_does_not_go_on_where_the_first_was(daemon: Daemon) -> None:
    with Served(daemon.admin).running() as console:
        where: Any = SimpleNamespace(host=console.host, origin=console.origin)
        browser = Browser(where)
        console.sign_in(browser)
        console.now = FRESH_SECONDS + 1
        assert browser.post("/plugins/echo/remove", csrf=browser.get("/doctor").csrf, sure="echo").status == 403
        assert console.sign_in(browser, "ben") == "/"


@pytest.mark.parametrize(("said", "status"), [
    (None, 403), (-3600, 403), ("now", 403), (3600, 403), (0, 303)])
def test_a_provider_that_still_knows_the_browser_proves_nothing(daemon: Daemon, said: int | str | None, status: int
                                                                 ) -> None:
    """Anybody who sits at a browser that its owner has left comes back from the provider without a question."""
    with Issuer().running() as issuer, Served(daemon.admin, issuer.address).running() as console:
        place: Any = SimpleNamespace(host=console.host, origin=console.origin)  # all that a browser needs of a console
        browser = Browser(place)
        if said is not None:  # a number of seconds from now
            issuer.more = {"auth_time": int(time.time()) + said if isinstance(said, int) else said}
        assert "Signed in as anna" in text_of(issuer.sign_in(browser).body)
        answer = browser.post("/plugins/echo/remove", csrf=browser.get("/doctor").csrf, sure="echo")
        assert answer.status == status, text_of(answer.body)
        if status == 403:
            assert "Sign in again" in text_of(answer.body)
            issuer.more = {"auth_time": int(time.time())}
            assert "/plugins/echo" in issuer.sign_in(browser, "?fresh=1").body
            assert browser.post("/plugins/echo/remove", csrf=browser.get("/doctor").csrf, sure="echo").status == 303


def test_a_flood_of_sign_ins_that_nobody_ends_leaves_those_of_others_alone() -> None:
    with Issuer().running() as issuer:
        provider = Provider(ConsoleSection(oidc_issuer=issuer.address, oidc_client_id="console", oidc_roles={
            "platform": ["operator"]}), "http://console.example")

        async def work() -> None:
            where, browser = await provider.begin(0.0, None, False, "192.0.2.1")
            for _ in range(PENDING_MAX + 10):
                await provider.begin(0.0, None, False, "192.0.2.2")
            state = parse_qs(urlsplit(where).query)["state"][0]
            with pytest.raises(NotSignedIn, match="not for this sign-in"):  # the nonce is the test's, so it came far
                await provider.finish({"state": state, "code": "c"}, browser, 0.0)

        asyncio.run(work())


def test_drafts_are_few_and_a_session_is_fresh_for_five_minutes() -> None:
    session = Session(Person("anna", ("operator",)), 10.0, 10.0)
    assert session.is_fresh(10.0 + FRESH_SECONDS) and not session.is_fresh(10.1 + FRESH_SECONDS)
    drafts = Drafts()
    for number in range(DRAFTS_MAX + 1):
        drafts.keep(number, {"reason": str(number)})
    assert drafts.get(0) is None and drafts.get(1) == {"reason": "1"}
    drafts.drop(1)
    assert drafts.get(1) is None
