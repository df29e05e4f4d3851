"""Parts of a plugin's page that have an address of their own: settings, a hook that is tried, the icon."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.console.acts import Wrong
from apex_exec.console.daemon_link import DaemonLink, Refused
from apex_exec.console.pictures import picture
from apex_exec.console.queries import words
from apex_exec.console.sessions import Note, Person
from apex_exec.console.setting_forms import field_of, written
from apex_exec.console.web import Web, may

SHOWN_CHARS_MAX = 60_000
"""How much of a result, or of one effect, a preview shows; less than ``rendering.LONG_CHARS_MAX``, so that the words
behind it are shown, too."""
EFFECTS_MAX = 50


async def known_plugin(daemon: DaemonLink, person: Person, id_: str) -> dict[str, Any]:
    """What the registry knows of a plugin. Raises HTTPNotFound, Away, Refused."""
    try:
        known: dict[str, Any] = await daemon.look(person, "plugin.show", id=id_)
    except Refused as refused:
        if refused.code == "NOT_FOUND":
            raise web.HTTPNotFound from None
        raise
    return known


class PluginPages:
    """Adds its addresses to the application of ``web``. Goes before ``Pages``, whose acts have any last word."""

    def __init__(self, web_: Web) -> None:
        self._web = web_
        self._daemon = web_.daemon

    def add_to(self, app: web.Application) -> None:
        """Registers every page."""
        routes = app.router
        routes.add_get("/plugins/{id}/settings", self._settings)
        routes.add_post("/plugins/{id}/settings", self._save)
        routes.add_get("/plugins/{id}/try", self._try)
        routes.add_post("/plugins/{id}/try", self._tried)
        routes.add_get("/plugins/{id}/icon", self._icon)

    async def _icon(self, request: web.Request) -> web.StreamResponse:
        person = self._web.person(request).person
        return picture(await self._daemon.look(person, "plugin.picture", id=request.match_info["id"], number=0))

    # ------------------------------------------------------------------ settings
    async def _settings(self, request: web.Request) -> web.StreamResponse:
        session, id_ = self._web.person(request), request.match_info["id"]
        owner = _owner(request.query)
        try:
            found = await self._daemon.look(session.person, "plugin.settings.get", id=id_, **owner)
        except Refused as refused:
            if refused.reason not in ("bad_user", "bad_tenant", "no_tenants"):
                raise
            session.notes.append(Note("refused", f"{refused}."))
            owner, found = {}, await self._daemon.look(session.person, "plugin.settings.get", id=id_)
        table = await self._daemon.roles_needed(session.person)
        return self._web.page(request, "settings.html", id=id_, found=found, owner=owner,
                              known=await known_plugin(self._daemon, session.person, id_),
                              fields=[field_of(one) for one in found["settings"]],
                              may_set=may(table, session.person, "plugin.settings.set"))

    async def _save(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        id_, owner = request.match_info["id"], _owner(form)
        here = _address(id_, owner)
        found = await self._daemon.look(session.person, "plugin.settings.get", id=id_, **owner)
        declared = {one["name"] for one in found["settings"]}
        try:
            values, names = written(found["settings"], form)
        except Wrong as wrong:
            self._web.back(session, here, Note("refused", f"Nothing was saved. {wrong}"))
        names += [name for name in found["stale"] if name not in declared and form.get(f"unset-{name}") == "1"]
        revision = form.get("revision", "")
        if values:
            done = await self._web.do(session, here, "plugin.settings.set", id=id_, values=values, expect=revision,
                                      **owner)
            revision = done["revision"]
        if names:
            await self._web.do(session, here, "plugin.settings.unset", id=id_, names=names, expect=revision, **owner)
        changed = ", ".join([*sorted(values), *(f"{name} (taken back)" for name in names)])
        self._web.back(session, here, Note("done", f"Saved: {changed}. The next call has it.") if changed
                       else Note("refused", "Nothing was changed, so nothing was saved."))

    # ------------------------------------------------------------------ a hook
    async def _try(self, request: web.Request) -> web.StreamResponse:
        hook = words(request.query.get("hook", ""))
        return await self._show_try(request, {"hook": hook, "payload": _sample(hook)})

    async def _tried(self, request: web.Request) -> web.StreamResponse:
        session, form = await self._web.form(request)
        written_ = {key: form.get(key, "") for key in ("hook", "payload")}
        args: dict[str, Any] = {"id": request.match_info["id"], "hook": written_["hook"]}
        try:
            if written_["payload"].strip():
                args["payload"] = _map(written_["payload"])
            done = await self._daemon.act(session.person, "plugin.preview", **args)
        except (Wrong, Refused) as error:
            return await self._show_try(request, written_, problem=str(error),
                                        hint=error.hint if isinstance(error, Refused) else "")
        effects = [{"kind": one["kind"], "name": one.get("component") or one.get("event"),
                    "body": cut(one.get("props", one.get("payload")))} for one in done["effects"]]
        return await self._show_try(request, written_, done={
            **done, "result": cut(done["result"]), "effects": effects[:EFFECTS_MAX],
            "more": max(0, len(effects) - EFFECTS_MAX)})

    async def _show_try(self, request: web.Request, written_: dict[str, str], **values: Any) -> web.Response:
        person, id_ = self._web.person(request).person, request.match_info["id"]
        known = await known_plugin(self._daemon, person, id_)
        table = await self._daemon.roles_needed(person)
        shown = {"done": None, "problem": "", "hint": "", **values}
        return self._web.page(request, "try.html", id=id_, known=known, written=written_,
                              may_try=may(table, person, "plugin.preview"), **shown)


def _owner(given: Any) -> dict[str, str]:
    """Whose values are meant, by an address or a form: nothing is everybody."""
    for key in ("user", "tenant"):
        if text := words(str(given.get(key, ""))):
            return {key: text}
    return {}


def _address(id_: str, owner: dict[str, str]) -> str:
    return f"/plugins/{quote(id_, safe='')}/settings" + (f"?{urlencode(owner)}" if owner else "")


def _map(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"The payload is not JSON: {error}"[:300]) from None
    if not isinstance(value, dict):
        raise Wrong("The payload has to be an object, as in {\"dashboardId\": \"main\"}.")
    return value


def cut(value: Any) -> str:
    """``value`` as indented JSON, cut where it is very long; then its length is said."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}… ({len(text):,} characters)"


def _sample(hook: str) -> str:
    """The payload that a trial has by itself; "" for a hook of the platform's own, whose sample the daemon knows."""
    return json.dumps(HOOKS[hook].sample, indent=2) if hook in HOOKS else ""
