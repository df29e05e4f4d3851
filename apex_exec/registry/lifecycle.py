"""From a bundle to a served plugin and away again: register, validate, install, enable, disable, quarantine, remove.

Every operation is idempotent and crash-safe because of one order: the bundle is stored and synced, then the rows change
in one transaction, then the supervisor is notified. A crash between two of these steps leaves the old or the new state;
at the next start ``specs.reconcile`` sends the supervisor whatever it missed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles import checks, shared
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import Manifest, parse_manifest
from apex_exec.registry.context import Context
from apex_exec.registry.plugin_settings import rows as setting_rows
from apex_exec.registry.scan.findings import Report
from apex_exec.registry.specs import commit
from apex_exec.registry.store import EVERYBODY, PluginRow, VersionRow
from apex_exec.registry.trust import approvals, keyring
from apex_exec.registry.trust.signing import read_signatures

TRANSITIONS: dict[str, frozenset[str]] = {
    "registered": frozenset({"registered", "validated", "removed"}),
    "validated": frozenset({"registered", "validated", "pending_approval", "installed", "removed"}),
    "pending_approval": frozenset({"registered", "validated", "pending_approval", "installed", "removed"}),
    "installed": frozenset({"enabled", "disabled", "quarantined", "removed"}),
    "enabled": frozenset({"disabled", "quarantined", "removed"}),
    "disabled": frozenset({"enabled", "quarantined", "removed"}),
    "quarantined": frozenset({"disabled", "removed"}),
    "removed": frozenset({"registered"}),
}
SERVED = ("installed", "enabled", "disabled", "quarantined")
"""The states in which a version is installed."""


def move(db: sa.Connection, plugin: PluginRow, state: str, now_ns: int, **values: Any) -> None:
    """Moves a plugin to ``state``; staying in a state is allowed. Raises Refusal("invalid_transition")."""
    if state != plugin.state and state not in TRANSITIONS[plugin.state]:
        allowed = ", ".join(sorted(TRANSITIONS[plugin.state] - {plugin.state}))
        raise Refusal("invalid_transition", f"{plugin.id} is {plugin.state} and cannot become {state}",
                      hint=f"from {plugin.state} it can become: {allowed}", code=Code.CONFLICT)
    db_.change_plugin(db, plugin.id, now_ns, state=state, **{"reason": "", **values})


def find_plugin(db: sa.Connection, plugin: str) -> PluginRow:
    """The plugin's row. Raises Refusal("plugin_not_found")."""
    row = db_.get_plugin(db, plugin)
    if row is None or row.state == "removed":
        raise Refusal("plugin_not_found", f"no plugin {plugin[:50]!a} is registered", code=Code.NOT_FOUND,
                      hint="`apex-exec plugin list` shows the plugins. A plugin in plugins_dir is served as long as "
                           "its folder is there: move it away, then run `apex-exec reload`")
    return row


def find_served(db: sa.Connection, plugin: PluginRow) -> VersionRow:
    """The version that a plugin serves, or will serve first."""
    row = db_.get_version(db, plugin.id, plugin.version)
    if row is None:
        raise Refusal("version_not_found", f"{plugin.id} has no version {plugin.version}", code=Code.NOT_FOUND)
    return row


def fresh(ctx: Context, version: VersionRow) -> VersionRow:
    """The version's row as it is now. Raises Refusal("version_not_found")."""
    row = ctx.store.transact(lambda db: db_.get_version(db, version.plugin, version.version))
    if row is None or row.digest != version.digest:
        raise Refusal("version_not_found", f"{version.plugin} {version.version} was removed in the meantime; install "
                                           "it again",
                      code=Code.NOT_FOUND)
    return row


def read_bundle(ctx: Context, digest: str) -> Bundle:
    """The bundle, from this daemon's folder; if it is not there, from where another daemon has put it. Raises Refusal.
    """
    if ctx.store.is_shared and not ctx.blobs.has(digest):
        ctx.store.transact(lambda db: shared.bring(db, ctx.blobs, [digest]))
    return ctx.blobs.read(digest)


def manifest_of(version: VersionRow) -> Manifest:
    """The manifest of a stored version. Raises Refusal."""
    return parse_manifest(version.manifest.encode())


