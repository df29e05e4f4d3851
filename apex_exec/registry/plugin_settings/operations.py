"""The operations on plugins' settings: get, set, unset, and the rotation of the key that encrypts secrets.

Nothing here answers, logs or raises a value: refusals name settings, and a secret is only ever said to be set.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from apex_exec.catalogue.settings import SCOPES, VALUES_BYTES_MAX, Setting, problem
from apex_exec.common.names import UUID
from apex_exec.errors import Code, Refusal
from apex_exec.registry import lifecycle
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.plugin_settings import rows as db_
from apex_exec.registry.plugin_settings.arguments import OwnerArgs, RotateArgs, SetArgs, UnsetArgs
from apex_exec.registry.plugin_settings.publishing import tell_change, tell_plugin
from apex_exec.registry.plugin_settings.rows import Row
from apex_exec.registry.plugin_settings.secret_keys import SecretKeys, add_key, key_of, load, unavailable
from apex_exec.registry.store import list_versions

OWNERS_MAX = 20_000
"""Tenants and users that have values of one plugin: the supervisor keeps them all."""
PLUGIN_CHARS_MAX = 16 * 1024 * 1024
TENANT_CHARS_MAX = 200
EVERYBODY, TENANT, USER = SCOPES


def _owner(ctx: Context, args: OwnerArgs) -> tuple[str, str]:
    """Whose values are meant: (scope, owner). Raises Refusal."""
    if args.user is not None and args.tenant is not None:
        raise Refusal("bad_owner", "name a user or a tenant, not both", code=Code.INVALID_INPUT)
    if args.user is not None:
        user = args.user.lower()
        if UUID.fullmatch(user) is None:
            raise Refusal("bad_user", f"{args.user[:50]!a} is not a UUID", code=Code.INVALID_INPUT,
                          hint="8-4-4-4-12 hexadecimal digits")
        return USER, user
    if args.tenant is None:
        return EVERYBODY, ""
    if not 1 <= len(args.tenant) <= TENANT_CHARS_MAX or not args.tenant.isprintable():
        raise Refusal("bad_tenant", f"a tenant's name must have 1 to {TENANT_CHARS_MAX} printable characters",
                      code=Code.INVALID_INPUT, hint="the text of the column that data.tables' `tenant` names")
    if not any(isinstance(table.owner, dict) for table in ctx.settings.data.tables.values()):
        raise Refusal("no_tenants", "no table of data.tables says by `via` which tenant a user has",
                      code=Code.INVALID_INPUT, hint="set values for users, or for everybody")
    return TENANT, args.tenant


def _manifest(ctx: Context, plugin: str) -> Manifest:
    """The manifest of the version that serves, or of the newest if none does yet. Raises Refusal."""
    if plugin in ctx.folder_plugins:
        for path in sorted(Path(ctx.settings.plugins_dir).glob("*/manifest.json")):
            try:
                manifest = read_folder(path.parent).manifest
            except Refusal:
                continue
            if manifest.id == plugin:
                return manifest

    def find(db: sa.Connection) -> Manifest:
        row = lifecycle.find_plugin(db, plugin)
        versions = list_versions(db, plugin)
        served = [version for version in versions if version.version == row.version] or versions[-1:]
        if not served:
            raise Refusal("version_not_found", f"{plugin} has no version", code=Code.NOT_FOUND)
        return lifecycle.manifest_of(served[0])

    return ctx.store.transact(find)


def _revision(rows: list[Row]) -> str:
    """Names what one owner has now: it changes with every change."""
    text = json.dumps([(row.name, row.value, row.updated_ns) for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expected(rows: list[Row], expect: str | None) -> None:
    if expect is not None and expect != _revision(rows):
        raise Refusal("changed_meanwhile", "somebody else has changed these settings since you read them",
                      code=Code.CONFLICT, hint="read them again with `apex-exec plugin settings get`")


def get(ctx: Context, args: OwnerArgs) -> dict[str, Any]:
    """What a plugin declares, and what this owner has of it."""
    scope, owner = _owner(ctx, args)
    manifest = _manifest(ctx, args.id)
    mine, common, owners = ctx.store.transact(lambda db: (
        {row.name: row for row in db_.of_owner(db, args.id, scope, owner)},
        {row.name: row for row in db_.of_owner(db, args.id, EVERYBODY, "")}, db_.owners(db, args.id)))
    declared = manifest.declared_settings()
    listed = [_described(setting, mine.get(setting.name), common.get(setting.name), scope) for setting in declared]
    stale = sorted(set(mine) - {setting.name for setting in declared})
    return {"id": args.id, "version": manifest.version, "scope": scope, "owner": owner, "settings": listed,
            "stale": stale, "tenants": owners.get(TENANT, 0), "users": owners.get(USER, 0),
            "revision": _revision(sorted(mine.values(), key=lambda row: row.name))}


def _described(setting: Setting, mine: Row | None, common: Row | None, scope: str) -> dict[str, Any]:
    schema = json.loads(setting.schema)
    used = mine or common
    said: dict[str, Any] = {
        "name": setting.name, "title": setting.title, "type": schema.get("type", "enum"), "secret": setting.secret,
        "set": mine is not None, "schema": schema,
        "source": scope if mine else EVERYBODY if common else "default" if setting.default else "nothing"}
    if setting.default:
        said["default"] = json.loads(setting.default)
    if setting.header:
        said["fetch"] = {"header": setting.header, "value": setting.value, "hosts": list(setting.hosts)}
    if setting.secret:
        if used is not None:
            said["key"] = key_of(used.value)
    elif used is not None and not used.secret:
        said["value"] = db_.decoded(used.value)
        if problem(setting, said["value"]):
            said["problem"] = "the value does not fit this version; the default is used"
    elif setting.default:
        said["value"] = said["default"]
    return said


def set_(ctx: Context, args: SetArgs) -> dict[str, Any]:
    """Sets values: all of them, or none."""
    scope, owner = _owner(ctx, args)
    if not args.values:
        raise Refusal("no_values", "there is no value to set", code=Code.INVALID_INPUT)
    _check_size(args.values)
    declared = {setting.name: setting for setting in _manifest(ctx, args.id).declared_settings()}
    for name, value in args.values.items():
        _check(args.id, declared, name, value)
    keys: SecretKeys | None = None
    if any(declared[name].secret for name in args.values):
        has_some = ctx.store.transact(db_.has_secrets)
        keys = load(ctx.settings, may_create=not has_some)  # a lost key is not replaced without a word
    now_ns = ctx.now_ns()

    def work(db: sa.Connection) -> str:
        before = db_.of_owner(db, args.id, scope, owner)
        _expected(before, args.expect)
        for name, value in args.values.items():
            secret = declared[name].secret
            text = keys.encrypt(value, (args.id, scope, owner, name)) if secret and keys is not None else (
                json.dumps(value))
            db_.put(db, Row(args.id, scope, owner, name, secret, text, now_ns, ctx.uid))
        after = db_.of_owner(db, args.id, scope, owner)
        if sum(map(db_.held, after)) > VALUES_BYTES_MAX:
            raise _too_large(f"what one owner has of a plugin has at most {VALUES_BYTES_MAX} bytes")
        if sum(db_.owners(db, args.id).values()) > OWNERS_MAX:
            raise _too_large(f"at most {OWNERS_MAX} tenants and users have values of one plugin")
        if db_.size(db, args.id) > PLUGIN_CHARS_MAX:
            raise _too_large(f"all values of a plugin have at most {PLUGIN_CHARS_MAX} characters")
        return _revision(after)

    revision = _changed(ctx, work, args.id, scope, owner)
    return {"id": args.id, "scope": scope, "changed": ", ".join(sorted(args.values)), "revision": revision}


def _check_size(values: dict[str, Any]) -> None:
    try:
        size = len(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal("bad_value", f"a value is not JSON: {type(error).__name__}", code=Code.INVALID_INPUT) from None
    if size > VALUES_BYTES_MAX:
        raise _too_large(f"these values have {size} bytes; what one owner has of a plugin has at most "
                         f"{VALUES_BYTES_MAX}")


def _too_large(message: str) -> Refusal:
    return Refusal("settings_too_large", message, code=Code.INVALID_INPUT,
                   hint="keep data in the plugin's storage or in the platform's database")


def _check(plugin: str, declared: dict[str, Setting], name: str, value: Any) -> None:
    if name not in declared:
        near = difflib.get_close_matches(name, declared, 1)
        raise Refusal("unknown_setting", f"{plugin} has no setting {name[:60]!a}", code=Code.INVALID_INPUT,
                      hint=f"did you mean {near[0]}?" if near else
                      f"it declares {', '.join(declared) or 'no settings'}")
    if why := problem(declared[name], value):
        raise Refusal("bad_value", f"{name}: {why}"[:500], code=Code.INVALID_INPUT,
                      hint=f"`apex-exec plugin settings get {plugin}` shows the schema")


def unset(ctx: Context, args: UnsetArgs) -> dict[str, Any]:
    """Deletes values, also those that no version declares any more, and those of a plugin that is gone."""
    scope, owner = _owner(ctx, args)
    if bool(args.names) == args.all:
        raise Refusal("no_names", "name the settings to delete, or ask for all of them (--all)",
                      code=Code.INVALID_INPUT)

    def work(db: sa.Connection) -> tuple[int, str]:
        before = db_.of_owner(db, args.id, scope, owner)
        _expected(before, args.expect)
        if not before:
            _manifest(ctx, args.id)  # says that there is no such plugin, if there is none
        count = db_.drop(db, args.id, scope, owner, None if args.all else args.names)
        return count, _revision(db_.of_owner(db, args.id, scope, owner))

    count, revision = _changed(ctx, work, args.id, scope, owner)
    return {"id": args.id, "scope": scope, "deleted": count, "revision": revision}


def _changed(ctx: Context, work: Callable[[sa.Connection], Any], plugin: str, scope: str, owner: str) -> Any:
    """Runs ``work`` in one transaction and tells the supervisor. Under the lock: notices have the commits' order."""
    with ctx.lock:
        try:
            made = ctx.store.transact(work)
            ctx.at_point("settings-committed")
            tell_change(ctx, plugin, scope, owner)
        except Exception as error:
            if not isinstance(error, Refusal) or error.reason == "store_unusable":
                ctx.in_doubt()
            raise
    return made


