"""The pages: what each asks of the daemon, and what it shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from apex_exec.config import ROLES
from apex_exec.console import statements
from apex_exec.console.acts import ACTS, Wrong
from apex_exec.console.daemon_link import Away, Refused
from apex_exec.console.figures import History, Uses, plot, verdict
from apex_exec.console.queries import whole, words
from apex_exec.console.sessions import Note, Person
from apex_exec.console.web import Web, may

ROWS = 50
EVENTS = 50
LOG_LINES = 100
FLEET_SECONDS = 15.0
FAILURES = 5
SORTS = {"id": "name", "failures": "failures", "calls": "calls", "cpu": "CPU", "memory": "memory"}
STATES = {"": "all", "enabled": "enabled", "disabled": "disabled", "quarantined": "quarantined",
          "pending_approval": "waits for approval", "installed": "installed, not enabled", "failing": "failing now",
          "breaker": "breaker not closed", "working": "with a process"}
MEASURES = {"failures": "Failures", "time": "Time", "cpu": "CPU", "memory": "Memory", "refusals": "Refusals"}
RESULTS = ("success", "failure", "denied")
TYPES = ("plugin.execution", "plugin.api", "plugin.cpu", "access.denied", "data.access", "data.modification",
         "data.deletion", "security.rate_limit", "security.anomaly", "admin.action")
SINCE = "X-Since"
"""The event that a live page of the ledger goes up to, so that only newer ones are looked at; in the answer the latest
one that was."""


class Pages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon
        self._history = History()
        self._uses = Uses()
        self._fleet: tuple[float, dict[str, Any]] = (float("-inf"), {})
        """When we looked at the fleet, and what was seen."""

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/", self._overview)
        routes.add_get("/plugins", self._plugins)
        routes.add_get("/plugins/{id}", self._plugin)
        routes.add_post("/plugins/{id}/{act}", self._act)
        routes.add_get("/audit", self._audit)
        routes.add_post("/audit/verify", self._verify)
        routes.add_get("/doctor", self._doctor)

    async def _overview(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        now = await self._daemon.look_kept(session.person, "daemon.overview")
        rates = self._history.add(now, self._web.clock())
        by = request.query.get("by", "")
        if by not in MEASURES:
            by = next((name for name in MEASURES if now["hurting"][name]), "failures")
        return self._web.page(request, "overview.html", now=now, verdict=verdict(now), rates=rates, by=by,
                              measures=MEASURES, line=plot(self._history.line()),
                              fleet=await self._nodes(session.person) if now["fleet"] else None,
                              hurting=now["hurting"][by])

    async def _nodes(self, person: Person) -> dict[str, Any]:
        """The fleet, as somebody saw it a moment ago: what each node owns takes the daemon a while."""
        at, seen = self._fleet
        if self._web.clock() - at > FLEET_SECONDS:
            seen = await self._daemon.look(person, "fleet.status")
            self._fleet = self._web.clock(), seen
        return seen

    async def _plugins(self, request: web.Request) -> web.StreamResponse:
        session, query = self._web.person(request), request.query
        search = words(query.get("q", ""))
        state = query.get("state", "") if query.get("state", "") in STATES else ""
        sort = query.get("sort", "id") if query.get("sort", "id") in SORTS else "id"
        page = whole(query.get("page", ""), 1)
        found = await self._daemon.look(session.person, "plugin.find", search=search, state=state, sort=sort,
                                        offset=(page - 1) * ROWS, limit=ROWS)
        table = await self._daemon.roles_needed(session.person)
        kept = {"q": search, "state": state, "sort": sort}

        def address(**other: Any) -> str:
            """This page with something else asked for."""
            return "/plugins?" + urlencode({key: value for key, value in {**kept, **other}.items() if value != ""})

        pages = max(1, -(-found["total"] // ROWS))
        return self._web.page(
            request, "plugins.html", rows=found["plugins"], total=found["total"], page=page, pages=pages, first=(
                (page - 1) * ROWS + 1), search=search, state=state, sort=sort, sorts=SORTS, states=STATES,
            address=address, here=address(page=page),
            may={name: may(table, session.person, act.operation) for name, act in ACTS.items()})

    async def _plugin(self, request: web.Request) -> web.StreamResponse:
        session, id_ = self._web.person(request), request.match_info["id"]
        person = session.person
        live: dict[str, Any] | None
        try:
            live = await self._daemon.look(person, "plugin.live", id=id_)
        except Refused as refused:
            if refused.code != "NOT_FOUND":
                raise
            live = None
        lines, unread = await self._lines(request, id_)
        failures = [line for line in reversed(lines) if line["level"] == "error"][:FAILURES]
        plots = None if live is None else self._uses.add(id_, live, self._web.clock())
        values: dict[str, Any] = {"id": id_, "live": live, "plots": plots, "share": plots and plots["share"],
                                  "lines": lines, "failures": failures, "unread": unread}
        if request.headers.get("X-Fragment"):  # only what changes from second to second
            if live is None:
                raise Away("the plugin was removed")
            return self._web.page(request, "plugin_now.html", **values)
        known = await self._known(request, id_)
        if known is None and live is None:
            raise web.HTTPNotFound
        table, keys = await self._daemon.roles_needed(person), []
        if may(table, person, "plugin.revoke") and known and known["approvals"]:
            keys = statements.usable(await self._daemon.look(person, "keys.list"))
        return self._web.page(request, "plugin.html", known=known, keys=keys, may={
            name: may(table, person, act.operation) for name, act in ACTS.items()}, needed={
                name: table.get(act.operation, "admin") for name, act in ACTS.items()}, **values)

    async def _lines(self, request: web.Request, id_: str) -> tuple[list[dict[str, Any]], str]:
        """The plugin's latest lines, or why this person does not see them."""
        try:
            answer = await self._daemon.look(self._web.person(request).person, "plugin.logs", id=id_, lines=LOG_LINES)
        except Refused as refused:
            return [], (f"The log needs the role {refused.needed}." if refused.needed else str(refused))
        return answer["lines"], ""

    async def _known(self, request: web.Request, id_: str) -> dict[str, Any] | None:
        """What the registry knows; None if it does not know the plugin, or is not installed."""
        try:
            known: dict[str, Any] = await self._daemon.look(self._web.person(request).person, "plugin.show", id=id_)
        except Refused as refused:
            if refused.code in ("NOT_FOUND", "REFUSED"):
                return None
            raise
        return known

    async def _act(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        id_, act = request.match_info["id"], ACTS.get(request.match_info["act"])
        if act is None:
            raise web.HTTPNotFound
        back = form.get("back", "")
        here = f"/plugins/{id_}" if not back.startswith("/plugins?") else back
        try:
            args = act.args(id_, form)
        except Wrong as wrong:
            self._web.back(session, here, Note("refused", str(wrong)))
        if act.fresh:
            self._web.need_fresh(session, here)
        done = await self._web.do(session, here, act.operation, **args)
        if act is ACTS["remove"]:
            here = "/plugins"
        if done.get("changed") is False:  # two people may have had the same idea
            self._web.back(session, here, Note("refused", f"Nothing has changed: {id_} was {done['state']} already. "
                                               "Somebody else may have been faster; the audit says who."))
        self._web.back(session, here, Note("done", act.done(id_, args)))

    async def _audit(self, request: web.Request) -> web.StreamResponse:
        session, query = self._web.person(request), request.query
        wanted = {key: words(query.get(key, "")) for key in ("plugin", "user", "text")}
        wanted["type"] = query.get("type", "") if query.get("type", "") in TYPES else ""
        wanted["result"] = query.get("result", "") if query.get("result", "") in RESULTS else ""
        looks, before = query.get("looks", "") == "1", whole(query.get("before", ""), 0)
        if since := whole(request.headers.get(SINCE, ""), 0):  # our script has a page up to this event
            news = await self._daemon.look(session.person, "audit.events", **wanted, looks=looks, after=since, limit=1)
            if not news["events"]:
                return web.Response(status=204, headers={SINCE: str(news["last"])})
        found = await self._daemon.look(session.person, "audit.events", **wanted, looks=looks, before=before,
                                        limit=EVENTS)
        walk = await self._daemon.look(session.person, "audit.verify", start=False)
        kept = {**wanted, "looks": "1" if looks else ""}

        def address(**other: Any) -> str:
            """This page with something else asked for."""
            return "/audit?" + urlencode({key: value for key, value in {**kept, **other}.items() if value})

        return self._web.page(request, "audit.html", found=found, walk=walk, wanted=wanted, looks=looks,
                              before=before, address=address, types=TYPES, results=RESULTS,
                              here=address(before=before))

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._web.form(request)
        try:
            await self._daemon.act(session.person, "audit.verify", start=True)
        except Refused as refused:
            self._web.back(session, "/audit", Note("refused", f"{refused}."))
        self._web.back(session, "/audit", Note("done", "The chain is being checked from its first event on."))

    async def _doctor(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        found = await self._daemon.look(session.person, "daemon.doctor")
        return self._web.page(request, "doctor.html", found=found, means=MEANS, roles=ROLES)


MEANS = {
    "L4": "Hostile code is confined, and the kernel caps its memory and CPU.",
    "L3": "Hostile code is confined; memory and CPU are sampled, and a plugin over its limit is stopped.",
    "L2": "Hostile code reaches no file, network or process, but can find out which paths exist.",
    "L1": "System calls are filtered, and nothing else confines hostile code.",
    "L0": "There are limits only: no boundary against hostile code.",
}
