"""Support: tickets with the clock of the service level, the most urgent first, and their answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from apex_exec.common.words import duration
from apex_exec.console.queries import whole, words
from apex_exec.console.sessions import Note
from apex_exec.console.web import Web, may

ROWS = 50
NEAR_NS = 4 * 3600 * 10**9
STATES = {"": "all", "open": "open", "waiting": "wait for an answer", "near": "breach in less than 4 h",
          "breached": "breached"}


class SupportPages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/support", self._tickets)
        routes.add_get("/support/{number:[0-9]{1,15}}", self._ticket)
        routes.add_post("/support/{number:[0-9]{1,15}}/answer", self._answer)
        routes.add_post("/support/{number:[0-9]{1,15}}/close", self._close)

    async def _tickets(self, request: web.Request) -> web.StreamResponse:
        session, query = self._web.person(request), request.query
        state = query.get("state", "open") if query.get("state", "open") in STATES else "open"
        plugin, page = words(query.get("plugin", "")), whole(query.get("page", ""), 1)
        found = await self._daemon.look(session.person, "market.ticket.find", plugin=plugin, state=state,
                                        offset=(page - 1) * ROWS, limit=ROWS)
        for ticket in found["tickets"]:
            ticket["clock"] = clock(ticket, found["nowNs"])

        def address(**other: Any) -> str:
            """This page with something else asked for."""
            asked = {"plugin": plugin, "state": state, **other}
            return "/support?" + urlencode({key: value for key, value in asked.items() if value or key == "state"})

        return self._web.page(request, "tickets.html", found=found, state=state, states=STATES, plugin=plugin,
                              page=page, pages=max(1, -(-found["total"] // ROWS)), address=address)

    async def _ticket(self, request: web.Request) -> web.StreamResponse:
        session, number = self._web.person(request), int(request.match_info["number"])
        ticket = await self._daemon.look(session.person, "market.ticket.show", ticket=number)
        ticket["clock"] = clock(ticket, ticket["nowNs"])
        table = await self._daemon.roles_needed(session.person)
        return self._web.page(request, "ticket.html", ticket=ticket, number=number,
                              may_answer=may(table, session.person, "market.ticket.respond"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        number = int(request.match_info["number"])
        here, text = f"/support/{number}", form.get("text", "").replace("\r\n", "\n").strip()
        if not text:
            self._web.back(session, here, Note("refused", "Write the answer."))
        await self._web.do(session, here, "market.ticket.respond", ticket=number, responder=session.person.name,
                           text=text)
        self._web.back(session, here, Note("done", "The answer is kept, and the first one has stopped the clock."))

    async def _close(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._web.form(request)
        number = int(request.match_info["number"])
        await self._web.do(session, f"/support/{number}", "market.ticket.close", ticket=number)
        self._web.back(session, f"/support/{number}", Note("done", "The ticket is closed."))


def clock(ticket: dict[str, Any], now_ns: int) -> tuple[str, str]:
    """How a ticket stands to its first answer: a level (well, watch, bad or "") and words."""
    answered, due = ticket["responded_ns"], ticket["dueNs"]
    if due is None:
        return "", "answered" if answered else "free plugin: no clock"
    if ticket["breached"]:
        late = duration(((answered or now_ns) - due) / 1e9)
        return "bad", f"answered {late} late" if answered else f"breached {late} ago"
    if answered:
        return "well", f"answered after {duration((answered - ticket['opened_ns']) / 1e9)}"
    left = due - now_ns
    return ("watch" if left <= NEAR_NS else ""), f"due in {duration(left / 1e9)}"
