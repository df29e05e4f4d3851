"""The upgrade of a plugin from a file on a person's machine: sent in parts, tried beside what serves, shown live."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

from aiohttp import web

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.console.daemon_link import Away, Refused
from apex_exec.console.guard import PART, Stop, has_token
from apex_exec.console.plugin_pages import known_plugin
from apex_exec.console.queries import whole
from apex_exec.console.sessions import Note, Session
from apex_exec.console.upgrades import Upgrade, Upgrades
from apex_exec.console.web import FRAGMENT, RELOAD, Web, may

PART_BYTES_MAX = 1024 * 1024
"""Of one part: far below what the daemon takes, and little memory of ours."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
CSRF = "X-CSRF"
"""The header that carries the session's token with a part, which has no form."""


class UpgradePages:
    """Adds its addresses to the application of ``web``. Goes before ``Pages``, as ``PluginPages`` does."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon
        self._upgrades = Upgrades()

    def add_to(self, app: web.Application) -> None:
        """Registers every page. What is under way when the console ends is the daemon's to finish."""
        app.router.add_get("/plugins/{id}/upgrade", self._page)
        app.router.add_post("/plugins/{id}" + PART, self._part)
        app.router.add_post("/plugins/{id}/upgrade", self._begin)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        session, id_ = self._web.person(request), request.match_info["id"]
        person, one = session.person, self._upgrades.get(request.match_info["id"])
        known = await known_plugin(self._daemon, person, id_)
        if one is not None and one.ended is not None and FRAGMENT in request.headers:
            return web.Response(status=204, headers={RELOAD: "1"})  # the page that is open shows what has ended by now
        if one is not None and one.ended is None:
            one.look(known, await self._live(session, id_))
        table = await self._daemon.roles_needed(person)
        return self._web.page(request, "upgrade.html", id=id_, known=known, one=one, now=self._web.clock(),
                              hooks=[hook for hook in known["hooks"] if hook in HOOKS], part_bytes=PART_BYTES_MAX,
                              may_upgrade=may(table, person, "plugin.upgrade"))

    async def _live(self, session: Session, id_: str) -> dict[str, Any] | None:
        try:
            live: dict[str, Any] = await self._daemon.look(session.person, "plugin.live", id=id_)
        except Refused:
            return None
        return live

    async def _part(self, request: web.Request) -> web.StreamResponse:
        """Hands one part on to the daemon, which knows who may send one."""
        session = self._web.person(request)
        if not has_token(session, request.headers.get(CSRF, "")):
            raise Stop(403, "This part is not from your present session, so nothing was kept; open the page again.")
        digest, offset = request.query.get("digest", ""), whole(request.query.get("offset", ""), 0)
        if _DIGEST.fullmatch(digest) is None:
            raise Stop(400, "A part names the SHA-256 of the whole file.")
        body = bytearray()
        async for piece in request.content.iter_chunked(64 * 1024):
            body += piece
            if len(body) > PART_BYTES_MAX:
                raise Stop(413, f"A part has at most {PART_BYTES_MAX:,} bytes.")
        try:
            done = await self._daemon.act(session.person, "plugin.upload", digest=digest, offset=offset,
                                          bytes=bytes(body))
        except Refused as refused:
            return web.json_response({"problem": f"{refused}. {refused.hint}".strip()}, status=400)
        return web.json_response({"received": done["received"]})

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        id_, digest = request.match_info["id"], form.get("upload", "")
        here = f"/plugins/{quote(id_, safe='')}/upgrade"
        if _DIGEST.fullmatch(digest) is None:
            self._web.back(session, here, Note("refused", "No file has arrived: choose one. It is sent by a script, so "
                                               "a browser without scripts needs the command."))
        known = await known_plugin(self._daemon, session.person, id_)
        args = {"id": id_, "upload": digest}
        if hook := form.get("hook", ""):
            args["hook"] = hook
        one = Upgrade(id_, session.person.name, known, whole(form.get("size", ""), 0), self._web.clock())
        if not self._upgrades.add(one):
            self._web.back(session, here, Note("refused", f"Another upgrade of {id_} is under way; nothing was done."))
        one.task = asyncio.get_running_loop().create_task(self._run(session, one, args))
        raise web.HTTPSeeOther(here)

    async def _run(self, session: Session, one: Upgrade, args: dict[str, str]) -> None:
        try:
            done = await self._daemon.act(session.person, "plugin.upgrade", **args)
            if not done["changed"]:
                one.problem = f"version {done['version']} serves already, with exactly these bytes"
            else:
                one.result = done
        except Refused as refused:
            one.problem, one.hint = str(refused), refused.hint
            if refused.reason == "canary_failed":
                one.reached = 3
        except Away as away:
            one.problem = f"the daemon does not answer: {away}"
        finally:
            one.ended = self._web.clock()