# ---------------------------------------------------------------------- register and validate
def register(ctx: Context, bundle: Bundle, signatures: bytes = b"") -> VersionRow:
    """Stores the bundle and its row, in the state ``registered``. Raises Refusal for a forged signature, and for a
    version that exists with another content. No code runs.

    A version that was refused and never served does not count yet: a mended bundle may take its number.
    """
    manifest, now_ns = bundle.manifest, ctx.now_ns()
    if manifest.id in ctx.folder_plugins:
        raise Refusal("served_from_folder", f"{manifest.id} is served from plugins_dir", code=Code.CONFLICT,
                      hint="remove it from that folder first, and run `apex-exec reload`")
    given = read_signatures(signatures)
    replaced: list[str] = []

    def work(db: sa.Connection) -> VersionRow:
        replaced.clear()
        known = db_.get_version(db, manifest.id, manifest.version)
        if known is not None and known.digest != bundle.digest and was_refused(known):
            db_.drop_version(db, known.plugin, known.version)
            replaced.append(known.digest)
            known = None
        if known is not None and known.digest != bundle.digest:
            raise Refusal("version_exists", f"{manifest.id} {manifest.version} is already registered with other "
                                            "content",
                          code=Code.CONFLICT, hint="give the changed bundle a new version")
        plugin = db_.get_plugin(db, manifest.id)
        signed = keyring.evaluate(db, bundle.digest, given, now_ns, plugin.author_key if plugin is not None else "")
        if plugin is None or plugin.state not in SERVED:
            _put_first(db, plugin, bundle, now_ns)
        for row in signed.rows:
            db_.add_signature(db, row)
        if known is None:
            text = bundle.files["manifest.json"].decode()
            known = VersionRow(manifest.id, manifest.version, bundle.digest, text, "registered", "", signed.author_key,
                               now_ns, ctx.uid, 0)
            db_.put_version(db, known)
        elif signed.author_key and known.author_key != signed.author_key:
            db_.change_version(db, manifest.id, manifest.version, author_key=signed.author_key)
        shared.share(db, bundle, now_ns)
        found = db_.get_version(db, manifest.id, manifest.version)
        assert found is not None
        return found

    with ctx.lock:  # taken before the bundle is stored: nobody may remove the bundle before its row exists
        ctx.blobs.put(bundle)
        ctx.at_point("blob-stored")
        version = commit(ctx, work, [manifest.id])
        for digest in replaced:
            ctx.blobs.remove(digest)
    return version


def was_refused(version: VersionRow) -> bool:
    """Whether a version failed a check or its trial, and was never served."""
    return version.state in ("registered", "validated") and bool(version.reason) and not version.served_ns


def _put_first(db: sa.Connection, plugin: PluginRow | None, bundle: Bundle, now_ns: int) -> None:
    """The plugin's row as long as no version is installed: it follows the latest bundle."""
    manifest = bundle.manifest
    if plugin is not None and plugin.version == manifest.version and plugin.state != "removed":
        return
    if plugin is not None:
        move(db, plugin, "registered", now_ns)
    created_ns = plugin.created_ns if plugin is not None else now_ns
    pinned = plugin.author_key if plugin is not None else ""
    db_.put_plugin(db, PluginRow(manifest.id, manifest.name, manifest.author, manifest.version, "registered", "",
                                 pinned, created_ns, now_ns))


def validate(ctx: Context, version: VersionRow) -> Report:
    """Checks policy, signature and scan, and loads the code in the jail. The state becomes ``validated``, or a Refusal
    says what failed."""
    bundle = read_bundle(ctx, version.digest)
    try:
        if version.state == "revoked":
            raise Refusal("version_revoked", f"{version.plugin} {version.version} was revoked: {version.reason}",
                          hint="use another version")
        checks.check_policy(ctx, bundle.manifest)
        signed = ctx.store.transact(lambda db: _evaluate_stored(ctx, db, version))
        keyring.require(signed, ctx.settings.security.require_signature)
        report = checks.check_scan(ctx, bundle)
        checks.check_declared(ctx, bundle)
    except Refusal as error:
        _note(ctx, version, "registered" if version.state == "validated" else version.state, error.message)
        raise
    if version.state in ("registered", "validated"):
        _note(ctx, version, "validated", "")
    return report


def _evaluate_stored(ctx: Context, db: sa.Connection, version: VersionRow) -> keyring.Signed:
    """What the stored signatures are worth now; a key that was registered since then counts."""
    plugin = find_plugin(db, version.plugin)
    signed = keyring.evaluate(db, version.digest, keyring.stored(db, version.digest), ctx.now_ns(), plugin.author_key)
    if signed.author_key and signed.author_key != version.author_key:
        db_.change_version(db, version.plugin, version.version, author_key=signed.author_key)
    return signed


