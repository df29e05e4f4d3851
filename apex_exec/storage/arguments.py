"""The arguments of the storage's operations. No database code: the supervisor loads this."""

from __future__ import annotations

import msgspec

from apex_exec.common.operations import Operation


class ExportArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whose entries, of which plugin ("": of all), and behind which plugin and key: a list, which is not put on record.
    """

    user: str
    plugin: str = ""
    after: list[str] = msgspec.field(default_factory=lambda: ["", ""])


class EraseArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whose entries, and of which plugin ("": of all)."""

    user: str
    plugin: str = ""


OPERATIONS = (
    Operation("plugin.storage.export", ExportArgs, "What plugins keep of a user; `next` is the next part's `after`."),
    Operation("plugin.storage.erase", EraseArgs, "Deletes what plugins keep of a user."),
)
"""Every operation of the storage. Its handlers are in ``operations``."""
