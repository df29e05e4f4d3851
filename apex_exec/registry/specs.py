"""What the supervisor is to serve: a ``PluginSpec`` made of the registry's rows, and the check of the whole store.

Rows decide, specs follow: whatever an operation commits, the specs that are published are read from the rows in that
same transaction (``commit``); what a registrar finds when it starts replaces all that the supervisor serves
(``reconcile``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from apex_exec.catalogue.limits import Limits
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles.bundle import spec_of
from apex_exec.registry.bundles.manifest import Manifest, check_manifest
from apex_exec.registry.context import Context
from apex_exec.registry.store import EVERYBODY, ApprovalRow, PluginRow, VersionRow
from apex_exec.registry.trust import approvals, keyring
from apex_exec.registry.trust.policy_file import Policy

T = TypeVar("T")

REASONS = {
    "registered": "it is registered and not installed; run `apex-exec plugin install {id}`",
    "validated": "it is validated and not installed; run `apex-exec plugin install {id}`",
    "pending_approval": "it waits for an approval; `apex-exec plugin show {id}` says which",
    "installed": "it is installed and not enabled; run `apex-exec plugin enable {id}`",
    "disabled": "it was disabled; run `apex-exec plugin enable {id}`",
}


class _Maker:
    """Makes specs of rows: the only place where that happens. What all of them need is read once."""

    def __init__(self, ctx: Context, db: sa.Connection, rows: list[tuple[PluginRow, VersionRow]] | None) -> None:
        """For all plugins, or for those of ``rows``."""
        self._ctx, self._db = ctx, db
        self._limits, self._now_ns = ctx.limits, ctx.now_ns()
        if rows is None:
            self._users, self._decided = db_.enabled_for(db), approvals.latest_of_all(db)
        else:
            self._users = {plugin.id: db_.enabled_for(db, plugin.id).get(plugin.id, set()) for plugin, _ in rows}
            self._decided = {version.digest: approvals.latest(db, version.digest) for _, version in rows}

    def spec(self, plugin: PluginRow, version: VersionRow, manifest: Manifest) -> PluginSpec:
        """The spec of one plugin. What is disabled has no users, whatever was read before it was."""
        ctx = self._ctx
        users = set() if plugin.state == "disabled" else self._users.get(plugin.id, set())
        spec = make_spec(plugin, version, manifest, users, self._decided.get(version.digest, {}), self._limits,
                         self._now_ns)
        entitled = ctx.entitled(ctx, plugin.id, manifest.pricing.model != "free")
        if entitled is not None:
            spec = msgspec.structs.replace(spec, entitled=entitled)
        if spec.state == "enabled" and (why := missing_here(ctx, version)):
            spec = msgspec.structs.replace(spec, state="disabled", reason=why)
        if spec.state == "enabled" and (word := ctx.withheld(ctx, self._db, version.digest)):
            spec = msgspec.structs.replace(spec, state="disabled", reason=word)
        return spec


def missing_here(ctx: Context, version: VersionRow) -> str:
    """Why this daemon cannot serve ``version`` although the rows say that it is served; "" if it can.

    That its bundle is not in this daemon's folder is true of this daemon alone: others that share the rows may have it,
    and this one has it again once it is installed again. So it is looked at where a spec is made, and no row says it.
    """
    if ctx.blobs.has(version.digest):
        return ""
    return "blob_missing: its bundle is not in this daemon's store; install the same .apx file again"


def served_now(ctx: Context, db: sa.Connection, plugins: Iterable[str] | None = None) -> list[PluginSpec]:
    """The specs of these plugins, or of all, by the rows that ``db`` sees.

    A plugin that is removed or unknown has none, and neither has one whose manifest this release cannot read: nothing
    can be known about its hooks.
    """
    rows = db_.list_served(db) if plugins is None else [
        row for plugin in sorted(set(plugins)) for row in db_.list_served(db, plugin)]
    maker = _Maker(ctx, db, None if plugins is None else rows)
    read = ((plugin, version, check_manifest(version.manifest.encode())[0]) for plugin, version in rows)
    return [maker.spec(plugin, version, manifest) for plugin, version, manifest in read if manifest is not None]


def make_spec(plugin: PluginRow, version: VersionRow, manifest: Manifest, users: set[str],
              decided: Mapping[str, ApprovalRow], limits: Limits, now_ns: int) -> PluginSpec:
    """The spec of one plugin. ``decided`` is the latest approval of each permission for this digest."""
    spec = spec_of(manifest, version.digest, limits)
    reason = plugin.reason or REASONS.get(plugin.state, plugin.state).format(id=plugin.id)
    approved = approvals.approved_now(decided, now_ns)
    # the supervisor looks at the hour itself, so that an approval ends on time even where nobody is there to say so
    expires = {permission: decided[permission].expires_ns / 1e9 for permission in approved}
    return msgspec.structs.replace(
        spec, state=plugin.state, reason="" if plugin.state == "enabled" else reason,
        users=None if EVERYBODY in users else frozenset(users), approved=approved, approval_expires=expires)


def commit(ctx: Context, work: Callable[[sa.Connection], T], plugins: Iterable[str] | Callable[[T], Iterable[str]],
           point: str = "row-committed") -> T:
    """Runs ``work`` in one transaction, and tells the supervisor what that same transaction left of ``plugins``.

    ``plugins`` may be a function of what ``work`` returned. The specs are read before the commit, so that nothing
    which may fail lies between it and the notice. Where the database fails, even at the commit itself, it is not known
    which rows stand: the supervisor then gets all of them anew as soon as they can be read (``ctx.in_doubt``).
    """
    def both(db: sa.Connection) -> tuple[T, list[str], list[PluginSpec]]:
        made = work(db)
        touched = sorted(set(plugins(made) if callable(plugins) else plugins))
        return made, touched, served_now(ctx, db, touched)

    with ctx.lock:
        try:
            made, touched, specs = ctx.store.transact(both)
            ctx.at_point(point)
            if specs:
                ctx.publish(specs)
            for plugin in sorted(set(touched) - {spec.id for spec in specs}):
                ctx.withdraw(plugin)
        except Exception as error:
            if not isinstance(error, Refusal) or error.reason == "store_unusable":
                ctx.in_doubt()
            raise
    return made


def reconcile(ctx: Context, *, sweep: bool = False) -> list[PluginSpec]:
    """Brings a store that a crash, an upgrade of the daemon or a new policy left behind in order; every spec.

    What no longer fits the rules (``apiVersion``, policy, a required signature) is disabled with the reason: rules are
    the registry's, and daemons that share one share them. What is only missing here (``missing_here``) is not served,
    and no row is changed for it. Approvals whose time is over expire for good if the clock is settled; with ``sweep``
    (at the start, when no operation can be between its bundle and its row) bundles that no row names are removed.
    """
    policy = Policy.read(ctx.settings.security.policy_file)
    now_ns = ctx.now_ns()
    disabled: list[tuple[str, str]] = []

    def work(db: sa.Connection) -> tuple[list[PluginSpec], set[str]]:
        disabled.clear()
        approvals.expire(db, ctx.over_ns())
        wanted = ctx.settings.security.require_signature
        signed = keyring.signed_digests(db, wanted) if wanted != "none" else None
        maker = _Maker(ctx, db, None)
        specs: list[PluginSpec] = []
        for plugin, version in db_.list_served(db):
            manifest, problem = _misfit(version, policy)
            if not problem and signed is not None and version.digest not in signed:
                problem = f"signature_missing: security.require_signature is {wanted!r} now"
            if problem and plugin.state in ("installed", "enabled"):
                db_.close_enablement(db, plugin.id, now_ns)
                db_.change_plugin(db, plugin.id, now_ns, state="disabled", reason=problem)
                db_.record_install(db, version, "disable", ctx.uid, now_ns, problem)
                disabled.append((plugin.id, problem))
                plugin = msgspec.structs.replace(plugin, state="disabled", reason=problem)
            elif sweep and plugin.state == "enabled" and (why := missing_here(ctx, version)):
                disabled.append((plugin.id, why))
            if manifest is not None:
                specs.append(maker.spec(plugin, version, manifest))
        return specs, {row.digest for row in db_.list_versions(db)}

    specs, known = ctx.store.transact(work)
    if sweep:
        ctx.blobs.sweep(known)
    for plugin, reason in disabled:
        ctx.audit(plugin, "disabled", {"reason": reason})
    return specs


def _misfit(version: VersionRow, policy: Policy) -> tuple[Manifest | None, str]:
    """The manifest of a stored version where it can be read, and why it may not be served any more ("": it may)."""
    manifest, problems = check_manifest(version.manifest.encode())
    if manifest is None:
        codes = {problem["code"] for problem in problems}
        word = "incompatible_api_version" if "incompatible_api_version" in codes else "manifest_invalid"
        return None, f"{word}: {problems[0]['message']}"
    if denied := policy.check(manifest):
        return manifest, f"policy_denied: {denied[0]['message']}"
    return manifest, ""
