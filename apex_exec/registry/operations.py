"""The registry's administrative operations: what each does, and whether it may take long.

They run in the registrar process. ``slow`` operations load plugin code, scan or copy; they run one after another in a
lane of their own, so that disabling, revoking and reading never wait behind them. A market adds entries of the same
kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apex_exec.common.names import UUID
from apex_exec.common.operations import NoArgs
from apex_exec.errors import Code, Refusal
from apex_exec.registry import door_tokens, lifecycle, previews, upgrade, views
from apex_exec.registry import store as db_
from apex_exec.registry.arguments import (
    BundleArgs,
    DecisionArgs,
    KeyArgs,
    PermissionArgs,
    PluginArgs,
    RevokeKeyArgs,
    RollbackArgs,
    SignatureArgs,
    UpgradeArgs,
    UploadArgs,
    UserArgs,
    wants_enabled,
)
from apex_exec.registry.bundles.bundle import Bundle, read_path, unpack
from apex_exec.registry.bundles.manifest import check_manifest, manifest_refusal, registration_object
from apex_exec.registry.bundles.uploads import Uploads
from apex_exec.registry.context import Context
from apex_exec.registry.specs import commit
from apex_exec.registry.store import EVERYBODY, VersionRow
from apex_exec.registry.trust import approvals, keyring
from apex_exec.registry.trust.signing import read_signatures

Handler = Callable[[Context, Any], Any]
"""``handler(context, args)`` returns the result, or raises Refusal."""


def _uploads(ctx: Context) -> Uploads:
    return Uploads(ctx.settings.state_path / "uploads")


def _bundle(ctx: Context, args: BundleArgs) -> tuple[Bundle, bytes]:
    """The bundle that was passed as a path, as bytes or as an upload. Raises Refusal."""
    if args.manifest is not None:
        given, problems = check_manifest(json.dumps(args.manifest).encode())
        if given is None:
            raise manifest_refusal(problems, "the registration object")
    if sum(given is not None for given in (args.path, args.bundle, args.upload)) != 1:
        raise Refusal("path_or_bundle", "pass either a path, the bytes of a bundle, or an upload",
                      code=Code.INVALID_INPUT, hint="pack a folder with `apex-exec plugin pack DIR`")
    if args.upload is not None:
        bundle, signatures = unpack(_uploads(ctx).take(ctx.uid, args.upload))
    elif args.bundle is not None:
        bundle, signatures = unpack(args.bundle)
    else:
        bundle, signatures = read_path(Path(str(args.path)))
    if args.manifest is not None and given is not None and given != bundle.manifest:
        stands, says = registration_object(bundle.manifest), registration_object(given)
        keys = sorted(key for key in {*stands, *says} if stands.get(key) != says.get(key))
        raise Refusal("registration_differs", f"the registration object and the bundle's manifest.json differ in "
                      f"{', '.join(keys)}", code=Code.INVALID_INPUT, hint="make them the same")
    return bundle, signatures


@contextmanager
def _about(plugin: str) -> Iterator[None]:
    """Adds the plugin's id to a refusal that is raised inside, so that it is recorded for that plugin: the arguments
    contain only bytes."""
    try:
        yield
    except Refusal as error:
        error.details.setdefault("plugin", plugin)
        raise


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
    if wants_enabled(args.manifest):
        return _install(ctx, args)
    bundle, signatures = _bundle(ctx, args)
    with _about(bundle.manifest.id):
        version = lifecycle.register(ctx, bundle, signatures)
    return {"id": version.plugin, "version": version.version, "digest": version.digest, "state": version.state}


def _upload(ctx: Context, args: UploadArgs) -> dict[str, Any]:
    return {"digest": args.digest, "received": _uploads(ctx).add(ctx.uid, args.digest, args.offset, args.part)}


def _validate(ctx: Context, args: PluginArgs) -> dict[str, Any]:
    version = ctx.store.transact(lambda db: _newest(db, args.id, None))
    report = lifecycle.validate(ctx, version)
    return {"id": args.id, "version": version.version, "digest": version.digest, "ok": True, "scan": report.as_json()}


def _install(ctx: Context, args: BundleArgs) -> dict[str, Any]:
    if args.id is not None and args.path is None and args.bundle is None and args.upload is None:
        name = args.id
        return lifecycle.install(ctx, ctx.store.transact(
            lambda db: lifecycle.find_served(db, lifecycle.find_plugin(db, name))))
    bundle, signatures = _bundle(ctx, args)
    row = ctx.store.transact(lambda db: db_.get_plugin(db, bundle.manifest.id))
    if row is not None and row.state in lifecycle.SERVED and row.version != bundle.manifest.version:
        raise Refusal("already_installed", f"{row.id} {row.version} is already installed", code=Code.CONFLICT,
                      hint=f"use `apex-exec plugin upgrade` for {bundle.manifest.version}")
    with _about(bundle.manifest.id):
        installed = lifecycle.install(ctx, lifecycle.register(ctx, bundle, signatures))
        if wants_enabled(args.manifest) and installed["changed"] and installed["state"] == "installed":
            # Not if the plugin waits for an approval, nor if it was installed before: a host that registers its plugins
            # at every start must not enable what an operator has disabled.
            installed["state"] = lifecycle.enable(ctx, bundle.manifest.id)["state"]
    return installed


def _user(args: UserArgs) -> str:
    if args.user is None:
        return EVERYBODY
    user = args.user.lower()
    if UUID.fullmatch(user) is None:
        raise Refusal("bad_user", f"{args.user[:50]!a} is not a UUID", code=Code.INVALID_INPUT,
                      hint="8-4-4-4-12 hexadecimal digits")
    return user


def _upgrade(ctx: Context, args: UpgradeArgs) -> dict[str, Any]:
    bundle, signatures = _bundle(ctx, args)
    if args.id is not None and args.id != bundle.manifest.id:
        raise Refusal("other_plugin", f"the bundle is a version of {bundle.manifest.id}, not of {args.id[:50]!a}",
                      code=Code.INVALID_INPUT, hint="choose another file")
    with _about(bundle.manifest.id):
        return upgrade.upgrade(ctx, bundle, signatures, upgrade.CanaryCall(args.hook, args.payload, args.user))


def _rollback(ctx: Context, args: RollbackArgs) -> dict[str, Any]:
    return upgrade.rollback(ctx, args.id, args.version, upgrade.CanaryCall(args.hook, args.payload, args.user))


def _request(ctx: Context, args: PermissionArgs) -> dict[str, Any]:
    """The request that an approver's statement has to name. A new request is made if the last one is closed."""
    def work(db: sa.Connection) -> dict[str, Any]:
        version = _newest(db, args.id, args.version)
        known = approvals.latest(db, version.digest).get(args.permission)
        needed = lifecycle.approvals_needed(db, version, lifecycle.manifest_of(version))
        if known is None and args.permission not in needed:
            raise Refusal("permission_not_requested", code=Code.NOT_FOUND,
                          message=f"{args.id} {version.version} does not need {args.permission[:40]!a}",
                          hint=f"it needs {', '.join(needed) or 'no approval'}")
        waiting = approvals.request(db, version, (args.permission,), ctx.now_ns())
        return approvals.describe(waiting[0] if waiting else approvals.latest(db, version.digest)[args.permission],
                                  ctx.now_ns())

    return ctx.store.transact(work)


