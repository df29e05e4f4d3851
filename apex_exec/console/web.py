"""The web application: which address shows what, who is signed in, and what a page says if something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from apex_exec import __version__
from apex_exec.common.tries import Tries
from apex_exec.console.daemon_link import Away, DaemonLink, Refused
from apex_exec.console.guard import FORM_BYTES_MAX, Guard, Handler, Stop, add_headers, has_token
from apex_exec.console.rendering import environment
from apex_exec.console.sessions import (
    FRESH_SECONDS,
    PENDING_SECONDS,
    Links,
    Note,
    NotSignedIn,
    Person,
    Session,
    Sessions,
)

if TYPE_CHECKING:  # a console without a provider does not load what checks its tokens
    from apex_exec.console.oidc import Provider

STATIC = Path(__file__).parent / "static"
FILES = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
FRAGMENT = "X-Fragment"
"""The header by which our script asks for a part of a page again."""
RELOAD = "X-Reload"
"""The header by which we tell our script that the whole page is another one now."""
log = logging.getLogger("apex_exec.console")


class NotFresh(Exception):
    """An act that needs a fresh sign-in. ``session`` is who wants it."""

    def __init__(self, session: Session) -> None:
        super().__init__("not fresh")
        self.session = session


class Web:
    """The application and what its handlers share. ``clock()`` is monotonic, in seconds."""

    def __init__(self, guard: Guard, daemon: DaemonLink, links: Links, sessions: Sessions,
                 clock: Callable[[], float], provider: Provider | None = None) -> None:
        self.guard = guard
        self.daemon = daemon
        self.links = links
        self.sessions = sessions
        self.clock = clock
        self.provider = provider
        """Signs people in beside links; None if none is configured."""
        self._tries = Tries()
        self._templates = environment()
        self._files = {name: (STATIC / name).read_bytes() for name in FILES}
        prefix = "__Host-" if guard.place.is_secure else ""  # such a cookie has to be Secure
        self._cookie = f"{prefix}apex-console-{guard.place.port}"
        """With the port, since browsers send the cookies of a host to all of its ports."""
        self._login_cookie = f"apex-console-login-{guard.place.port}"

    def application(self) -> web.Application:
        """Every address but those of the pages, which ``pages.Pages`` adds."""
        app = web.Application(middlewares=[self._walls], client_max_size=FORM_BYTES_MAX)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/login", self._login_page)
        app.router.add_post("/login", self._login)
        app.router.add_get("/login/oidc", self._to_provider)
        app.router.add_get("/login/callback", self._from_provider)
        app.router.add_post("/logout", self._logout)
        app.router.add_get("/static/{name}", self._static)
        return app

    @web.middleware
    async def _walls(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self.guard.check(request)
            return await handler(request)
        except Stop as stop:
            return self.page(request, "problem.html", stop.status, stop.headers, problem=str(stop), hint="")
        except NotFresh as old:
            return self.page(request, "fresh.html", 403, minutes=int(FRESH_SECONDS // 60), who=old.session.person,
                             sign_in=self._sign_in())
        except Away as away:
            return self.page(request, "away.html", 503, {"Retry-After": "2"}, why=str(away))
        except Refused as refused:
            return self.page(request, "problem.html", _status(refused), problem=str(refused), hint=_hint(refused))
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            words = {404: "There is no such page.", 405: "This page does not accept this kind of request; open it "
                                                         "with a link of the console.",
                     413: f"The form is larger than {FORM_BYTES_MAX // 1024} KiB; shorten the text."}
            return self.page(request, "problem.html", error.status, hint="",
                             problem=words.get(error.status, "This request cannot be served."))
        except Exception:
            log.exception("a page failed")
            return self.page(request, "problem.html", 500, hint="The console's own log has the details.",
                             problem="The console could not show this page, because of a bug.")

    # ------------------------------------------------------------------ who asks
    def session(self, request: web.Request) -> Session | None:
        """The session of a request, None if there is none. A wrong cookie counts as a try."""
        id_ = request.cookies.get(self._cookie, "")
        if not id_:
            return None
        return self.sessions.find(id_, self.clock())

    def person(self, request: web.Request) -> Session:
        """The session of a request; without one the login page is shown. Raises Stop, HTTPSeeOther."""
        session = self.session(request)
        if session is not None:
            return session
        if request.cookies.get(self._cookie):
            self.count_wrong(request)
        if request.method == "POST" or FRAGMENT in request.headers:
            raise Stop(401, "You are no longer signed in; open a new link.")
        leave = web.HTTPSeeOther("/login")
        self._take_away(leave)  # so that a browser does not send it again, and be counted again
        raise leave

    async def form(self, request: web.Request) -> tuple[Session, dict[str, str]]:
        """The session and the form of a request that changes something. Raises Stop."""
        session = self.person(request)
        given = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        if not has_token(session, given.get("csrf", "")):
            raise Stop(403, "This form belongs to an earlier session, so nothing was done; open the page again and "
                            "repeat it.")
        return session, given

    def count_wrong(self, request: web.Request) -> None:
        """Counts a wrong link or a forged cookie. Raises Stop if there were too many from this address."""
        if wait := self._tries.wrong(self.guard.address(request), self.clock()):
            raise Stop(429, "Too many failed attempts from this address; wait a minute. A valid link still works.",
                       {"Retry-After": str(int(wait) + 1)})

    # ------------------------------------------------------------------ signing in and out
    async def _login_page(self, request: web.Request) -> web.StreamResponse:
        secret = request.query.get("token", "")
        if not secret:
            return self.page(request, "login.html", 200, person=None, secret="", wrong=False, sign_in=self._sign_in())
        person = self.links.look(secret, self.clock())
        if person is None:
            self.count_wrong(request)
        return self.page(request, "login.html", 200 if person else 403, person=person, secret=secret,
                         wrong=person is None, sign_in=self._sign_in())

    async def _login(self, request: web.Request) -> web.StreamResponse:
        secret = (await request.post()).get("token", "")
        person = self.links.take(secret, self.clock()) if isinstance(secret, str) else None
        if person is None:
            self.count_wrong(request)
            return self.page(request, "login.html", 403, person=None, secret="", wrong=True,
                             sign_in=self._sign_in())
        return self.enter(request, person)

    def _sign_in(self) -> str:
        return self.provider.name if self.provider is not None else ""

    async def _to_provider(self, request: web.Request) -> web.StreamResponse:
        if self.provider is None:
            raise web.HTTPNotFound
        try:
            address, browser = await self.provider.begin(self.clock(), self.session(request),
                                                         request.query.get("fresh", "") == "1",
                                                         self.guard.address(request))
        except NotSignedIn as why:
            raise Stop(502, str(why)) from None
        response = web.Response(status=303, headers={"Location": address})
        response.set_cookie(self._login_cookie, browser, path="/login", httponly=True, samesite="Lax",
                            secure=self.guard.place.is_secure, max_age=int(PENDING_SECONDS))
        return response

    async def _from_provider(self, request: web.Request) -> web.StreamResponse:
        """The way back leads from another site, where browsers keep our session's cookie to themselves: so a page of
        ours goes on."""
        if self.provider is None:
            raise web.HTTPNotFound
        try:
            found = await self.provider.finish(request.query, request.cookies.get(self._login_cookie, ""),
                                               self.clock())
        except NotSignedIn as why:
            self.count_wrong(request)
            raise Stop(403, str(why)) from None
        entered = self.enter(request, found.person, found.before, self.clock() - found.age_seconds)
        response = self.page(request, "entered.html", to=entered.headers["Location"], person=found.person)
        response.del_cookie(self._login_cookie, path="/login")
        for cookie in entered.cookies.values():
            response.cookies[cookie.key] = cookie.value
            response.cookies[cookie.key].update(cookie)
        return response

    def enter(self, request: web.Request, person: Person, before: Session | None = None,
              proven: float | None = None) -> web.Response:
        """Begins a session in the place of the browser's former one. The same person goes on where a fresh sign-in was
        asked for. ``proven``: when the person has shown who it is; now unless that is said."""
        before = self.session(request) or before
        session, id_ = self.sessions.begin(person, self.clock(), proven)
        if before is not None:
            self.sessions.end(before)
            if before.person.name == person.name:
                session.drafts, session.wanted = before.drafts, before.wanted
        log.info("%s signed in as %s from %s", person.name, ", ".join(person.roles), self.guard.address(request))
        response = web.Response(status=303, headers={"Location": session.wanted or "/"})
        session.wanted = ""
        self._give(response, id_)
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self.form(request)
        self.sessions.end(session)
        log.info("%s signed out", session.person.name)
        response = web.Response(status=303, headers={"Location": "/login"})
        self._take_away(response)
        return response

    def _take_away(self, response: web.Response) -> None:
        response.del_cookie(self._cookie, path="/", secure=self.guard.place.is_secure, httponly=True,
                            samesite="Strict")

    def _give(self, response: web.Response, id_: str) -> None:
        response.set_cookie(self._cookie, id_, path="/", httponly=True, samesite="Strict",
                            secure=self.guard.place.is_secure)

    # ------------------------------------------------------------------ answers
    def page(self, request: web.Request, template: str, status: int = 200, headers: dict[str, str] | None = None,
             **values: Any) -> web.Response:
        """One page, or the part of it that our script asks for. A session's id is replaced when it is time for that."""
        session = self.session(request) if status != 421 else None
        fragment = FRAGMENT in request.headers
        notes = list(session.notes) if session is not None and not fragment else []
        if notes and session is not None:
            session.notes.clear()
        body = self._templates.get_template(template).render(
            session=session, notes=notes, fragment=fragment, path=request.path, version=__version__,
            **values)
        response = web.Response(text=body, status=status, content_type="text/html", headers=headers)
        if session is not None and (id_ := self.sessions.rotate(session, self.clock())):
            self._give(response, id_)
        return response

    def back(self, session: Session, to: str, note: Note) -> NoReturn:
        """Shows another page with a note on top."""
        session.notes.append(note)
        raise web.HTTPSeeOther(to)

    def need_fresh(self, session: Session, here: str) -> None:
        """Raises NotFresh unless the person signed in a moment ago; after that the browser goes on at ``here``."""
        if not session.is_fresh(self.clock()):
            session.wanted = here
            raise NotFresh(session)

    async def do(self, session: Session, here: str, op: str, /, **args: Any) -> Any:
        """Has the daemon do something; if it refuses, ``here`` shows why. Raises Away, HTTPSeeOther."""
        try:
            return await self.daemon.act(session.person, op, **args)
        except Refused as refused:
            needed = f" It needs the role {refused.needed}." if refused.needed and "role" not in str(refused) else ""
            hint = f" {refused.hint}." if refused.hint else ""
            self.back(session, here, Note("refused", f"{refused}.{needed}{hint}".replace("..", ".")))

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in FILES:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=FILES[name], charset="utf-8",
                            headers={"Cache-Control": "no-cache"})


def may(table: dict[str, str], person: Person, operation: str) -> bool:
    """Whether the daemon's table of roles gives a person an operation: for what a page offers. The daemon decides."""
    needed = table.get(operation, "admin")
    return "admin" in person.roles or needed in person.roles or (needed == "viewer" and bool(person.roles))


def _status(refused: Refused) -> int:
    return {"FORBIDDEN": 403, "NOT_FOUND": 404, "CONFLICT": 409, "INVALID_INPUT": 400, "OVERLOADED": 503}.get(
        refused.code, 502)


def _hint(refused: Refused) -> str:
    if refused.reason == "role_missing":
        return f"Ask for a link with the role {refused.needed}: `apex-exec console link NAME --role {refused.needed}`."
    return refused.hint
