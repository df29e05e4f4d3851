"""What ``plugin list``, ``plugin show`` and ``plugin verify`` report about the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apex_exec.catalogue.limits import LIMITS, key_of
from apex_exec.errors import Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles import checks
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.lifecycle import find_plugin, find_served, manifest_of, read_bundle
from apex_exec.registry.specs import Misfits, missing_here
from apex_exec.registry.store import EVERYBODY, PluginRow, VersionRow
from apex_exec.registry.trust import approvals, keyring

SMOKE_SECONDS = 90.0


def list_all(ctx: Context) -> list[dict[str, Any]]:
    """Every plugin with its version, state and hooks, including those of ``plugins_dir``."""
    def work(db: sa.Connection) -> list[dict[str, Any]]:
        users = db_.enabled_for(db)
        here = Misfits(ctx, db) if ctx.store.is_shared else None
        return [{**_short(ctx, plugin, version, here), "users": _users(users.get(plugin.id, set())),
                 "source": "registry"}
                for plugin, version in db_.list_served(db)]

    rows = ctx.store.transact(work)
    known = {row["id"] for row in rows}
    rows += [_folder_row(made) for made in folder_bundles(ctx) if made.manifest.id not in known]
    return sorted(rows, key=lambda row: str(row["id"]))


def folder_bundles(ctx: Context) -> list[Bundle]:
    """The bundles in ``plugins_dir`` now. If one is left out, the daemon's log says why."""
    found: list[Bundle] = []
    if folder := ctx.settings.plugins_dir:
        for path in sorted(p.parent for p in Path(folder).glob("*/manifest.json")):
            with contextlib.suppress(Refusal):
                found.append(read_folder(path))
    return found


def _folder_row(bundle: Bundle) -> dict[str, Any]:
    made = bundle.manifest
    return {"id": made.id, "version": made.version, "state": "enabled", "name": made.name, "author": made.author,
            "reason": "", "hooks": list(made.manifest.hooks), "users": "everybody", "source": "folder"}


def _manifest_facts(manifest: Manifest, ctx: Context) -> dict[str, Any]:
    limits = manifest.limits.within(ctx.limits)
    return {"entrypoint": manifest.entrypoint, "permissions": list(manifest.permissions), "priority": manifest.priority,
            "network": list(manifest.network.allow), "tables": list(manifest.data.tables),
            "limits": {key_of(name): getattr(limits, name) for name in LIMITS},
            "pricing": manifest.pricing.model_dump(exclude_none=True), **manifest.shown()}


def _short(ctx: Context, plugin: PluginRow, version: VersionRow, here: Misfits | None) -> dict[str, Any]:
    try:
        manifest = manifest_of(version)
        hooks = list(manifest.manifest.hooks)
    except Refusal:
        manifest, hooks = None, []
    state, reason = plugin.state, plugin.reason
    if state == "enabled" and (why := missing_here(ctx, version) if here is None else here.why(version, manifest)):
        state, reason = "disabled", why
    return {"id": plugin.id, "version": plugin.version, "state": state, "name": plugin.name,
            "author": plugin.author, "reason": reason, "hooks": hooks}


def _users(users: set[str]) -> str | list[str]:
    return "everybody" if EVERYBODY in users else sorted(users)