def _note(ctx: Context, version: VersionRow, state: str, reason: str) -> None:
    """Writes the outcome of a check into the version's row and, if no version is installed yet, into the plugin's row.
    """
    def work(db: sa.Connection) -> None:
        now_ns = ctx.now_ns()
        now = db_.get_version(db, version.plugin, version.version)
        if now is None or now.digest != version.digest:
            return  # a bundle with other bytes has taken the version number meanwhile
        db_.change_version(db, version.plugin, version.version, state=state, reason=reason)
        plugin = db_.get_plugin(db, version.plugin)
        if plugin is not None and plugin.version == version.version and plugin.state in ("registered", "validated"):
            move(db, plugin, state if state in TRANSITIONS else plugin.state, now_ns, reason=reason)

    commit(ctx, work, [version.plugin], point="checked")


# ---------------------------------------------------------------------- approvals
def approvals_needed(db: sa.Connection, version: VersionRow, manifest: Manifest) -> tuple[str, ...]:
    """What this version needs approved: its admin permissions, and the author's key if that has changed."""
    plugin = db_.get_plugin(db, version.plugin)
    changed = plugin is not None and plugin.author_key and plugin.author_key != version.author_key
    return (*manifest.admin_permissions, *((approvals.AUTHOR_KEY,) if changed else ()))


def wait_for_approvals(ctx: Context, version: VersionRow) -> list[dict[str, Any]]:
    """Requests the approvals that the version needs and returns those that are missing. Raises
    Refusal("approval_denied")."""
    manifest = manifest_of(version)

    def work(db: sa.Connection) -> list[dict[str, Any]]:
        now_ns = ctx.now_ns()
        waiting = approvals.request(db, version, approvals_needed(db, version, manifest), now_ns)
        return [approvals.describe(row, now_ns) for row in waiting]

    waiting = ctx.store.transact(work)
    denied = [row for row in waiting if row["state"] == "denied"]
    if denied:
        raise Refusal("approval_denied", f"{denied[0]['permission']} was denied to {version.plugin} {version.version}: "
                      f"{denied[0]['reason']}", hint="publish a version that does not need this permission")
    return waiting


# ---------------------------------------------------------------------- install
def install(ctx: Context, version: VersionRow) -> dict[str, Any]:
    """Validates and installs a first version; the plugin becomes ``pending_approval`` if an approval is missing."""
    plugin = ctx.store.transact(lambda db: find_plugin(db, version.plugin))
    if plugin.state in SERVED:
        if plugin.version == version.version:
            return {"id": plugin.id, "version": plugin.version, "state": plugin.state, "waiting": [], "changed": False}
        raise Refusal("already_installed", f"{plugin.id} {plugin.version} is already installed", code=Code.CONFLICT,
                      hint=f"use `apex-exec plugin upgrade` for {version.version}")
    check_not_halted(ctx, version)
    report = validate(ctx, version)
    version = fresh(ctx, version)
    ctx.at_point("validated")
    waiting = wait_for_approvals(ctx, version)
    ctx.at_point("approvals-requested")
    state = "pending_approval" if waiting else "installed"

    def work(db: sa.Connection) -> None:
        now_ns = ctx.now_ns()
        row = find_plugin(db, version.plugin)
        if row.version != version.version or row.state in SERVED:
            raise Refusal("changed_meanwhile", f"{row.id} was changed by another operation", code=Code.CONFLICT,
                          hint="look at it with `apex-exec plugin show` and try again")
        if waiting:
            move(db, row, state, now_ns)
            db_.change_version(db, row.id, row.version, state=state, reason="")
        else:
            finish_install(ctx, db, row, version)

    commit(ctx, work, [version.plugin])
    ctx.at_point("published")
    return {"id": version.plugin, "version": version.version, "digest": version.digest, "state": state,
            "waiting": waiting, "changed": True, "scan": report.as_json()}


def admit(ctx: Context, db: sa.Connection, version: VersionRow) -> None:
    """Raises Refusal if ``version`` may not be served now. Called in the transaction that brings the version into
    service: it was checked minutes ago, or days ago if it waited for an approval, and may have been revoked since."""
    row = db_.get_version(db, version.plugin, version.version)
    if row is None or row.digest != version.digest:
        raise Refusal("version_not_found", f"{version.plugin} {version.version} was removed in the meantime; install "
                                           "it again",
                      code=Code.NOT_FOUND)
    if why := row.reason if row.state == "revoked" else ctx.revoked(ctx, row.digest):
        raise Refusal("version_revoked", f"{row.plugin} {row.version} was revoked: {why}",
                      hint="use another version")
    signed = keyring.evaluate(db, row.digest, keyring.stored(db, row.digest), ctx.now_ns())
    keyring.require(signed, ctx.settings.security.require_signature)


