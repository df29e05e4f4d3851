"""Every permission that a manifest can ask for, declared once.

An API method needs one of them (``methods.METHODS``); a host method needs the one whose ``prefix`` its name begins
with. ``is_admin`` says which of them an administrator approves, for each version of a plugin.
"""

from __future__ import annotations

from msgspec import Struct


class Permission(Struct, frozen=True):
    """One permission. ``prefix``: the host methods it covers, by the beginning of their names; "" for none."""

    name: str
    doc: str
    prefix: str = ""
    is_admin: bool = False


ALL = (
    Permission("data:read", "read the caller's own rows"),
    Permission("data:write", "write the caller's own rows"),
    Permission("ui:render", "show widgets"),
    Permission("events:emit", "publish events"),
    Permission("network:fetch", "make HTTP requests to hosts that the operator allows"),
    Permission("admin:users", "call the host's methods for users", "admin.users.", is_admin=True),
    Permission("admin:billing", "call the host's methods for billing", "admin.billing.", is_admin=True),
    Permission("system:config", "call the host's methods for its configuration", "system.config.", is_admin=True),
)

PERMISSIONS = tuple(permission.name for permission in ALL)
STANDARD_PERMISSIONS = tuple(permission.name for permission in ALL if not permission.is_admin)
ADMIN_PERMISSIONS = tuple(permission.name for permission in ALL if permission.is_admin)
PREFIXES = {permission.prefix: permission.name for permission in ALL if permission.prefix}
"""Beginning of a host method's name -> the permission that it takes."""
