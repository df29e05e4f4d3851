"""The arguments of the registry's operations, and what each operation does.

The supervisor checks arguments before it passes an operation on, and knows nothing else of the registry. This module
imports no database code, so that the supervisor need not load it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of an operation."""


class NoArgs(_Args):
    """None."""


class PluginArgs(_Args):
    """One plugin by its id."""

    id: str


class BundleArgs(_Args):
    """A bundle: a folder or ``.apx`` on the daemon's machine, or its bytes; or the id of one that is registered.

    ``manifest`` is the registration object where it stands apart from the bundle; it must say the same. Where it says
    ``enabled: true``, the plugin is installed, too, and enabled for everybody.
    """

    id: str | None = None
    path: str | None = None
    bundle: bytes | None = None
    manifest: dict[str, Any] | None = None


def wants_enabled(registration: Any) -> bool:
    """Whether a registration object says that its plugin is to be enabled for everybody once it is installed."""
    return isinstance(registration, dict) and registration.get("enabled") is True


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


ARGUMENTS: dict[str, tuple[type[msgspec.Struct], str]] = {
    "plugin.register": (
        BundleArgs, "Stores a bundle; nothing of it runs, unless `manifest.enabled` has it installed and enabled."),
    "plugin.validate": (PluginArgs, "Policy, signature, scan, and its code loaded in the jail."),
    "plugin.install": (BundleArgs, "Registers, validates and installs; may wait for approvals."),
    "plugin.upgrade": (UpgradeArgs, "Checks and tries a newer version, and switches to it."),
    "plugin.rollback": (RollbackArgs, "Back to a version that was served before."),
    "plugin.enable": (UserArgs, "Enables a plugin for everybody or for one user."),
    "plugin.disable": (UserArgs, "Disables a plugin for everybody or for one user."),
    "plugin.quarantine": (ReasonArgs, "Stops a plugin until it is released or upgraded."),
    "plugin.release": (PluginArgs, "Lifts a quarantine."),
    "plugin.remove": (PluginArgs, "Takes a plugin out with all its versions."),
    "plugin.revokeVersion": (DigestArgs, "Revokes one version for good and stops it."),
    "plugin.verify": (TrialArgs, "Files, signature, permissions and one live call."),
    "plugin.list": (NoArgs, "Every plugin."),
    "plugin.show": (PluginArgs, "All that is known of one plugin."),
    "plugin.request": (PermissionArgs, "The open request of a permission, made where needed."),
    "plugin.approve": (DecisionArgs, "An approver's signed yes."),
    "plugin.deny": (DecisionArgs, "An approver's signed no."),
    "plugin.revoke": (DecisionArgs, "An approver takes an approval back."),
    "plugin.sign": (SignatureArgs, "Adds signatures to a registered version."),
    "keys.register": (KeyArgs, "Registers a public key in a role."),
    "keys.revoke": (RevokeKeyArgs, "Revokes a key and stops what it signed."),
    "keys.list": (NoArgs, "Every registered key."),
}
"""Operation -> (its arguments, what it does)."""
