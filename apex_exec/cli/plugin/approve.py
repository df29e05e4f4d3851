"""``plugin approve|deny|revoke``: an approver's signed decision on one permission of one version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli import connect
from apex_exec.cli.output import show
from apex_exec.cli.plugin.common import LONG_TIMEOUT_MS, StateDir, state_path
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument, Option

Plugin = Annotated[str, Argument(metavar="ID", help="The plugin.")]
Permission = Annotated[str, Argument(metavar="PERMISSION", help="admin:users, admin:billing, system:config, or "
                                                                      "author-key where the author's key changed.")]
Key = Annotated[str, Option("--key", metavar="NAME|FILE", help="The approver's private key.")]
Reason = Annotated[str, Option("--reason", metavar="TEXT", help="The reason; it is stored and audited.")]
Version = Annotated[str | None, Option("--version", metavar="X.Y.Z", help="Default: the version that is waiting.")]


@plugin_app.command(epilog=examples("apex-exec plugin approve my-plugin admin:users --key bob --reason 'ticket 4711'"))
def approve(
    plugin: Plugin, permission: Permission, key: Key, reason: Reason, version: Version = None,
    days: Annotated[int, Option("--days", min=1, max=90, help="How many days the approval lasts.")] = 90,
    as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Approves a permission; if the version waited only for this, its installation continues."""
    _decide("approve", plugin, permission, key, reason, version, days, as_json, state_dir, runtime_dir, config)


@plugin_app.command(epilog=examples("apex-exec plugin deny my-plugin admin:users --key bob --reason 'not needed'"))
def deny(
    plugin: Plugin, permission: Permission, key: Key, reason: Reason, version: Version = None, as_json: AsJson = False,
    state_dir: StateDir = None, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Denies a permission to this version for good."""
    _decide("deny", plugin, permission, key, reason, version, 0, as_json, state_dir, runtime_dir, config)


@plugin_app.command(epilog=examples(
    "apex-exec plugin revoke my-plugin admin:users --key bob --reason 'contract ended'"))
def revoke(
    plugin: Plugin, permission: Permission, key: Key, reason: Reason, version: Version = None, as_json: AsJson = False,
    state_dir: StateDir = None, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Takes an approval back; calls that need it are refused from now on."""
    _decide("revoke", plugin, permission, key, reason, version, 0, as_json, state_dir, runtime_dir, config)


def _decide(decision: str, plugin: str, permission: str, key: str, reason: str, version: str | None, days: int,
            as_json: bool, state_dir: str | None, runtime_dir: str | None, config: Path | None) -> None:
    import os
    import time

    from apex_exec.registry.trust.approvals import Statement, signed_message
    from apex_exec.registry.trust.keyring import DAY_NS
    from apex_exec.registry.trust.signing import key_id_of, open_key, raw_public

    private = open_key(state_path(config, state_dir) / "keys", key)
    wanted = {"id": plugin, "permission": permission, **({"version": version} if version else {})}
    with connect.admin(config, runtime_dir) as client:
        request = client.request("plugin.request", wanted)
        now_ns = time.time_ns()
        text = Statement(
            request=request["request"], plugin=plugin, version=request["version"], digest=request["digest"],
            permission=permission, decision=decision, reason=reason, uid=os.geteuid(),
            key_id=key_id_of(raw_public(private)), at_ns=now_ns,
            expires_ns=now_ns + days * DAY_NS if days else 0).text()
        result = client.request(f"plugin.{decision}", {
            "id": plugin, "statement": text, "signature": private.sign(signed_message(text)).hex()}, LONG_TIMEOUT_MS)
    after = f"; {plugin} is {result['next']}" if result.get("next") in ("installed", "upgraded") else ""
    show(result, as_json, f"{plugin} {result['version']} {permission}: {result['state']}{after}")
