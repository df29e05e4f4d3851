"""The registry's administrative operations: their arguments, what they do, and whether they may take long.

They run in the registrar process. ``slow`` ones load plugin code, scan or copy; they run one after another in a lane of
their own, so that disabling, revoking and looking never wait behind them. A market adds entries of the same kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.registry import approvals, keyring, lifecycle, upgrade, views
from apex_exec.registry import store as db_
from apex_exec.registry.bundle import Bundle, read_path, unpack
from apex_exec.registry.context import Context
from apex_exec.registry.manifest import check_manifest, manifest_refusal, registration_object
from apex_exec.registry.signing import read_signatures
from apex_exec.registry.specs import publish
from apex_exec.registry.store import EVERYBODY, VersionRow

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of an operation."""


class NoArgs(_Args):
    """None."""


class PluginArgs(_Args):
    """One plugin by its id."""

    id: str


class BundleArgs(_Args):
    """A bundle: a folder or ``.apx`` on the daemon's machine, or its bytes; or the id of one that is registered.

    ``manifest`` is the registration object where it stands apart from the bundle; it must say the same.
    """

    id: str | None = None
    path: str | None = None
    bundle: bytes | None = None
    manifest: dict[str, Any] | None = None


class UserArgs(_Args):
    """A plugin, for everybody or for one user."""

    id: str
    user: str | None = None


class ReasonArgs(_Args):
    """A plugin, and why."""

    id: str
    reason: str = ""


class TrialArgs(_Args):
    """A plugin and the call to try it with: ``hook`` "none" makes none, a missing one takes a suitable one."""

    id: str
    hook: str | None = None
    payload: dict[str, Any] | None = None
    user: str | None = None


class UpgradeArgs(BundleArgs):
    """A newer bundle and the call to try it with."""

    hook: str | None = None
    payload: dict[str, Any] | None = None
    user: str | None = None


class RollbackArgs(TrialArgs):
    """A plugin, the version to go back to (missing: the one before), and the call to try it with."""

    version: str | None = None


class PermissionArgs(_Args):
    """A plugin's permission, of one version (missing: the newest that waits, else the one that is served)."""

    id: str
    permission: str
    version: str | None = None


class DecisionArgs(_Args):
    """An approver's signed statement (see ``approvals.Statement``)."""

    id: str
    statement: str
    signature: str


class DigestArgs(_Args):
    """One version by its digest, and why."""

    digest: str
    reason: str


class SignatureArgs(_Args):
    """A ``SIGNATURES.json`` for a digest that is registered."""

    digest: str
    signatures: bytes


class KeyArgs(_Args):
    """A public key to register: ``public_key`` is 32 bytes in hexadecimal."""

    name: str
    role: str
    public_key: str
    owner: str = ""
    days: int = 730


class RevokeKeyArgs(_Args):
    """A key by name or id, and why."""

    name: str
    reason: str


class Entry(NamedTuple):
    """One operation."""

    name: str
    args: type[msgspec.Struct]
    handler: Callable[[Context, Any], Any]
    slow: bool
    doc: str
    lane: str = ""
    """Where it runs, unless in the lane for the slow or the quick ones."""


def _bundle(args: BundleArgs) -> tuple[Bundle, bytes]:
    """The bundle that was given as a path or as bytes. Raises Refusal."""
    if args.manifest is not None:
        given, problems = check_manifest(json.dumps(args.manifest).encode())
        if given is None:
            raise manifest_refusal(problems, "the registration object")
    if (args.path is None) == (args.bundle is None):
        raise Refusal("path_or_bundle", "give either a path or the bytes of a bundle", code=Code.INVALID_INPUT,
                      hint="pack a folder with `apex-exec plugin pack DIR`")
    if args.bundle is not None:
        bundle, signatures = unpack(args.bundle)
    else:
        bundle, signatures = read_path(Path(str(args.path)))
    if args.manifest is not None and given is not None and given != bundle.manifest:
        stands, says = registration_object(bundle.manifest), registration_object(given)
        keys = sorted(key for key in {*stands, *says} if stands.get(key) != says.get(key))
        raise Refusal("registration_differs", f"the registration object and the bundle's manifest.json differ in "
                      f"{', '.join(keys)}", code=Code.INVALID_INPUT, hint="make them the same")
    return bundle, signatures


def _newest(db: sa.Connection, plugin: str, version: str | None) -> VersionRow:
    row = lifecycle.find_plugin(db, plugin)
    if version is not None:
        found = db_.get_version(db, plugin, version)
        if found is None:
            raise Refusal("version_not_found", f"{plugin} has no version {version[:20]!a}", code=Code.NOT_FOUND)
        return found
    waiting = [v for v in db_.list_versions(db, plugin) if v.state == "pending_approval"]
    return waiting[-1] if waiting else lifecycle.find_served(db, row)


