"""Whether a plugin may make an API call: a function of its grants and the call, of nothing else. Pure.

The manifest asks for permissions, the operator's policy admits them, and a PluginSpec holds those in force. The three
admin permissions also need an approval that is valid at the time of the call.
"""

from __future__ import annotations

from msgspec import Struct

from apex_exec.catalogue.methods import METHODS, HostMethod, Request
from apex_exec.catalogue.permissions import ADMIN_PERMISSIONS, PREFIXES
from apex_exec.core.plugin import PluginSpec
from workers.effect_rules import denied


class Allowed(Struct, frozen=True):
    """The call may go on."""

    permission: str


class Denied(Struct, frozen=True):
    """The call stops here. ``reason`` is one line that the plugin's author can act on."""

    permission: str
    reason: str


def permission_of(method: str, request: Request | None) -> str | None:
    """The permission that ``request`` needs; None where no permission would allow it. Only ``call`` needs the request:
    of the others it may be None."""
    if not isinstance(request, HostMethod):
        known = METHODS.get(method)
        return (known.permission or None) if known is not None else None
    for prefix, permission in PREFIXES.items():
        if request.method.startswith(prefix) and len(request.method) > len(prefix):
            return permission
    return None


def check(spec: PluginSpec, method: str, request: Request | None, wall_seconds: float) -> Allowed | Denied:
    """Whether ``spec`` may make this call at ``wall_seconds`` (Unix time, for approvals that expire)."""
    permission = permission_of(method, request)
    if permission is None:
        known = ", ".join(f"{prefix}*" for prefix in PREFIXES)
        return Denied("", f"no permission covers this method; host methods are {known}")
    if permission not in spec.permissions:
        return Denied(permission, denied(permission))
    if permission in ADMIN_PERMISSIONS:
        if permission not in spec.approved:
            return Denied(permission, f"{permission} is not approved for this version of the plugin")
        expires = spec.approval_expires.get(permission)
        if expires is not None and wall_seconds >= expires:
            return Denied(permission, f"the approval of {permission} has expired")
    return Allowed(permission)
