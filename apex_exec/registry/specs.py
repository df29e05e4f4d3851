"""What the supervisor is to serve: a ``PluginSpec`` made of the registry's rows, and the check of the whole store.

The rows decide. When an operation commits, the specs that it publishes are read from the rows in the same transaction
(``commit``). When a registrar starts, the specs of all rows replace everything that the supervisor serves
(``reconcile``).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from apex_exec.catalogue.limits import Limits
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles import shared
from apex_exec.registry.bundles.bundle import spec_of
from apex_exec.registry.bundles.manifest import Manifest, check_manifest
from apex_exec.registry.context import Context
from apex_exec.registry.store import EVERYBODY, ApprovalRow, PluginRow, VersionRow
from apex_exec.registry.trust import approvals, keyring
from apex_exec.registry.trust.policy_file import Policy

T = TypeVar("T")
log = logging.getLogger(__name__)

KEPT_SECONDS = 7 * 86_400.0
"""How long a bundle stays in the folder that no row of a shared database names: the database may have been restored."""
REASONS = {
    "registered": "it is registered and not installed; run `apex-exec plugin install {id}`",
    "validated": "it is validated and not installed; run `apex-exec plugin install {id}`",
    "pending_approval": "it waits for an approval; `apex-exec plugin show {id}` says which",
    "installed": "it is installed and not enabled; run `apex-exec plugin enable {id}`",
    "disabled": "it was disabled; run `apex-exec plugin enable {id}`",
}


class _Maker:
    """Makes specs from rows; nothing else does. It reads once what all specs need."""

    def __init__(self, ctx: Context, db: sa.Connection, rows: list[tuple[PluginRow, VersionRow]] | None) -> None:
        """For all plugins, or for those of ``rows``."""
        self._ctx, self._db = ctx, db
        self._limits, self._now_ns = ctx.limits, ctx.now_ns()
        self._misfits = Misfits(ctx, db) if ctx.store.is_shared else None
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
        if spec.state == "enabled" and (why := self._misfit(version, manifest)):
            spec = msgspec.structs.replace(spec, state="disabled", reason=why)
        if spec.state == "enabled" and (word := ctx.withheld(ctx, self._db, version.digest)):
            spec = msgspec.structs.replace(spec, state="disabled", reason=word)
        return spec

    def _misfit(self, version: VersionRow, manifest: Manifest) -> str:
        if self._misfits is None:  # its own rules are in its rows: ``reconcile`` has put them there
            return missing_here(self._ctx, version)
        return self._misfits.why(version, manifest)


class Misfits:
    """Why this daemon does not serve what the rows of a database that others share say is served.

    A bundle that it cannot get, a stricter policy, a signature that it requires: all of them concern this daemon alone,
    and it does not judge for the others. So they are looked at whenever a spec is made, and are in no row. They end by
    themselves, as soon as the daemon's configuration ends them.
    """

    def __init__(self, ctx: Context, db: sa.Connection) -> None:
        self._ctx, self._db = ctx, db
        self._policy = Policy.read(ctx.settings.security.policy_file)
        self._wanted = ctx.settings.security.require_signature
        self._signed: set[str] | None = None

    def why(self, version: VersionRow, manifest: Manifest | None) -> str:
        """The reason, which begins with a stable word; "" if the version may be served here. A missing bundle is
        brought from the database first."""
        if manifest is None:
            return _unreadable(version)
        if denied := self._policy.check(manifest):
            return f"policy_denied: {denied[0]['message']} (this daemon's security.policy_file)"
        if self._wanted != "none":
            if self._signed is None:
                self._signed = keyring.signed_digests(self._db, self._wanted)
            if version.digest not in self._signed:
                return f"signature_missing: security.require_signature is {self._wanted!r} for this daemon"
        try:
            shared.bring(self._db, self._ctx.blobs, [version.digest])
        except Refusal as error:
            return f"{error.reason}: {error.message}"
        return missing_here(self._ctx, version)


def missing_here(ctx: Context, version: VersionRow) -> str:
    """Why this daemon cannot serve ``version`` although the rows say that it is served; "" if it can.

    A missing bundle concerns this daemon alone: other daemons that share the rows may have it, and this one has it
    again once it is installed again. So this is checked whenever a spec is made, and is not written to a row.
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
           point: str = "row-committed", *, changes_rows: bool = True) -> T:
    """Runs ``work`` in one transaction, and sends the supervisor the specs of ``plugins`` as they are after it.

    ``plugins`` may be a function of what ``work`` returned. The specs are read before the commit, so that nothing that
    may fail lies between the commit and the notice. If the database fails, even at the commit itself, we do not know
    which rows it has: the supervisor then gets all specs again as soon as the rows can be read (``ctx.in_doubt``).
    Other daemons on the same server are notified of ``plugins``, unless the rows stay as they are (``changes_rows``).
    """
    def both(db: sa.Connection) -> tuple[T, list[str], list[PluginSpec]]:
        made = work(db)
        touched = sorted(set(plugins(made) if callable(plugins) else plugins))
        if changes_rows:
            ctx.store.tell_others(db, touched)
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
    """Puts the store in order after a crash, an upgrade of the daemon or a change of the policy. Returns every spec.

    If the rows are this daemon's alone, a plugin that no longer fits the rules (``apiVersion``, policy, a required
    signature) is disabled with the reason. On a server, where others share them, no row is changed: the plugin is not
    served here (``Misfits``), and the same holds everywhere for a bundle that is missing. Approvals whose time is over
    expire for good if the clock is settled; with ``sweep`` (at the start, when no operation can be between its bundle
    and its row) bundles that no row names are removed.
    """
    policy = Policy.read(ctx.settings.security.policy_file)
    now_ns = ctx.now_ns()
    disabled: list[tuple[str, str]] = []

    def work(db: sa.Connection) -> tuple[list[PluginSpec], set[str]]:
        disabled.clear()
        approvals.expire(db, ctx.over_ns())
        rows = db_.list_served(db)
        known = {row.digest for row in db_.list_versions(db)}
        if ctx.store.is_shared:
            shared.bring(db, ctx.blobs, [version.digest for _, version in rows])
            if sweep:
                _give(ctx, db, known)
        wanted = ctx.settings.security.require_signature
        signed = keyring.signed_digests(db, wanted) if wanted != "none" and not ctx.store.is_shared else None
        maker = _Maker(ctx, db, None)
        specs: list[PluginSpec] = []
        for plugin, version in rows:
            manifest, problem = _misfit(version, policy)
            if not problem and signed is not None and version.digest not in signed:
                problem = f"signature_missing: security.require_signature is {wanted!r} now"
            if problem and plugin.state in ("installed", "enabled") and not ctx.store.is_shared:
                db_.close_enablement(db, plugin.id, now_ns)
                db_.change_plugin(db, plugin.id, now_ns, state="disabled", reason=problem)
                db_.record_install(db, version, "disable", ctx.uid, now_ns, problem)
                disabled.append((plugin.id, problem))
                plugin = msgspec.structs.replace(plugin, state="disabled", reason=problem)
            elif sweep and plugin.state == "enabled" and manifest is None:
                disabled.append((plugin.id, problem))
            if manifest is not None:
                spec = maker.spec(plugin, version, manifest)
                specs.append(spec)
                if sweep and plugin.state == "enabled" and spec.state == "disabled":
                    disabled.append((plugin.id, spec.reason))
        return specs, known

    specs, known = ctx.store.transact(work)
    if sweep:
        ctx.blobs.sweep(known, time.time() - KEPT_SECONDS if ctx.store.is_shared else math.inf)
    for plugin, reason in disabled:
        ctx.audit(plugin, "disabled", {"reason": reason})
    return specs


