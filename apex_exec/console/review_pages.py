"""The review of submissions: the queue, what to read, comments on lines, the decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from apex_exec.console import statements
from apex_exec.console.acts import Wrong, reason_of
from apex_exec.console.highlight import Line, coloured, numbers
from apex_exec.console.queries import whole
from apex_exec.console.sessions import Note
from apex_exec.console.side_by_side import Row, rows
from apex_exec.console.web import Web, may

QUEUE_MAX = 200
LINES = 400
"""Lines of source on one page."""
DECISIONS = {"approved": "Approve", "changes_requested": "Ask for changes", "rejected": "Reject"}
PATH_CHARS_MAX = 400


class ReviewPages:
    """Adds its addresses to the application of ``web``."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/review", self._queue)
        routes.add_get("/review/{number:[0-9]{1,15}}", self._submission)
        routes.add_get("/review/{number:[0-9]{1,15}}/file", self._file)
        routes.add_post("/review/{number:[0-9]{1,15}}/take", self._take)
        routes.add_post("/review/{number:[0-9]{1,15}}/comment", self._comment)
        routes.add_post("/review/{number:[0-9]{1,15}}/decide", self._decide)
        routes.add_post("/review/{number:[0-9]{1,15}}/publish", self._publish)

    async def _queue(self, request: web.Request) -> web.StreamResponse:
        session = self._web.person(request)
        queue = await self._daemon.look(session.person, "market.status")
        return self._web.page(request, "review.html", queue=queue[:QUEUE_MAX], total=len(queue))

    async def _submission(self, request: web.Request) -> web.StreamResponse:
        session, number = self._web.person(request), int(request.match_info["number"])
        base = _base(request)
        one = await self._daemon.look(session.person, "market.status", submission=number)
        table = await self._daemon.roles_needed(session.person)
        found = keys = None
        if may(table, session.person, "market.source"):
            found = await self._daemon.look(session.person, "market.source", submission=number, base=base)
            keys = statements.usable(await self._daemon.look(session.person, "keys.list"))
        said: dict[str, int] = {}
        for comment in one["comments"]:
            said[comment["path"]] = said.get(comment["path"], 0) + 1
        return self._web.page(request, "submission.html", one=one, found=found, said=said, base=base, keys=keys or [],
                              checklist=CHECKLIST, decisions=DECISIONS, number=number, draft=session.drafts.get(number),
                              is_own=_same(session.person.name, one["author"], one["submitter"]),
                              reader=may(table, session.person, "market.source"))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        session, query = self._web.person(request), request.query
        number, path = int(request.match_info["number"]), query.get("path", "")[:PATH_CHARS_MAX]
        base, view = _base(request), "diff" if query.get("view", "") == "diff" else "source"
        if not path:
            raise web.HTTPNotFound
        one = await self._daemon.look(session.person, "market.status", submission=number)
        found = await self._daemon.look(session.person, "market.source", submission=number, file=path, base=base)
        line = whole(query.get("line", ""), 0)
        begin = whole(query.get("from", ""), 1)
        if line and "from" not in query:
            begin = (line - 1) // LINES * LINES + 1
        comments = [comment for comment in one["comments"] if comment["path"] == path]
        noted = {note["line"] - 1 for note in (*found["findings"], *comments)} | {line - 1}
        read = await asyncio.to_thread(_Read, found, view, noted)  # the largest file takes a tenth of a second
        kept = {"path": path, "view": view if view == "diff" else "", "base": base or ""}

        def address(**other: Any) -> str:
            """This page with something else asked for."""
            asked = {key: value for key, value in {**kept, **other}.items() if value != ""}
            return f"/review/{number}/file?{urlencode(asked)}"

        return self._web.page(
            request, "source.html", one=one, found=found, view=view, number=number, file=path, base=base, line=line,
            read=read, begin=begin, end=begin + LINES, total=read.total(), step=LINES, address=address,
            findings=_by_line(found["findings"]), comments=_by_line(comments),
            run=numbers(found["coverage"]["run"]), missed=numbers(found["coverage"]["missed"]))

    async def _take(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._web.form(request)
        number = int(request.match_info["number"])
        await self._do(session, f"/review/{number}", "market.review", submission=number)
        self._web.back(session, f"/review/{number}", Note("done", "You review it: others see that in the queue."))

    async def _comment(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        number = int(request.match_info["number"])
        path, line = form.get("path", "")[:PATH_CHARS_MAX], whole(form.get("line", ""), 0)
        base = form.get("base", "")
        asked = {"path": path, **({"line": str(line)} if line else {}), **(
            {"base": base} if base.lstrip("-").isdigit() else {})}
        here = f"/review/{number}/file?{urlencode(asked)}" + (f"#line-{line}" if line else "")
        await self._do(session, here, "market.comment", submission=number, file=path, line=line,
                       text=form.get("text", "").replace("\r\n", "\n"), reviewer=session.person.name)
        self._web.back(session, here, Note("done", "The author will read it with the decision."))

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        """Decides, or shows the statement that has to be signed first."""
        session, form = await self._web.form(request)
        number = int(request.match_info["number"])
        here, decision = f"/review/{number}", form.get("decision", "")
        checklist = [item for item in CHECKLIST if form.get(f"check-{item}") == "yes"]
        session.drafts.keep(number, {"reason": form.get("reason", ""), "checklist": checklist, "decision": decision})
        try:
            if decision not in DECISIONS:
                raise Wrong("Choose a decision: approve, ask for changes, or reject.")
            reason = reason_of(form, "Say why: the author reads the reason.")
        except Wrong as wrong:
            self._web.back(session, here, Note("refused", str(wrong)))
        if decision == "approved":
            self._web.need_fresh(session, here)
        digest, key = form.get("digest", ""), form.get("key", "")
        if key and not form.get("signature"):
            to_sign = statements.review(number, digest, decision, reason, key, time.time_ns())
            fields = {"decision": decision, "reason": reason, "digest": digest, "key": key,
                      **{f"check-{item}": "yes" for item in checklist}}
            flags = ("--confirm-all " if decision == "approved" else
                     "--changes " if decision == "changes_requested" else "")
            verb = "approve" if decision == "approved" else "reject"
            return self._web.page(
                request, "sign.html", to_sign=to_sign, action=f"{here}/decide", fields=fields, back=here,
                what=f"{DECISIONS[decision]}: submission {number}", command=(
                    f"apex-exec market {verb} {number} --reviewer NAME --digest {digest[:64]} {flags}--key NAME "
                    "--reason TEXT"))
        signed = {key: form.get(key, "") for key in ("statement", "signature")} if form.get("signature") else {}
        args: dict[str, Any] = {"submission": number, "reviewer": session.person.name, "reason": reason,
                                "digest": digest, "checklist": checklist, **signed}
        if decision != "approved":
            args["changes"] = decision == "changes_requested"
        await self._do(session, here, "market.approve" if decision == "approved" else "market.reject", **args)
        session.drafts.drop(number)
        self._web.back(session, here, Note("done", {
            "approved": "Approved, for exactly these bytes. Publish it, or leave that to somebody else.",
            "changes_requested": "It went back to its author with your reason and the comments.",
            "rejected": "Rejected. Its author reads your reason."}[decision]))

    async def _publish(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        number = int(request.match_info["number"])
        here = f"/review/{number}"
        percent = whole(form.get("percent", "100"), 0)
        if not 1 <= percent <= 100:  # for the daemon, 0 means everybody
            self._web.back(session, here, Note("refused", "Name the share of the customers, 1 to 100 percent."))
        self._web.need_fresh(session, here)
        done = await self._do(session, here, "market.publish", submission=number, publisher=session.person.name,
                              percent=percent)
        self._web.back(session, here, Note("done", f"{done['plugin']} {done['version']} is on offer to "
                                           f"{done['percent']} % of the customers; the index has version "
                                           f"{done['index']}."))

    async def _do(self, session: Any, here: str, op: str, **args: Any) -> Any:
        return await self._web.do(session, here, op, **args)


class _Read:
    """The lines of one page of source, coloured; for a diff those of both sides."""

    def __init__(self, found: dict[str, Any], view: str, noted: Collection[int]) -> None:
        self.lines: list[Line] = coloured(found["path"], found["text"]) if found["there"] else []
        self.olds: list[Line] = []
        self.rows: list[Row] = []
        if view == "diff" and not (found["binary"] or found["baseBinary"]):
            self.olds = coloured(found["path"], found["baseText"]) if found["baseThere"] else []
            new, old = (text.split("\n") for text in (found["text"], found["baseText"]))
            self.rows = list(rows(old[:len(self.olds)], new[:len(self.lines)], noted))

    def total(self) -> int:
        """How many rows all pages have."""
        return len(self.rows) or len(self.lines)


CHECKLIST = {
    "permissions": "Every permission serves what the README says it is for",
    "data": "User data goes only where the README says",
    "behaviour": "The code does what it claims, and nothing hidden",
    "tests": "The tests test, and none of them tampers with the measurement",
    "readme": "I followed the set-up and the examples, and they work",
}
"""What a reviewer confirms, item by item. The daemon has the list that counts; a test compares the two."""


def _base(request: web.Request) -> int:
    text = request.query.get("base", "")
    return -1 if text == "-1" else whole(text, 0)


def _by_line(found: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    lines: dict[int, list[dict[str, Any]]] = {}
    for one in found:
        lines.setdefault(one["line"], []).append(one)
    return lines


def _same(name: str, *others: str) -> bool:
    """For what a page offers; the daemon compares names itself."""
    return any(" ".join(name.casefold().split()) == " ".join(other.casefold().split()) for other in others)