def admit_new(ctx: Context, db: sa.Connection, version: VersionRow) -> None:
    """As ``admit``, for a version that is not served yet. Raises Refusal("release_halted") too."""
    admit(ctx, db, version)
    check_not_halted(ctx, version)


def check_not_halted(ctx: Context, version: VersionRow) -> None:
    """Raises Refusal("release_halted") if the marketplace, or this daemon, has halted the version's release."""
    if why := ctx.halted(ctx, version.digest):
        raise Refusal("release_halted", f"the release of {version.plugin} {version.version} is halted: {why}",
                      hint="use another version, or try again when the release is resumed", code=Code.CONFLICT)


def finish_install(ctx: Context, db: sa.Connection, plugin: PluginRow, version: VersionRow) -> None:
    """Writes the rows of a first version that has everything it needs."""
    admit_new(ctx, db, version)
    now_ns = ctx.now_ns()
    manifest = manifest_of(version)
    # after a lifted denial or a repeated check: the only way on is through `validated`
    if plugin.state == "registered":
        move(db, plugin, "validated", now_ns)
        plugin = find_plugin(db, plugin.id)
    move(db, plugin, "installed", now_ns, author_key=version.author_key, name=manifest.name, author=manifest.author)
    db_.change_version(db, plugin.id, version.version, state="installed", reason="", served_ns=now_ns)
    db_.record_install(db, version, "install", ctx.uid, now_ns)


# ---------------------------------------------------------------------- enable and disable
def enable(ctx: Context, plugin: str, user_id: str = EVERYBODY) -> dict[str, Any]:
    """Enables a plugin for everybody, or for one user. The gates (market) may refuse."""
    def work(db: sa.Connection) -> bool:
        now_ns = ctx.now_ns()
        row = find_plugin(db, plugin)
        if row.state == "quarantined":
            raise Refusal("quarantined", f"{plugin} is quarantined: {row.reason}", code=Code.CONFLICT,
                          hint=f"upgrade it, or release it with `apex-exec plugin release {plugin}`")
        if row.state not in SERVED:
            raise Refusal("not_installed", f"{plugin} is {row.state}, not installed", code=Code.CONFLICT,
                          hint=f"install it first: `apex-exec plugin install {plugin}`")
        version = find_served(db, row)
        admit(ctx, db, version)
        users = db_.enabled_for(db, plugin).get(plugin, set())
        if row.state == "enabled" and (user_id in users or EVERYBODY in users):
            return False
        if user_id == EVERYBODY:
            db_.close_enablement(db, plugin, now_ns)
        db_.open_enablement(db, plugin, user_id, now_ns)
        move(db, row, "enabled", now_ns)
        if row.state != "enabled":
            db_.record_install(db, version, "enable", ctx.uid, now_ns, user_id)
        return True

    manifest = manifest_of(ctx.store.transact(lambda db: find_served(db, find_plugin(db, plugin))))
    for gate in ctx.gates:
        gate(ctx, manifest, user_id)
    checks.check_policy(ctx, manifest)
    changed = commit(ctx, work, [plugin])
    return {"id": plugin, "state": "enabled", "user": user_id or None, "changed": changed}


def disable(ctx: Context, plugin: str, user_id: str = EVERYBODY, reason: str = "") -> dict[str, Any]:
    """Disables a plugin for everybody (this also ends the enablements of single users), or for one user."""
    def work(db: sa.Connection) -> tuple[str, bool]:
        now_ns = ctx.now_ns()
        row = find_plugin(db, plugin)
        users = db_.enabled_for(db, plugin).get(plugin, set())
        if user_id != EVERYBODY and EVERYBODY in users:
            raise Refusal("enabled_for_everybody", f"{plugin} is enabled for everybody", code=Code.CONFLICT,
                          hint="disable it for everybody, then enable it for the users who need it")
        if row.state not in ("enabled", "installed"):
            return row.state, False
        closed = db_.close_enablement(db, plugin, now_ns, None if user_id == EVERYBODY else user_id)
        if user_id != EVERYBODY and users - {user_id}:
            return row.state, bool(closed)
        move(db, row, "disabled", now_ns, reason=reason)
        db_.record_install(db, find_served(db, row), "disable", ctx.uid, now_ns, user_id or reason)
        return "disabled", True

    state, changed = commit(ctx, work, [plugin])
    return {"id": plugin, "state": state, "user": user_id or None, "changed": changed}


