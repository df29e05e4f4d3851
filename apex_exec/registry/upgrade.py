"""Another version of an installed plugin: upgrade, rollback, and the approval that an upgrade waits for.

The new version is stored, checked, and tried on its own worker beside the live version; then one transaction makes it
the served version, and the supervisor switches without a gap. Until that commit the old version is served: a failure
leaves it as it was. Three versions are kept, so that a rollback needs no network.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.common.names import version_key
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import Code, Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles import checks
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.lifecycle import (
    SERVED,
    admit_new,
    check_not_halted,
    find_plugin,
    find_served,
    finish_install,
    fresh,
    manifest_of,
    move,
    read_bundle,
    register,
    validate,
    wait_for_approvals,
)
from apex_exec.registry.specs import commit, make_spec
from apex_exec.registry.store import EVERYBODY, PluginRow, VersionRow
from apex_exec.registry.trust import approvals, keyring

KEPT_VERSIONS = 3
CANARY_SECONDS = 90.0


class CanaryCall(msgspec.Struct, frozen=True):
    """The call that a new generation is tried with. ``hook`` None means a suitable one; "none" means that it is only
    loaded."""

    hook: str | None = None
    payload: dict[str, Any] | None = None
    user: str | None = None


def upgrade(ctx: Context, bundle: Bundle, signatures: bytes, canary: CanaryCall) -> dict[str, Any]:
    """Upgrades an installed plugin to the version in ``bundle``. On Refusal the old version continues."""
    wanted = bundle.manifest
    plugin = ctx.store.transact(lambda db: find_plugin(db, wanted.id))
    if plugin.state not in SERVED:
        raise Refusal("not_installed", f"{plugin.id} is {plugin.state}, not installed", code=Code.CONFLICT,
                      hint="use `apex-exec plugin install`")
    old = ctx.store.transact(lambda db: find_served(db, plugin))
    if old.digest == bundle.digest:
        return {"id": plugin.id, "version": old.version, "state": plugin.state, "waiting": [], "changed": False}
    if version_key(wanted.version) <= version_key(old.version):
        raise Refusal("not_newer", f"{wanted.version} is not newer than {plugin.id} {old.version}, which is served",
                      code=Code.CONFLICT, hint="give it a higher version, or use `apex-exec plugin rollback`")
    new = register(ctx, bundle, signatures)
    check_not_halted(ctx, new)
    report = validate(ctx, new)
    new = fresh(ctx, new)
    difference = diff(manifest_of(old), wanted)
    waiting = wait_for_approvals(ctx, new)
    ctx.at_point("approvals-requested")
    if waiting:
        ctx.store.transact(lambda db: db_.change_version(db, new.plugin, new.version, state="pending_approval"))
        return {"id": plugin.id, "version": old.version, "next": new.version, "state": "pending_approval",
                "waiting": waiting, "difference": difference, "changed": True, "scan": report.as_json()}
    state = switch(ctx, new, canary, "upgrade")
    return {"id": plugin.id, "version": new.version, "previous": old.version, "digest": new.digest, "state": state,
            "waiting": [], "difference": difference, "changed": True, "scan": report.as_json()}


def diff(old: Manifest, new: Manifest) -> dict[str, list[str]]:
    """What the new version asks for in addition, and what it no longer asks for."""
    def asked(manifest: Manifest) -> set[str]:
        return {*manifest.permissions, *(f"host {host}" for host in manifest.network.allow),
                *(f"table {table}" for table in manifest.data.tables),
                *(f"hook {hook}" for hook in manifest.manifest.hooks)}

    return {"added": sorted(asked(new) - asked(old)), "removed": sorted(asked(old) - asked(new))}


def switch(ctx: Context, new: VersionRow, canary: CanaryCall, operation: str) -> str:
    """Tries ``new`` beside the live version and makes it the served one. Returns the plugin's state afterwards."""
    manifest = manifest_of(new)

    def tried(db: sa.Connection) -> tuple[PluginRow, PluginSpec]:
        row = find_plugin(db, new.plugin)
        on = msgspec.structs.replace(row, state="enabled", reason="")  # a disabled plugin is tried as well
        return row, make_spec(on, new, manifest, {EVERYBODY}, approvals.latest(db, new.digest), ctx.limits,
                              ctx.now_ns())

    before, spec = ctx.store.transact(tried)
    call = checks.canary_call(manifest, canary.hook, canary.payload, canary.user)
    try:
        ctx.ask("canary", {"spec": msgspec.to_builtins(spec), **call}, CANARY_SECONDS)
    except Refusal as error:
        error.message = checks.in_source(ctx, new.digest, error.message)
        if not new.served_ns:  # a version that was served before keeps its state: this is a rollback
            why = f"it failed its trial: {error.message}"[:500]
            ctx.store.transact(lambda db: db_.change_version(db, new.plugin, new.version, reason=why))
        raise Refusal("canary_failed", f"{new.plugin} {new.version} failed its trial: {error.message}; "
                      f"{before.version} is still served", details={**error.details, "cause": error.reason},
                      hint="fix it, or try it with another call (--hook, --payload)") from None
    ctx.at_point("canary-passed")

    def work(db: sa.Connection) -> PluginRow:
        now_ns = ctx.now_ns()
        row = find_plugin(db, new.plugin)
        if row.version != before.version or row.state not in SERVED:
            raise Refusal("changed_meanwhile", f"{row.id} was changed by another operation", code=Code.CONFLICT,
                          hint="look at it with `apex-exec plugin show` and try again")
        admit_new(ctx, db, new)
        db_.change_plugin(db, row.id, now_ns, version=new.version, author_key=new.author_key, name=manifest.name,
                          author=manifest.author)
        if row.state == "quarantined":  # the quarantine was for the old version
            move(db, row, "disabled", now_ns, reason="")
        db_.change_version(db, row.id, new.version, state="installed", reason="", served_ns=now_ns)
        db_.record_install(db, new, operation, ctx.uid, now_ns, f"from {before.version}")
        return find_plugin(db, row.id)

    with ctx.lock:
        try:
            after = commit(ctx, work, [new.plugin], point="switched")
        except Refusal:
            ctx.ask("drop", {"plugin": new.plugin}, CANARY_SECONDS)
            raise
    ctx.at_point("published")
    prune(ctx, new.plugin)
    return after.state


