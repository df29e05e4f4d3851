"""What every registry operation receives: settings, store, bundles, clocks, and the way to the supervisor.

Operations run in the registrar process, never in the supervisor's loop. This module does not know how messages travel:
the registrar fills in the callables, and tests fill in their own.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from apex_exec.catalogue.limits import Limits
from apex_exec.config import Settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.scan.findings import Report
from apex_exec.registry.store import Store

Gate = Callable[["Context", Manifest, str], None]
"""Called before a plugin is enabled for a user ("" means everybody). Raises Refusal if that is not allowed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """One caller's view of the registry. ``uid`` is the peer's user id as the kernel reported it.

    ``ask(kind, params, seconds)`` has the supervisor do something in a jailed worker and returns its answer, or raises
    Refusal. ``publish(specs)`` and ``withdraw(plugin)`` notify the supervisor of what it is to serve from now on;
    ``specs.commit`` calls them after the commit, under ``lock``, so that notices are in the order of the commits. The
    crash tests end the process in ``at_point``.
    """

    settings: Settings
    store: Store
    blobs: BlobStore
    now_ns: Callable[[], int]
    ask: Callable[[str, dict[str, Any], float], Any]
    publish: Callable[[list[PluginSpec]], None]
    withdraw: Callable[[str], None]
    scan: Callable[[dict[str, bytes], Manifest], Report]
    at_point: Callable[[str], None] = lambda _: None
    entitled: Callable[[Context, str, bool], frozenset[str] | None] = lambda _context, _plugin, _paid: None
    """``entitled(context, plugin, paid)``: the users who may run the plugin, or None if it costs nothing. ``paid`` says
    whether its manifest has a price. The answer comes from memory, because it is needed in the middle of a transaction.
    """
    revoked: Callable[[Context, str], str] = lambda _context, _digest: ""
    """Why a marketplace forbids running the bytes of this digest; "" if none does. The answer comes from memory."""
    halted: Callable[[Context, str], str] = lambda _context, _digest: ""
    """Why the release of this digest is halted, so that it is not newly installed; "" if it is not. The answer comes
    from memory."""
    withheld: Callable[[Context, sa.Connection, str], str] = lambda _context, _db, _digest: ""
    """The reason, as one word, why a version is not served for now; "" if it is served."""
    market_check: Callable[[Context, str], str] = lambda _context, _digest: ""
    """What ``plugin verify`` reports about a version's marketplace; "" if none is followed. Raises Refusal."""
    measure: Callable[[str, tuple[str, ...], float], None] = lambda _name, _labels, _value: None
    """Adds to a counter of the supervisor's metrics, or sets a gauge."""
    tell_settings: Callable[[str, list[tuple[str, str, bytes]], bool, str], None] = (
        lambda _plugin, _sets, _whole, _locked: None)
    """``tell_settings(plugin, sets, whole, locked)`` tells the supervisor what is set for a plugin, as
    ``plugin_settings.publishing`` has it; ``whole``: in place of all that it had."""
    in_doubt: Callable[[], None] = lambda: None
    """Called if a transaction may have been committed without a notice to the supervisor: it then needs a full
    snapshot."""
    audit: Callable[[str, str, dict[str, Any]], None] = lambda _plugin, _action, _metadata: None
    """``audit(plugin, action, metadata)`` records what the registry decides by itself; operations are audited anyway.
    """
    settled_ns: Callable[[], int] | None = None
    """See ``over_ns``; None means that the clock is always right."""
    ledger_ns: Callable[[], int] | None = None
    """The clock that gives the ledger's events their times; None if that is ``now_ns``."""
    gates: tuple[Gate, ...] = ()
    folder_plugins: frozenset[str] = frozenset()
    """Ids that are served straight from ``plugins_dir``: such a plugin cannot be installed as well."""
    uid: int = -1
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    def caller(self, uid: int) -> Context:
        """The same registry for another caller."""
        return dataclasses.replace(self, uid=uid)

    def over_ns(self) -> int:
        """Whatever ended before this moment may be ended for good (see ``settled_clock.SettledClock``)."""
        return self.now_ns() if self.settled_ns is None else self.settled_ns()

    @property
    def limits(self) -> Limits:
        """The platform's policy on limits."""
        return self.settings.limits.policy()
