"""The arguments of what the supervisor answers about itself and its plugins, and a sentence on each answer."""

from __future__ import annotations

from typing import Literal

import msgspec

from apex_exec.common.operations import NoArgs, Operation

PAGE_MAX = 100
"""Rows of one page: what a person looks through, and a millisecond of the loop."""


class FindArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``search`` is part of an id. ``state`` is a state of the registry, or "failing" (in the last minutes), "breaker"
    (it is not closed) or "working" (it has a process); "" is any. ``limit`` is at most ``PAGE_MAX``."""

    search: str = ""
    state: str = ""
    offset: int = 0
    limit: int = 50
    sort: Literal["id", "calls", "failures", "cpu", "memory"] = "id"


class LiveArgs(msgspec.Struct, forbid_unknown_fields=True):
    """One plugin, by its id."""

    id: str


OPERATIONS = (
    Operation("daemon.overview", NoArgs, "Totals, health, and the plugins that hurt most.", "loop"),
    Operation("daemon.doctor", NoArgs, "The layers of the jail as workers report them, and what would add the others.",
              "loop"),
    Operation("plugin.find", FindArgs, "One page of the plugins, by part of an id and by state.", "loop"),
    Operation("plugin.live", LiveArgs, "What one plugin is doing now: worker, queue, breaker, failures.", "loop"),
)