def prune(ctx: Context, plugin: str) -> None:
    """Deletes all but the latest served versions, and their bundles."""
    def work(db: sa.Connection) -> list[str]:
        row = find_plugin(db, plugin)
        old = [v for v in db_.list_versions(db, plugin) if v.version != row.version
               and v.state not in ("pending_approval", "revoked")]
        old.sort(key=lambda version: (version.served_ns, version.created_ns), reverse=True)
        dropped = old[KEPT_VERSIONS - 1 :]
        for version in dropped:
            db_.drop_version(db, plugin, version.version)
        return [version.digest for version in dropped]

    with ctx.lock:
        digests = ctx.store.transact(work)
        ctx.at_point("versions-dropped")
        for digest in digests:
            ctx.blobs.remove(digest)


def rollback(ctx: Context, plugin: str, to: str | None, canary: CanaryCall) -> dict[str, Any]:
    """Goes back to the version that was served before, or to ``to``; from the store, without a network."""
    def choose(db: sa.Connection) -> tuple[PluginRow, VersionRow]:
        row = find_plugin(db, plugin)
        if row.state not in SERVED:
            raise Refusal("not_installed", f"{plugin} is {row.state}, not installed", code=Code.CONFLICT)
        served = [v for v in db_.list_versions(db, plugin) if v.served_ns and v.version != row.version
                  and v.state != "revoked" and (to is None or v.version == to)]
        if not served:
            kept = ", ".join(v.version for v in db_.list_versions(db, plugin) if v.version != row.version) or "none"
            raise Refusal("nothing_to_roll_back_to", f"{plugin} has no earlier version "
                          f"{to + ' ' if to else ''}that was served", hint=f"kept besides the served one: {kept}",
                          code=Code.NOT_FOUND)
        return row, max(served, key=lambda version: version.served_ns)

    now = ctx.store.transact(lambda db: find_plugin(db, plugin))
    if to is not None and to == now.version:
        return {"id": plugin, "version": now.version, "state": now.state, "waiting": [], "changed": False}
    row, target = ctx.store.transact(choose)
    check_not_halted(ctx, target)
    read_bundle(ctx, target.digest)
    signed = ctx.store.transact(lambda db: keyring.evaluate(db, target.digest, keyring.stored(db, target.digest),
                                                         ctx.now_ns()))
    keyring.require(signed, ctx.settings.security.require_signature)
    checks.check_policy(ctx, manifest_of(target))
    waiting = ctx.store.transact(lambda db: [approvals.describe(a, ctx.now_ns()) for a in approvals.request(
        db, target, manifest_of(target).admin_permissions, ctx.now_ns())])
    state = switch(ctx, target, canary, "rollback")
    return {"id": plugin, "version": target.version, "previous": row.version, "digest": target.digest, "state": state,
            "waiting": waiting, "changed": True}


