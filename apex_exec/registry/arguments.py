"""The arguments of the registry's operations, and a sentence on what each operation does.

The supervisor checks the arguments before it passes an operation on, and knows nothing else about the registry. This
module imports no database code, so that the supervisor does not have to load it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from apex_exec.common.operations import NoArgs, Operation

Names = Annotated[list[str], Meta(max_length=256)]


class _Args(msgspec.Struct, forbid_unknown_fields=True):
    """The base of all argument types: an unknown key is refused."""


class PluginArgs(_Args):
    """One plugin, by its id."""

    id: str


class BundleArgs(_Args):
    """A bundle: a folder or ``.apx`` on the daemon's machine, or its bytes, or the SHA-256 of an ``upload``, or the id
    of a plugin that is registered.

    ``manifest`` is the registration object if the caller passes it apart from the bundle; it must be equal to the
    bundle's own manifest. If it says ``enabled: true``, the plugin is also installed, and enabled for everybody.
    """

    id: str | None = None
    path: str | None = None
    bundle: bytes | None = None
    manifest: dict[str, Any] | None = None
    upload: str | None = None


class UploadArgs(_Args):
    """One part of an ``.apx``: the SHA-256 of the whole, where the part begins, and its bytes."""

    digest: str
    offset: int
    part: bytes = msgspec.field(name="bytes")


def wants_enabled(registration: Any) -> bool:
    """Whether a registration object says that its plugin is to be enabled for everybody once it is installed."""
    return isinstance(registration, dict) and registration.get("enabled") is True


class UserArgs(_Args):
    """A plugin, and the user it is meant for (no user: everybody)."""

    id: str
    user: str | None = None


class ReasonArgs(_Args):
    """A plugin, and the reason for the operation."""

    id: str
    reason: str = ""


class CanaryArgs(_Args):
    """A plugin and the call to try it with. ``hook`` "none" makes no call; without ``hook`` we choose a suitable one.
    """

    id: str
    hook: str | None = None
    payload: dict[str, Any] | None = None
    user: str | None = None


class PreviewArgs(_Args):
    """A plugin, and the call that shows what it does. There is no user to name: the answer is shown to somebody who may
    not see what a user may."""

    id: str
    hook: str
    payload: dict[str, Any] | None = None


class PictureArgs(_Args):
    """A plugin, and which of its pictures is meant: 0 is the icon, 1 the first screenshot."""

    id: str
    number: Annotated[int, Meta(ge=0, le=100)] = 0


class UpgradeArgs(BundleArgs):
    """A newer bundle, and the call to try it with. An ``id`` refuses the bundle of another plugin."""

    hook: str | None = None
    payload: dict[str, Any] | None = None
    user: str | None = None


class RollbackArgs(CanaryArgs):
    """A plugin, the version to go back to (without one: the previous version), and the call to try it with."""

    version: str | None = None


class PermissionArgs(_Args):
    """A permission of one version of a plugin (no version: the newest one that waits, otherwise the one that is
    served)."""

    id: str
    permission: str
    version: str | None = None


class DecisionArgs(_Args):
    """An approver's signed statement (see ``approvals.Statement``)."""

    id: str
    statement: str
    signature: str


class DigestArgs(_Args):
    """One version by its digest, and the reason for the operation."""

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
    """A key by its name or id, and the reason for the operation."""

    name: str
    reason: str


class DoorTokenArgs(_Args, rename="camel", kw_only=True):
    """A token of the HTTP door, by the SHA-256 of its secret (hexadecimal).

    It calls as ``user``, with ``actAs`` also as any user that a request names. Without ``plugins`` or ``hooks`` it may
    call all of them.
    """

    name: str
    digest: str
    user: str | None = None
    act_as: bool = False
    plugins: Names = []
    hooks: Names = []
    scopes: Names = []
    requests_per_minute: Annotated[int, Meta(ge=1, le=10_000_000)] = 60_000
    days: Annotated[int, Meta(ge=1, le=3650)] = 365


class DoorTokensArgs(_Args):
    """``revision`` of an earlier answer leaves out the list while it is the same; ``all`` adds tokens that ended."""

    revision: str = ""
    all: bool = False


class RevokeDoorTokenArgs(_Args):
    """A token by its id, or all of one name, and the reason for the operation."""

    name: str
    reason: str


OPERATIONS = (
    Operation("plugin.register", BundleArgs,
              "Stores a bundle. Nothing runs, unless `manifest.enabled` has it installed and enabled.", lane="slow"),
    Operation("plugin.upload", UploadArgs,
              "Takes one part of a bundle too large for one message; the operation that wants it names its hash."),
    Operation("plugin.validate", PluginArgs,
              "Checks policy and signature, scans the code, and loads it in the jail.", lane="slow"),
    Operation("plugin.install", BundleArgs, "Registers, validates and installs; may wait for approvals.", lane="slow"),
    Operation("plugin.upgrade", UpgradeArgs, "Checks and tries a newer version, and switches to it.", lane="slow"),
    Operation("plugin.rollback", RollbackArgs, "Goes back to a version that was served before.", lane="slow"),
    Operation("plugin.enable", UserArgs, "Enables a plugin for everybody or for one user."),
    Operation("plugin.disable", UserArgs, "Disables a plugin for everybody or for one user."),
    Operation("plugin.quarantine", ReasonArgs, "Stops a plugin until it is released or upgraded."),
    Operation("plugin.release", PluginArgs, "Lifts a quarantine."),
    Operation("plugin.remove", PluginArgs, "Removes a plugin with all its versions."),
    Operation("plugin.revokeVersion", DigestArgs, "Revokes one version for good and stops it."),
    Operation("plugin.verify", CanaryArgs,
              "Checks files, signature and permissions, and makes one live call.", lane="slow"),
    Operation("plugin.preview", PreviewArgs,
              "Makes one live call, and shows its result and the effects that no host gets.", lane="slow"),
    Operation("plugin.picture", PictureArgs, "The icon or a screenshot of what is served, as bytes."),
    Operation("plugin.list", NoArgs, "Every plugin."),
    Operation("plugin.show", PluginArgs, "Shows all that is known about one plugin."),
    Operation("plugin.request", PermissionArgs, "Shows the open request for a permission, or makes one."),
    Operation("plugin.approve", DecisionArgs, "Takes an approver's signed approval.", lane="slow"),
    Operation("plugin.deny", DecisionArgs, "Takes an approver's signed denial."),
    Operation("plugin.revoke", DecisionArgs, "Takes an approver's signed revocation of an approval."),
    Operation("plugin.sign", SignatureArgs, "Adds signatures to a registered version."),
    Operation("keys.register", KeyArgs, "Registers a public key in a role."),
    Operation("keys.revoke", RevokeKeyArgs, "Revokes a key and stops what it signed."),
    Operation("keys.list", NoArgs, "Lists every registered key."),
    Operation("door.token.new", DoorTokenArgs, "Registers a token of the HTTP door by its SHA-256."),
    Operation("door.token.list", DoorTokensArgs, "Lists the tokens of the HTTP door with their SHA-256."),
    Operation("door.token.revoke", RevokeDoorTokenArgs, "Ends a token of the HTTP door, or all of one name, for good."),
)
"""Every operation of the registry. Its handlers are in ``operations``."""
