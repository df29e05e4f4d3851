"""What the supervisor is to serve: a ``PluginSpec`` made of the registry's rows, and the check of the whole store.

Rows decide, specs follow: whatever an operation commits, the spec that is published is read from the rows after it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from apex_exec.core.plugin import ADMIN_PERMISSIONS, Limits, PluginSpec
from apex_exec.registry import approvals, keyring
from apex_exec.registry import store as db_
from apex_exec.registry.bundle import spec_of
from apex_exec.registry.context import Context
from apex_exec.registry.manifest import Manifest, check_manifest, parse_manifest
from apex_exec.registry.policy_file import Policy
from apex_exec.registry.store import EVERYBODY, PluginRow, VersionRow

REASONS = {
    "registered": "it is registered and not installed; run `apex-exec plugin install {id}`",
    "validated": "it is validated and not installed; run `apex-exec plugin install {id}`",
    "pending_approval": "it waits for an approval; `apex-exec plugin show {id}` says which",
    "installed": "it is installed and not enabled; run `apex-exec plugin enable {id}`",
    "disabled": "it was disabled; run `apex-exec plugin enable {id}`",
}


def make_spec(plugin: PluginRow, version: VersionRow, manifest: Manifest, users: set[str], approved: Iterable[str],
              limits: Limits) -> PluginSpec:
    """The spec of one plugin."""
    spec = spec_of(manifest, version.digest, limits)
    reason = plugin.reason or REASONS.get(plugin.state, plugin.state).format(id=plugin.id)
    return msgspec.structs.replace(
        spec, state=plugin.state, reason="" if plugin.state == "enabled" else reason,
        users=None if EVERYBODY in users else frozenset(users), approved=tuple(approved))


def spec_now(ctx: Context, db: sa.Connection, plugin: str) -> PluginSpec | None:
    """The spec of ``plugin`` by its rows; None where it is removed or unknown."""
    row = db_.get_plugin(db, plugin)
    if row is None or row.state == "removed":
        return None
    version = db_.get_version(db, plugin, row.version)
    if version is None:
        return None
    users = db_.enabled_for(db, plugin).get(plugin, set())
    rows = approvals.latest(db, version.digest)
    approved = approvals.approved_now(rows, ctx.now_ns())
    spec = make_spec(row, version, parse_manifest(version.manifest.encode()), users, approved, ctx.limits)
    # the supervisor looks at the hour itself, so that an approval ends on time even where nobody is there to say so
    expires = {permission: rows[permission].expires_ns / 1e9 for permission in approved}
    return msgspec.structs.replace(spec, approval_expires=expires)


def publish(ctx: Context, plugins: Iterable[str]) -> None:
    """Tells the supervisor what these plugins are now. Call it after the commit, holding ``ctx.lock``."""
    for plugin in sorted(set(plugins)):
        spec = ctx.store.transact(lambda db, name=plugin: spec_now(ctx, db, name))  # type: ignore[misc]  # the default binds the loop's value
        if spec is None:
            ctx.withdraw(plugin)
        else:
            ctx.publish([spec])


def reconcile(ctx: Context, *, sweep: bool = False) -> list[PluginSpec]:
    """Brings a store that a crash, an upgrade of the daemon or a new policy left behind in order; every spec.

    What no longer fits (``apiVersion``, policy, a required signature, a bundle that is gone) is disabled with the
    reason; approvals whose time is over expire; with ``sweep`` (at the start, when no operation can be between its
    bundle and its row) bundles that no row names are removed.
    """
    policy = Policy.read(ctx.settings.security.policy_file)
    now_ns = ctx.now_ns()
    blobs = ctx.blobs.digests()

    disabled: list[tuple[str, str]] = []

    def work(db: sa.Connection) -> tuple[list[PluginSpec], set[str]]:
        disabled.clear()
        approvals.expire(db, now_ns)
        users = db_.enabled_for(db)
        approved: dict[str, list[str]] = {}
        for row in db_.list_approvals(db, state="approved"):
            if row.permission in ADMIN_PERMISSIONS:
                approved.setdefault(row.digest, []).append(row.permission)
        wanted = ctx.settings.security.require_signature
        signed = keyring.signed_digests(db, wanted) if wanted != "none" else None
        specs: list[PluginSpec] = []
        for plugin, version in db_.list_served(db):
            manifest, problem = _misfit(version, policy, blobs)
            if not problem and signed is not None and version.digest not in signed:
                problem = f"signature_missing: security.require_signature is {wanted!r} now"
            if problem and plugin.state in ("installed", "enabled"):
                db_.close_enablement(db, plugin.id, now_ns)
                db_.change_plugin(db, plugin.id, now_ns, state="disabled", reason=problem)
                db_.record_install(db, version, "disable", ctx.uid, now_ns, problem)
                disabled.append((plugin.id, problem))
                plugin = msgspec.structs.replace(plugin, state="disabled", reason=problem)
                users.pop(plugin.id, None)
            if manifest is not None:  # else its row says why; nothing can be told of hooks that cannot be read
                specs.append(make_spec(plugin, version, manifest, users.get(plugin.id, set()),
                                       sorted(approved.get(version.digest, ())), ctx.limits))
        return specs, {row.digest for row in db_.list_versions(db)}

    specs, known = ctx.store.transact(work)
    if sweep:
        ctx.blobs.sweep(known)
    for plugin, reason in disabled:
        ctx.audit(plugin, "disabled", {"reason": reason})
    return specs


def _misfit(version: VersionRow, policy: Policy, blobs: set[str]) -> tuple[Manifest | None, str]:
    """The manifest of a stored version where it can be read, and why it cannot be served here and now ("": it can)."""
    manifest, problems = check_manifest(version.manifest.encode())
    if manifest is None:
        codes = {problem["code"] for problem in problems}
        word = "incompatible_api_version" if "incompatible_api_version" in codes else "manifest_invalid"
        return None, f"{word}: {problems[0]['message']}"
    if denied := policy.check(manifest):
        return manifest, f"policy_denied: {denied[0]['message']}"
    if version.digest not in blobs:
        return manifest, "blob_missing: its bundle is not in the store; install it again"
    return manifest, ""