def decide(ctx: Context, decision: str, statement: str, signature: str) -> dict[str, Any]:
    """Takes an approver's signed decision. The last missing approval lets the version continue."""
    def work(db: sa.Connection) -> tuple[dict[str, Any], VersionRow]:
        given = msgspec.json.decode(statement) if len(statement) <= approvals.STATEMENT_BYTES_MAX else {}
        if not isinstance(given, dict) or given.get("decision") != decision:
            raise Refusal("statement_malformed", f"the statement does not say {decision}", code=Code.INVALID_INPUT)
        version = db_.get_digest(db, str(given.get("digest")))
        if version is None:
            raise Refusal("version_not_found", "no version has the statement's digest", code=Code.NOT_FOUND)
        now_ns = ctx.now_ns()
        row = approvals.decide(db, statement, signature, author=manifest_of(version).author,
                               author_key=version.author_key, uid=ctx.uid, now_ns=now_ns)
        if row.state == "denied":
            _stop_waiting(db, version, f"{row.permission} was denied: {row.reason}", now_ns)
        return approvals.describe(row, now_ns), version

    try:
        made, version = commit(ctx, work, lambda made: [made[1].plugin])
    except (msgspec.DecodeError, UnicodeError):
        raise Refusal("statement_malformed", "the statement is not JSON", code=Code.INVALID_INPUT) from None
    return {**made, "next": _go_on(ctx, version) if decision == "approve" else ""}


def _stop_waiting(db: sa.Connection, version: VersionRow, reason: str, now_ns: int) -> None:
    """A denied version no longer waits; the served version stays."""
    if version.state == "pending_approval":
        db_.change_version(db, version.plugin, version.version, state="registered", reason=reason)
    plugin = find_plugin(db, version.plugin)
    if plugin.state == "pending_approval" and plugin.version == version.version:
        move(db, plugin, "registered", now_ns, reason=reason)


def _go_on(ctx: Context, version: VersionRow) -> str:
    """Finishes what waited for the approval. Returns a word for what happened."""
    if wait_for_approvals(ctx, version):
        return "waiting"
    plugin = ctx.store.transact(lambda db: find_plugin(db, version.plugin))
    if plugin.state == "pending_approval" and plugin.version == version.version:
        commit(ctx, lambda db: finish_install(ctx, db, find_plugin(db, version.plugin), version), [version.plugin],
               point="approval-used")
        return "installed"
    fresh = ctx.store.transact(lambda db: db_.get_version(db, version.plugin, version.version))
    if fresh is not None and fresh.state == "pending_approval" and plugin.state in SERVED:
        switch(ctx, fresh, CanaryCall(), "upgrade")
        return "upgraded"
    return ""
