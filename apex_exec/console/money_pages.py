"""Money: the months, a month's statement, invoices that print well, CSV, and closing a month."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from apex_exec.console.daemon_link import Refused
from apex_exec.console.queries import whole, words
from apex_exec.console.sessions import Note
from apex_exec.console.web import RELOAD, Web, may

LINES = 100
INVOICE_LINES_MAX = 2000
OPERATIONS_MAX = 8
CSV_LOOKS_MAX = 20
"""How often we look for a statement that is being computed; the daemon answers each look after a second."""
MONTH = "{month:[0-9]{4}-[0-9]{2}}"


class MoneyPages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/money", self._months)
        routes.add_get(f"/money/{MONTH}", self._month)
        routes.add_get(f"/money/{MONTH}/invoice", self._invoice)
        routes.add_get(f"/money/{MONTH}/csv", self._csv)
        routes.add_post(f"/money/{MONTH}/close", self._close)

    async def _months(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}", month := request.query.get("month", "")):
            raise web.HTTPSeeOther(f"/money/{month}")
        found = await self._daemon.look(session.person, "billing.months")
        running = (await self._daemon.look(session.person, "billing.status"))[:OPERATIONS_MAX]
        return self._web.page(request, "months.html", found=found, running=running, bars=bars(found))

    async def _month(self, request: web.Request) -> web.StreamResponse:
        session, month = self._web.person(request), request.match_info["month"]
        asked, page = _party(request), whole(request.query.get("page", ""), 1)
        if (running := await self._running(session.person, month)) is None:
            found = await self._daemon.look(session.person, "billing.page", month=month, offset=(page - 1) * LINES,
                                            limit=LINES, **asked)
            if "operation" in found:
                running = found
        if running is not None:
            return self._web.page(request, "month_running.html", month=month, running=running)
        if request.headers.get("X-Fragment"):  # the page that is open shows progress of what has ended by now
            return web.Response(status=204, headers={RELOAD: "1"})
        table = await self._daemon.roles_needed(session.person)

        def address(path: str = "", **other: Any) -> str:
            """A page of this month."""
            query = urlencode({key: value for key, value in {**asked, **other}.items() if value not in ("", 1)})
            return f"/money/{month}{path}" + (f"?{query}" if query else "")

        return self._web.page(
            request, "month.html", month=month, found=found, page=page, pages=max(1, -(-found["total"] // LINES)),
            address=address, first=(page - 1) * LINES + 1, failed=await self._failed(session.person, month),
            asked=asked, may_close=may(table, session.person, "billing.close"))

    async def _running(self, person: Any, month: str) -> dict[str, Any] | None:
        """The closing of this month that is under way."""
        return next((one for one in await self._daemon.look(person, "billing.status") if one["month"] == month and
                     one["op"] == "billing.close" and one["state"] == "running"), None)

    async def _failed(self, person: Any, month: str) -> dict[str, Any] | None:
        """The latest closing of this month, if it failed."""
        latest = next((one for one in await self._daemon.look(person, "billing.status") if one["month"] == month and
                       one["op"] == "billing.close"), None)
        return latest if latest is not None and latest["state"] == "failed" else None

    async def _invoice(self, request: web.Request) -> web.StreamResponse:
        session, month = self._web.person(request), request.match_info["month"]
        asked = _party(request)
        if not asked:
            raise web.HTTPSeeOther(f"/money/{month}")
        found = await self._daemon.look(session.person, "billing.page", month=month, offset=0,
                                        limit=INVOICE_LINES_MAX, **asked)
        if "operation" in found:
            return self._web.page(request, "month_running.html", month=month, running=found)
        if request.headers.get("X-Fragment"):
            return web.Response(status=204, headers={RELOAD: "1"})
        return self._web.page(request, "invoice.html", month=month, found=found, asked=asked)

    async def _csv(self, request: web.Request) -> web.StreamResponse:
        session, month = self._web.person(request), request.match_info["month"]
        asked = _party(request)
        for _ in range(CSV_LOOKS_MAX):
            found = await self._daemon.look(session.person, "billing.csv", month=month, **asked)
            if "operation" not in found:
                break
        else:
            query = f"?{urlencode(asked)}" if asked else ""
            self._web.back(session, f"/money/{month}{query}", Note("refused", "The month is still being computed; ask "
                                                                   "for the CSV once it is shown."))
        name = "-".join(["statement", month, *(re.sub(r"[^A-Za-z0-9]+", "-", who)[:60] for who in asked.values())])
        return web.Response(text=found["csv"], content_type="text/csv", charset="utf-8", headers={
            "Content-Disposition": f"attachment; filename=\"{quote(name)}.csv\""})

    async def _close(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        month = request.match_info["month"]
        here = f"/money/{month}"
        if form.get("sure", "") != month:
            self._web.back(session, here, Note("refused", f"Type {month} to close it: its lines never change again."))
        self._web.need_fresh(session, here)
        try:
            done = await self._daemon.act(session.person, "billing.close", month=month)
        except Refused as refused:
            self._web.back(session, here, Note("refused", f"{refused}. {refused.hint}".strip()))
        if "operation" in done:
            self._web.back(session, here, Note("done", f"{month} is being closed. You may leave this page."))
        self._web.back(session, here, Note("done", f"{month} is closed."))


def bars(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Currency -> a bar for each closed month, the oldest first: what customers owed in it, as a share of the highest.
    """
    months = list(reversed(found["months"]))
    made: dict[str, list[dict[str, Any]]] = {}
    for currency in sorted({name for month in months for name in month["totals"]}):
        owed = [month["totals"].get(currency, {}) for month in months]
        most = max(1, *(one.get("customers", 0) for one in owed))
        made[currency] = [{
            "month": month["month"], "minor": one.get("customers", 0),
            "height": round(100 * max(0, one.get("customers", 0)) / most, 1),
            "kept": round(100 * max(0, one.get("platform", 0)) / most, 1)}
            for month, one in zip(months, owed, strict=True)]
    return made


def _party(request: web.Request) -> dict[str, str]:
    for name in ("author", "customer"):
        if who := words(request.query.get(name, "")):
            return {name: who}
    return {}