def _register(ctx: Context, args: BundleArgs) -> dict[str, Any]:
    version = lifecycle.register(ctx, *_bundle(args))
    return {"id": version.plugin, "version": version.version, "digest": version.digest, "state": version.state}


def _validate(ctx: Context, args: PluginArgs) -> dict[str, Any]:
    version = ctx.store.transact(lambda db: _newest(db, args.id, None))
    report = lifecycle.validate(ctx, version)
    return {"id": args.id, "version": version.version, "digest": version.digest, "ok": True, "scan": report.as_json()}


def _install(ctx: Context, args: BundleArgs) -> dict[str, Any]:
    if args.id is not None and args.path is None and args.bundle is None:
        name = args.id
        return lifecycle.install(ctx, ctx.store.transact(
            lambda db: lifecycle.find_served(db, lifecycle.find_plugin(db, name))))
    bundle, signatures = _bundle(args)
    row = ctx.store.transact(lambda db: db_.get_plugin(db, bundle.manifest.id))
    if row is not None and row.state in lifecycle.SERVED and row.version != bundle.manifest.version:
        raise Refusal("already_installed", f"{row.id} {row.version} is installed", code=Code.CONFLICT,
                      hint=f"use `apex-exec plugin upgrade` for {bundle.manifest.version}")
    return lifecycle.install(ctx, lifecycle.register(ctx, bundle, signatures))


def _user(args: UserArgs) -> str:
    if args.user is None:
        return EVERYBODY
    user = args.user.lower()
    if _UUID.fullmatch(user) is None:
        raise Refusal("bad_user", f"{args.user[:50]!a} is not a UUID", code=Code.INVALID_INPUT,
                      hint="8-4-4-4-12 hexadecimal digits")
    return user


def _upgrade(ctx: Context, args: UpgradeArgs) -> dict[str, Any]:
    bundle, signatures = _bundle(args)
    return upgrade.upgrade(ctx, bundle, signatures, upgrade.Trial(args.hook, args.payload, args.user))


def _rollback(ctx: Context, args: RollbackArgs) -> dict[str, Any]:
    return upgrade.rollback(ctx, args.id, args.version, upgrade.Trial(args.hook, args.payload, args.user))


def _request(ctx: Context, args: PermissionArgs) -> dict[str, Any]:
    """The request that an approver's statement has to name; made anew where the last one is over."""
    def work(db: sa.Connection) -> dict[str, Any]:
        version = _newest(db, args.id, args.version)
        known = approvals.latest(db, version.digest).get(args.permission)
        needed = lifecycle.approvals_needed(db, version, lifecycle.manifest_of(version))
        if known is None and args.permission not in needed:
            raise Refusal("permission_not_requested", code=Code.NOT_FOUND,
                          message=f"{args.id} {version.version} does not need {args.permission[:40]!a}",
                          hint=f"it needs {', '.join(needed) or 'no approval'}")
        approvals.request(db, version, (args.permission,), ctx.now_ns())
        return approvals.describe(approvals.latest(db, version.digest)[args.permission], ctx.now_ns())

    return ctx.store.transact(work)


def _decide(word: str) -> Callable[[Context, DecisionArgs], dict[str, Any]]:
    return lambda ctx, args: upgrade.decide(ctx, word, args.statement, args.signature)


def _sign(ctx: Context, args: SignatureArgs) -> dict[str, Any]:
    """Adds signatures to a digest that is registered already, as after a market's review."""
    def work(db: sa.Connection) -> dict[str, Any]:
        version = db_.get_digest(db, args.digest)
        if version is None:
            raise Refusal("version_not_found", "no version has that digest", code=Code.NOT_FOUND)
        signed = keyring.judge(db, args.digest, read_signatures(args.signatures), ctx.now_ns())
        if not signed.author_key and not signed.market_key:
            raise Refusal("signature_unknown_key", "; ".join(signed.notes) or "there is no signature",
                          hint="register the key with `apex-exec keys register`")
        added = [row.role for row in signed.rows if db_.add_signature(db, row)]
        if signed.author_key and not version.author_key:
            db_.change_version(db, version.plugin, version.version, author_key=signed.author_key)
        return {"id": version.plugin, "digest": args.digest, "added": added}

    return ctx.store.transact(work)


def _register_key(ctx: Context, args: KeyArgs) -> dict[str, Any]:
    row, changed = ctx.store.transact(lambda db: keyring.register(
        db, name=args.name, role=args.role, owner=args.owner, public_key=args.public_key, days=args.days, uid=ctx.uid,
        now_ns=ctx.now_ns()))
    return {**keyring.describe(row), "changed": changed}