def _check_readable(ctx: Context) -> None:
    """Raises Refusal if a secret cannot be read: before a key is made, since each failed try would leave one behind."""
    keys = load(ctx.settings)
    for row in ctx.store.transact(db_.secrets):
        try:
            keys.decrypt(row.value, row.place)
        except Refusal as error:
            raise unavailable(f"{row.plugin}: {row.name}: {error.message}") from None


def rotate(ctx: Context, args: RotateArgs) -> dict[str, Any]:
    """Encrypts every secret with the first key, after a new one was put there unless ``keep_key``."""
    if not args.keep_key:
        if not args.forget_unreadable:
            _check_readable(ctx)
        add_key(ctx.settings)
    keys = load(ctx.settings)
    now_ns = ctx.now_ns()

    def work(db: sa.Connection) -> tuple[int, int, set[str]]:
        done, forgotten, touched = 0, 0, set()
        for row in db_.secrets(db):
            if key_of(row.value) == keys.current:
                continue
            try:
                text = keys.decrypt(row.value, row.place)
            except Refusal as error:
                if not args.forget_unreadable:
                    raise unavailable(f"{row.plugin}: {row.name}: {error.message}") from None
                forgotten += db_.drop(db, row.plugin, row.scope, row.owner, [row.name])
            else:
                db_.put(db, Row(*row.place, True, keys.encrypt(text, row.place), now_ns, ctx.uid))
                done += 1
            touched.add(row.plugin)
        return done, forgotten, touched

    with ctx.lock:
        try:
            done, forgotten, touched = ctx.store.transact(work)
            ctx.at_point("secrets-rotated")
            for plugin in sorted(touched):
                tell_plugin(ctx, plugin)
        except Exception:
            ctx.in_doubt()
            raise
    return {"key": keys.current, "encrypted": done, "forgotten": forgotten}


HANDLERS: dict[str, Callable[[Context, Any], dict[str, Any]]] = {
    "plugin.settings.get": get,
    "plugin.settings.set": set_,
    "plugin.settings.unset": unset,
    "secrets.rotate": rotate,
}
"""What each operation of ``arguments.OPERATIONS`` does."""
