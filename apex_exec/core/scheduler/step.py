"""One step of the pool: the time at which it happens, and the actions that it has led to so far."""

from __future__ import annotations

from msgspec import Struct

from apex_exec.core.actions import Action


class Step(Struct, gc=False):
    """Every part of the pool that takes part in a step is given this object, and appends its actions in order."""

    now_ns: int
    actions: list[Action]