# ---------------------------------------------------------------------- quarantine and remove
def quarantine_in(ctx: Context, db: sa.Connection, plugin: str, reason: str) -> bool:
    """Quarantines within a transaction; the caller publishes. Returns False if the plugin is not installed, or is
    quarantined already."""
    now_ns = ctx.now_ns()
    row = db_.get_plugin(db, plugin)
    if row is None or row.state not in ("installed", "enabled", "disabled"):
        return False
    db_.close_enablement(db, plugin, now_ns)
    move(db, row, "quarantined", now_ns, reason=reason)
    db_.record_install(db, find_served(db, row), "quarantine", ctx.uid, now_ns, reason)
    return True


def quarantine(ctx: Context, plugin: str, reason: str) -> dict[str, Any]:
    """Stops a plugin at once (its workers are killed) until it is released or upgraded."""
    def work(db: sa.Connection) -> bool:
        row = find_plugin(db, plugin)
        changed = quarantine_in(ctx, db, plugin, reason)
        if not changed and row.state != "quarantined":
            raise Refusal("not_installed", f"{plugin} is {row.state}, not installed", code=Code.CONFLICT)
        return changed

    changed = commit(ctx, work, [plugin])
    return {"id": plugin, "state": "quarantined", "changed": changed}


def release(ctx: Context, plugin: str) -> dict[str, Any]:
    """Lifts a quarantine; the plugin is then disabled. A revoked version stays quarantined."""
    def work(db: sa.Connection) -> tuple[str, bool]:
        row = find_plugin(db, plugin)
        version = find_served(db, row)
        if row.state != "quarantined":
            return row.state, False
        if version.state == "revoked":
            raise Refusal("version_revoked", f"{plugin} {version.version} was revoked: {version.reason}",
                          hint="upgrade to another version")
        keyring.evaluate(db, version.digest, keyring.stored(db, version.digest), ctx.now_ns())
        move(db, row, "disabled", ctx.now_ns())
        db_.record_install(db, version, "release", ctx.uid, ctx.now_ns())
        return "disabled", True

    state, changed = commit(ctx, work, [plugin])
    return {"id": plugin, "state": state, "changed": changed}


def revoke_version(ctx: Context, digest: str, reason: str) -> dict[str, Any]:
    """Revokes one version for good: it can never be installed or rolled back to, and a plugin that serves it is
    stopped."""
    def work(db: sa.Connection) -> tuple[VersionRow, bool]:
        version = db_.get_digest(db, digest)
        if version is None:
            raise Refusal("version_not_found", f"no version has the digest {digest[:64]!a}", code=Code.NOT_FOUND)
        db_.change_version(db, version.plugin, version.version, state="revoked", reason=reason)
        plugin = find_plugin(db, version.plugin)
        stopped = plugin.version == version.version and quarantine_in(ctx, db, plugin.id, f"revoked: {reason}")
        return version, stopped

    version, stopped = commit(ctx, work, lambda made: [made[0].plugin])
    return {"id": version.plugin, "version": version.version, "digest": digest, "stopped": stopped}


def remove(ctx: Context, plugin: str) -> dict[str, Any]:
    """Removes a plugin with all its versions. Its history, and the author key that signed it, are kept."""
    def work(db: sa.Connection) -> list[str]:
        now_ns = ctx.now_ns()
        row = db_.get_plugin(db, plugin)
        if row is not None and row.state == "removed":
            return []
        row = find_plugin(db, plugin)
        db_.close_enablement(db, plugin, now_ns)
        for approval in db_.list_approvals(db, plugin=plugin, state="approved"):
            approvals.move(db, approval, "revoked", decided_ns=now_ns, reason="the plugin was removed")
        version = db_.get_version(db, plugin, row.version)
        if version is not None:
            db_.record_install(db, version, "remove", ctx.uid, now_ns)
        move(db, row, "removed", now_ns, version="")
        setting_rows.drop_plugin(db, plugin)  # another plugin may get its id
        digests = [version.digest for version in db_.list_versions(db, plugin)]
        for version in db_.list_versions(db, plugin):
            db_.drop_version(db, plugin, version.version)
        return digests

    with ctx.lock:
        digests = commit(ctx, work, [plugin])
        ctx.tell_settings(plugin, [], True, "")
        for digest in digests:
            ctx.blobs.remove(digest)
    return {"id": plugin, "state": "removed", "changed": bool(digests)}