def _revoke_key(ctx: Context, args: RevokeKeyArgs) -> dict[str, Any]:
    """Revokes the key, what it approved, and stops every plugin whose served version it signed."""
    def work(db: sa.Connection) -> tuple[list[str], list[str], set[str]]:
        now_ns = ctx.now_ns()
        revoked: list[str] = []
        touched: set[str] = set()
        stopped: list[str] = []
        for key in keyring.find(db, args.name):
            if keyring.revoke(db, key, args.reason, now_ns):
                revoked.append(key.key_id)
            touched |= approvals.revoke_by_key(db, key.key_id, args.reason, now_ns)
            digests = {row.digest for row in db_.list_signatures(db, key_id=key.key_id)}
            for plugin, version in db_.list_served(db):
                if version.digest in digests and lifecycle.quarantine_in(
                        ctx, db, plugin.id, f"the {key.role} key {key.name} was revoked: {args.reason}"):
                    stopped.append(plugin.id)
        return revoked, stopped, touched

    with ctx.lock:
        revoked, stopped, touched = ctx.store.transact(work)
        ctx.at_point("row-committed")
        publish(ctx, {*stopped, *touched})
    return {"name": args.name, "revoked": revoked, "stopped": stopped, "approvalsEnded": sorted(touched)}


def _list_keys(ctx: Context, _: NoArgs) -> dict[str, Any]:
    return {"keys": [keyring.describe(row) for row in ctx.store.transact(db_.list_keys)]}


ENTRIES: tuple[Entry, ...] = (
    Entry("plugin.register", BundleArgs, _register, True, "Stores a bundle; nothing of it runs."),
    Entry("plugin.validate", PluginArgs, _validate, True, "Policy, signature, scan, and its code loaded in the jail."),
    Entry("plugin.install", BundleArgs, _install, True, "Registers, validates and installs; may wait for approvals."),
    Entry("plugin.upgrade", UpgradeArgs, _upgrade, True, "Checks and tries a newer version, and switches to it."),
    Entry("plugin.rollback", RollbackArgs, _rollback, True, "Back to a version that was served before."),
    Entry("plugin.enable", UserArgs, lambda ctx, a: lifecycle.enable(ctx, a.id, _user(a)), False,
          "Enables a plugin for everybody or for one user."),
    Entry("plugin.disable", UserArgs, lambda ctx, a: lifecycle.disable(ctx, a.id, _user(a)), False,
          "Disables a plugin for everybody or for one user."),
    Entry("plugin.quarantine", ReasonArgs, lambda ctx, a: lifecycle.quarantine(ctx, a.id, a.reason), False,
          "Stops a plugin until it is released or upgraded."),
    Entry("plugin.release", PluginArgs, lambda ctx, a: lifecycle.release(ctx, a.id), False, "Lifts a quarantine."),
    Entry("plugin.remove", PluginArgs, lambda ctx, a: lifecycle.remove(ctx, a.id), False,
          "Takes a plugin out with all its versions."),
    Entry("plugin.revokeVersion", DigestArgs, lambda ctx, a: lifecycle.revoke_version(ctx, a.digest, a.reason), False,
          "Revokes one version for good and stops it."),
    Entry("plugin.verify", TrialArgs, lambda ctx, a: views.verify(ctx, a.id, a.hook, a.payload, a.user), True,
          "Files, signature, permissions and one live call."),
    Entry("plugin.list", NoArgs, lambda ctx, a: {"plugins": views.list_all(ctx)}, False, "Every plugin."),
    Entry("plugin.show", PluginArgs, lambda ctx, a: views.show(ctx, a.id), False, "All that is known of one plugin."),
    Entry("plugin.request", PermissionArgs, _request, False, "The open request of a permission, made where needed."),
    Entry("plugin.approve", DecisionArgs, _decide("approve"), True, "An approver's signed yes."),
    Entry("plugin.deny", DecisionArgs, _decide("deny"), False, "An approver's signed no."),
    Entry("plugin.revoke", DecisionArgs, _decide("revoke"), False, "An approver takes an approval back."),
    Entry("plugin.sign", SignatureArgs, _sign, False, "Adds signatures to a registered version."),
    Entry("keys.register", KeyArgs, _register_key, False, "Registers a public key in a role."),
    Entry("keys.revoke", RevokeKeyArgs, _revoke_key, False, "Revokes a key and stops what it signed."),
    Entry("keys.list", NoArgs, _list_keys, False, "Every registered key."),
)
