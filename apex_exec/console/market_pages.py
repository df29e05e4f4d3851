"""The marketplace as customers and authors see it: what is on offer, one listing, an author's own page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from apex_exec.console.acts import Wrong, reason_of
from apex_exec.console.pictures import picture
from apex_exec.console.queries import whole, words
from apex_exec.console.sessions import Note
from apex_exec.console.web import Web, may

ROWS = 24


class MarketPages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/market", self._offers)
        routes.add_get("/market/{id}", self._offer)
        routes.add_get("/market/{id}/pictures/{number:[0-9]}", self._picture)
        routes.add_post("/market/{id}/{act:revoke|deprecate}", self._revoke)
        routes.add_get("/mine", self._mine)

    async def _offers(self, request: web.Request) -> web.StreamResponse:
        session, query = self._web.person(request), request.query
        search, page = words(query.get("q", "")), whole(query.get("page", ""), 1)
        found = await self._daemon.look(session.person, "market.search", words=search)
        latest = {offer["id"]: offer for offer in found}  # versions of one plugin follow each other
        shown = list(latest.values())

        def address(number: int) -> str:
            """Another page of the list."""
            return "/market?" + urlencode({**({"q": search} if search else {}), "page": number})

        return self._web.page(request, "offers.html", offers=shown[(page - 1) * ROWS:page * ROWS], total=len(shown),
                              search=search, page=page, pages=max(1, -(-len(shown) // ROWS)), address=address)

    async def _offer(self, request: web.Request) -> web.StreamResponse:
        session, id_ = self._web.person(request), request.match_info["id"]
        offer = await self._daemon.look(session.person, "market.show", plugin=id_)
        table = await self._daemon.roles_needed(session.person)
        return self._web.page(request, "offer.html", offer=offer, price=offer["prices"][-1] if offer["prices"] else {},
                              may_revoke=may(table, session.person, "market.revoke"))

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        person = self._web.person(request).person
        return picture(await self._daemon.look(person, "market.picture", plugin=request.match_info["id"],
                                               number=int(request.match_info["number"])))

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        id_, act = request.match_info["id"], request.match_info["act"]
        here = f"/market/{id_}"
        try:
            reason = reason_of(form, "Say why: the reason is recorded, and customers see it.")
        except Wrong as wrong:
            self._web.back(session, here, Note("refused", str(wrong)))
        self._web.need_fresh(session, here)
        args: dict[str, Any] = {"plugin": id_, "reason": reason, "actor": session.person.name,
                                "version": form.get("version", ""), "deprecate": act == "deprecate"}
        done = await self._web.do(session, here, "market.revoke", **args)
        named = ", ".join(done["versions"]) or "nothing new"
        self._web.back(session, here, Note("done", f"{id_}: {named} is {done['state']}."))

    async def _mine(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        found = await self._daemon.look(session.person, "market.mine", submitter=session.person.name)
        figures = await self._daemon.look(session.person, "market.figures", submitter=session.person.name)
        return self._web.page(request, "mine.html", found=found, figures=figures)