def _give(ctx: Context, db: sa.Connection, digests: set[str]) -> None:
    """Stores for the others what only this daemon has, of before there was a place for it. A server that takes nothing
    now stops nobody."""
    try:
        with db.begin_nested():
            shared.give(db, ctx.blobs, sorted(digests), ctx.now_ns())
    except SQLAlchemyError as error:
        if getattr(getattr(error, "orig", None), "sqlstate", "") in ("40001", "40P01"):
            raise
        log.warning("bundles of this daemon could not be stored for the others: %s", error)


def _misfit(version: VersionRow, policy: Policy) -> tuple[Manifest | None, str]:
    """The manifest of a stored version, if it can be read, and why it may no longer be served ("" if it may)."""
    manifest, problems = check_manifest(version.manifest.encode())
    if manifest is None:
        return None, _problem(problems)
    if denied := policy.check(manifest):
        return manifest, f"policy_denied: {denied[0]['message']}"
    return manifest, ""


def _unreadable(version: VersionRow) -> str:
    return _problem(check_manifest(version.manifest.encode())[1])


def _problem(problems: list[dict[str, Any]]) -> str:
    codes = {problem["code"] for problem in problems}
    word = "incompatible_api_version" if "incompatible_api_version" in codes else "manifest_invalid"
    return f"{word}: {problems[0]['message']}"
