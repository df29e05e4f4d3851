"""One step of the pool: the moment at which it happens, and what is wanted so far."""

from __future__ import annotations

from msgspec import Struct

from apex_exec.core.actions import Action


class Step(Struct, gc=False):
    """Every part of the pool that takes part in a step is handed this, and appends to ``actions`` in order."""

    now_ns: int
    actions: list[Action]
