"""What the core knows of a plugin: the parsed, checked essence of its manifest."""

from __future__ import annotations

import msgspec

from apex_exec.catalogue.limits import Limits
from apex_exec.catalogue.settings import Setting


class PluginSpec(msgspec.Struct, frozen=True):
    """One version of one plugin as the pool serves it. Made by ``spec_of`` in
    ``registry/bundles/bundle.py``, never from raw input.

    ``users`` is None where the plugin is enabled for everybody, else the lower-case UUIDs it is enabled for.
    ``entitled`` is None where the plugin costs nothing, else the users who have paid for it now.
    ``state`` other than ``enabled`` makes every call answer PLUGIN_DISABLED with ``reason``.
    ``digest`` is the bundle's SHA-256 (hex) and names the content that a worker loads.
    ``approved`` are the admin permissions with a valid approval for this digest now; ``approval_expires`` gives the
    Unix time (seconds) at which one of them ends, where it does.
    ``runtime`` names the language that it is written in, a row of ``executor.processes.runtimes``. ``isolation`` is
    ``call`` where each call wants an engine of its own, else ``shared``. ``ordering`` is ``user`` where a user's next
    call begins after the previous one was answered, and ``none`` where calls at once need no order. ``settings`` are
    those that the manifest declares; their values are not the plugin's, and stand elsewhere.
    """

    id: str
    version: str
    digest: str
    entrypoint: str
    hooks: tuple[str, ...]
    permissions: tuple[str, ...] = ()
    priority: int = 100
    limits: Limits = Limits()
    network_allow: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    name: str = ""
    author: str = ""
    state: str = "enabled"
    reason: str = ""
    users: frozenset[str] | None = None
    approved: tuple[str, ...] = ()
    approval_expires: dict[str, float] = {}
    entitled: frozenset[str] | None = None
    runtime: str = "python"
    isolation: str = "shared"
    ordering: str = "user"
    settings: tuple[Setting, ...] = ()

    def barred(self, user_id: str) -> str:
        """Why ``user_id`` is not served, as a word or the operator's reason; "" where the user is."""
        if self.state != "enabled":
            return self.reason or self.state
        if self.entitled is not None and user_id not in self.entitled:
            return "not_entitled"
        return "not_enabled_for_user" if self.users is not None and user_id not in self.users else ""