def show(ctx: Context, plugin: str) -> dict[str, Any]:
    """Everything the registry knows about one plugin."""
    def work(db: sa.Connection) -> dict[str, Any]:
        now_ns = ctx.now_ns()
        row = find_plugin(db, plugin)
        served = find_served(db, row)
        manifest = manifest_of(served)
        return {
            **_short(ctx, row, served, Misfits(ctx, db) if ctx.store.is_shared else None),
            **_manifest_facts(manifest, ctx), "digest": served.digest, "source": "registry",
            "approved": list(approvals.approved_now(approvals.latest(db, served.digest), now_ns)),
            "users": _users(db_.enabled_for(db, plugin).get(plugin, set())),
            "versions": [{"version": v.version, "digest": v.digest, "state": v.state, "reason": v.reason,
                          "authorKey": v.author_key, "servedNs": v.served_ns, "createdNs": v.created_ns}
                         for v in db_.list_versions(db, plugin)],
            "approvals": [approvals.describe(a, now_ns) for a in db_.list_approvals(db, plugin=plugin)],
            "signatures": [{"role": s.role, "keyId": s.key_id, "signedNs": s.signed_ns,
                            "registered": db_.get_key(db, s.key_id) is not None}
                           for s in db_.list_signatures(db, digest=served.digest)],
            "history": [{"operation": i.operation, "version": i.version, "uid": i.uid, "atNs": i.at_ns, "note": i.note}
                        for i in db_.list_installs(db, plugin, 100)],
        }

    try:
        return ctx.store.transact(work)
    except Refusal as error:
        made = next((made for made in folder_bundles(ctx) if made.manifest.id == plugin), None)
        if error.reason != "plugin_not_found" or made is None:
            raise
        return {**_folder_row(made), **_manifest_facts(made.manifest, ctx), "digest": made.digest, "approved": [],
                "versions": [], "approvals": [], "signatures": [], "history": []}


def verify(ctx: Context, plugin: str, hook: str | None, payload: dict[str, Any] | None,
           user: str | None) -> dict[str, Any]:
    """Whether the installed files are the ones that were installed, may be served, and answer: one line for each check.
    """
    row = ctx.store.transact(lambda db: find_plugin(db, plugin))
    version = ctx.store.transact(lambda db: find_served(db, row))
    manifest = manifest_of(version)
    lines: list[dict[str, Any]] = []

    def check(name: str, work: Callable[[], str]) -> None:
        try:
            lines.append({"check": name, "ok": True, "message": work(), "hint": ""})
        except Refusal as error:
            lines.append({"check": name, "ok": False, "message": error.message, "hint": error.hint})

    def files() -> str:
        bundle = read_bundle(ctx, version.digest)
        return f"{len(bundle.files)} files match the digest {version.digest}"

    def signature() -> str:
        signed = ctx.store.transact(lambda db: keyring.evaluate(
            db, version.digest, keyring.stored(db, version.digest), ctx.now_ns()))
        keyring.require(signed, ctx.settings.security.require_signature)
        by = [f"{role} {key}" for role, key in (("author", signed.author_key), ("market", signed.market_key)) if key]
        said = f"signed by {', '.join(by)}" if by else "not signed by a registered key, and none is required"
        return "; ".join((said, *signed.notes))

    def permissions() -> str:
        checks.check_policy(ctx, manifest)
        rows = ctx.store.transact(lambda db: approvals.latest(db, version.digest))
        missing = [p for p in manifest.admin_permissions if p not in approvals.approved_now(rows, ctx.now_ns())]
        if missing:
            raise Refusal("approval_missing", f"{', '.join(missing)}: not approved now",
                          hint=f"`apex-exec plugin approve {plugin} {missing[0]} --key NAME --reason TEXT`")
        return ", ".join(manifest.permissions) or "it asks for none"

    def smoke() -> str:
        call = checks.canary_call(manifest, hook, payload, user)
        if row.state != "enabled":
            raise Refusal("not_enabled", f"it is {row.state}: no call was made",
                          hint=f"`apex-exec plugin enable {plugin}`")
        if not call:
            return "no call was requested"
        try:
            answer = ctx.ask("smoke", {"plugin": plugin, **call}, SMOKE_SECONDS)
        except Refusal as error:
            error.message = checks.in_source(ctx, version.digest, error.message)
            raise
        return f"{call['hook']} answered in {answer['executionTimeMs']:.1f} ms"

    def revocation() -> str:
        if version.state == "revoked":
            raise Refusal("version_revoked", f"it was revoked: {version.reason}",
                          hint="remove it, or upgrade to another version")
        return ctx.market_check(ctx, version.digest)

    for name, work in (("files", files), ("signature", signature), ("permissions", permissions), ("live call", smoke),
                       ("revocation", revocation)):
        check(name, work)
    if not lines[-1]["message"]:  # it was not revoked, and no marketplace is followed that could have done so
        lines.pop()
    return {"id": plugin, "version": version.version, "ok": all(line["ok"] for line in lines), "checks": lines}