def _decide(word: str) -> Callable[[Context, DecisionArgs], dict[str, Any]]:
    return lambda ctx, args: upgrade.decide(ctx, word, args.statement, args.signature)


def _sign(ctx: Context, args: SignatureArgs) -> dict[str, Any]:
    """Adds signatures to a digest that is already registered, for example after a market's review."""
    def work(db: sa.Connection) -> dict[str, Any]:
        version = db_.get_digest(db, args.digest)
        if version is None:
            raise Refusal("version_not_found", "no version has that digest", code=Code.NOT_FOUND)
        signed = keyring.evaluate(db, args.digest, read_signatures(args.signatures), ctx.now_ns())
        if not signed.author_key and not signed.market_key:
            raise Refusal("signature_unknown_key", "; ".join(signed.notes) or "the file contains no signature",
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
    """Revokes the key and every approval it signed, and stops each plugin whose served version it signed."""
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

    revoked, stopped, touched = commit(ctx, work, lambda made: [*made[1], *made[2]])
    return {"name": args.name, "revoked": revoked, "stopped": stopped, "approvalsEnded": sorted(touched)}


def _list_keys(ctx: Context, _: NoArgs) -> dict[str, Any]:
    return {"keys": [keyring.describe(row) for row in ctx.store.transact(db_.list_keys)]}


HANDLERS: dict[str, Handler] = {
    "plugin.register": _register,
    "plugin.upload": _upload,
    "plugin.validate": _validate,
    "plugin.install": _install,
    "plugin.upgrade": _upgrade,
    "plugin.rollback": _rollback,
    "plugin.enable": lambda ctx, a: lifecycle.enable(ctx, a.id, _user(a)),
    "plugin.disable": lambda ctx, a: lifecycle.disable(ctx, a.id, _user(a)),
    "plugin.quarantine": lambda ctx, a: lifecycle.quarantine(ctx, a.id, a.reason),
    "plugin.release": lambda ctx, a: lifecycle.release(ctx, a.id),
    "plugin.remove": lambda ctx, a: lifecycle.remove(ctx, a.id),
    "plugin.revokeVersion": lambda ctx, a: lifecycle.revoke_version(ctx, a.digest, a.reason),
    "plugin.verify": lambda ctx, a: views.verify(ctx, a.id, a.hook, a.payload, a.user),
    "plugin.preview": previews.preview,
    "plugin.picture": previews.picture,
    "plugin.list": lambda ctx, a: {"plugins": views.list_all(ctx)},
    "plugin.show": lambda ctx, a: views.show(ctx, a.id),
    "plugin.request": _request,
    "plugin.approve": _decide("approve"),
    "plugin.deny": _decide("deny"),
    "plugin.revoke": _decide("revoke"),
    "plugin.sign": _sign,
    "keys.register": _register_key,
    "keys.revoke": _revoke_key,
    "keys.list": _list_keys,
    "door.token.new": door_tokens.create,
    "door.token.list": door_tokens.listing,
    "door.token.revoke": door_tokens.revoke,
}
"""What each operation of ``arguments.OPERATIONS`` does."""
