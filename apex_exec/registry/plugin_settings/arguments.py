"""The arguments of the operations on plugins' settings. No database code: the supervisor loads this."""

from __future__ import annotations

from typing import Any

import msgspec

from apex_exec.common.operations import Operation


class OwnerArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A plugin, and whose values are meant: a user's, a tenant's, or, without either, everybody's."""

    id: str
    user: str | None = None
    tenant: str | None = None


class SetArgs(OwnerArgs):
    """``values`` by name. ``expect`` is the ``revision`` that ``get`` gave: the operation is refused if somebody has
    changed something meanwhile."""

    values: dict[str, Any]
    expect: str | None = None


class UnsetArgs(OwnerArgs):
    """The names of what is deleted; ``all``: everything that this owner has."""

    names: list[str] = []
    all: bool = False
    expect: str | None = None


class RotateArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``keep_key``: no new key is made; what another key has encrypted is encrypted with the first known one.
    ``forget_unreadable`` deletes secrets whose key is lost."""

    keep_key: bool = False
    forget_unreadable: bool = False


OPERATIONS = (
    Operation("plugin.settings.get", OwnerArgs,
              "The settings that a plugin declares, and what is set; of a secret only that it is."),
    Operation("plugin.settings.set", SetArgs, "Sets values, which the next call has.", unrecorded=("values",)),
    Operation("plugin.settings.unset", UnsetArgs, "Deletes values."),
    Operation("secrets.rotate", RotateArgs, "Makes a new key and encrypts every secret with it."),
)
"""Every operation on plugins' settings. Their handlers are in ``operations``."""
