"""Approvals of permissions: what waits, the statement that an approver signs, and the signed decision on its way."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from apex_exec.console import statements
from apex_exec.console.acts import Wrong, reason_of
from apex_exec.console.daemon_link import Refused
from apex_exec.console.queries import whole
from apex_exec.console.sessions import Note
from apex_exec.console.web import Web, may

WAITING_MAX = 20
"""Plugins whose requests for approval are shown at once: each is one more question to the daemon."""
DECISIONS = {"approve": "Approve", "deny": "Deny", "revoke": "Revoke"}
DONE = {"approve": "approved", "deny": "denied", "revoke": "the approval is revoked"}
DAYS = 30


class ApprovalPages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        app.router.add_get("/approvals", self._waiting)
        app.router.add_post("/approvals/{id}/{request:[0-9]{1,15}}/{decision:approve|deny|revoke}", self._decide)

    async def _waiting(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        found = await self._daemon.look(session.person, "plugin.find", state="pending_approval", limit=WAITING_MAX)
        waiting = []
        for row in found["plugins"]:
            known = await self._known(session.person, row["id"])
            waiting += [{**known, **one, "id": row["id"]} for one in known["approvals"] if one["state"] == "requested"]
        waiting.sort(key=lambda one: int(one["requestedNs"]))
        table, keys = await self._daemon.roles_needed(session.person), []
        is_approver = may(table, session.person, "plugin.approve")
        if is_approver:
            keys = statements.usable(await self._daemon.look(session.person, "keys.list"))
        return self._web.page(request, "approvals.html", waiting=waiting, keys=keys, is_approver=is_approver, days=DAYS,
                              days_max=statements.DAYS_MAX, more=found["total"] - len(found["plugins"]))

    async def _known(self, person: Any, id_: str) -> dict[str, Any]:
        """What the registry knows; nothing if the plugin is gone by now."""
        try:
            known: dict[str, Any] = await self._daemon.look(person, "plugin.show", id=id_)
        except Refused as refused:
            if refused.code in ("NOT_FOUND", "REFUSED"):
                return {"approvals": []}
            raise
        return known

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        """Shows the statement to be signed; with its signature passes it on."""
        session, form = await self._web.form(request)
        id_, decision = request.match_info["id"], request.match_info["decision"]
        here = form.get("back", "") if form.get("back", "") == f"/plugins/{id_}" else "/approvals"
        self._web.need_fresh(session, here)
        if form.get("signature"):
            await self._web.do(session, here, f"plugin.{decision}", id=id_, statement=form.get("statement", ""),
                               signature=form["signature"])
            self._web.back(session, here, Note("done", f"{id_}: {DONE[decision]}, signed with your key."))
        try:
            reason = reason_of(form, "Say why: the reason is signed and recorded.")
        except Wrong as wrong:
            self._web.back(session, here, Note("refused", str(wrong)))
        wanted = int(request.match_info["request"])
        known = await self._known(session.person, id_)
        asked = next((one for one in known["approvals"] if one["request"] == wanted), None)
        if asked is None:
            self._web.back(session, here, Note("refused", f"{id_} has no such request any more."))
        days = min(statements.DAYS_MAX, whole(form.get("days", ""), 1))
        to_sign = statements.approval(asked, decision, reason, form.get("key", "")[:64], days, time.time_ns())
        command = (f"apex-exec plugin {decision} {id_} {asked['permission']} --version {asked['version']} --key NAME "
                   "--reason TEXT")
        return self._web.page(request, "sign.html", to_sign=to_sign, action=request.path, back=here, command=command,
                              fields={"key": form.get("key", ""), "back": here},
                              what=f"{DECISIONS[decision]}: {asked['permission']} for {id_} {asked['version']}")
