"""What confines a worker, applied in order after the fork and before any byte of the plugin. One file a layer.

The daemon's plan (plain data) says for each layer what is to be: ``required`` (it must come out as the plan claims,
or no plugin code runs), ``try`` (the probe's way: report what comes of it), ``absent`` (the probe saw that this
machine cannot) or ``waived`` (the operator does without it, by name). Nothing fails open.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from workers.jail.base import Child, JailError, Layer
from workers.jail.cgroup import Cgroup
from workers.jail.env import Env
from workers.jail.fds import Fds
from workers.jail.identity import Identity
from workers.jail.landlock import Landlock
from workers.jail.namespaces import Namespaces
from workers.jail.no_new_privs import NoNewPrivs
from workers.jail.pdeathsig import Pdeathsig
from workers.jail.rlimits import Rlimits, limit_memory
from workers.jail.seccomp import Seccomp, close_filter
from workers.jail.selftest import Selftest
from workers.jail.session import Session
from workers.wire import LayerReport

__all__ = ["ORDER", "Child", "Jail", "JailError", "ready_for_plugin"]

ORDER: tuple[Callable[[dict[str, Any]], Layer], ...] = (
    Fds, Env, Session, Cgroup, Namespaces, Rlimits, Identity, Pdeathsig, NoNewPrivs, Landlock, Seccomp, Selftest)
"""cgroup needs paths, so before the empty root; rlimits need rights, so before identity; a change of uid disarms
PDEATHSIG; Landlock and seccomp ask for no_new_privs; and seccomp forbids what all others need."""


class Jail:
    """The layers, prepared. Made in the zygote, applied in each child."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._layers = [make(plan) for make in ORDER]
        self._zygote = os.getpid()

    def child(self, worker: dict[str, Any], fds: tuple[int, int]) -> Child:
        """This process, forked and not yet confined. ``worker``: the daemon's map, ``{uid, gid, cgroup: [paths]}``."""
        return Child(self._plan, worker, fds, self._zygote)

    def apply(self, child: Child) -> list[LayerReport]:
        """Confines this process for good and renumbers ``child.fds``; what came of each layer. Raises JailError."""
        reports = []
        for layer in self._layers:
            mode, claim = self._plan["layers"][layer.name]
            if mode in ("required", "try"):
                reports.append(_confine(layer, child, mode, claim))
            else:
                reports.append(LayerReport(layer.name, mode, *claim))
        return reports


def _confine(layer: Layer, child: Child, mode: str, claim: list[Any]) -> LayerReport:
    name = layer.name
    try:
        outcome = layer.apply(child)
    except JailError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None) or 0
        said = getattr(error, "strerror", None) or str(error)
        if mode == "try":
            return LayerReport(name, "absent", number, said)
        raise JailError("jail", name, number, said) from None
    if mode == "required" and outcome.state not in claim:
        raise JailError("jail", name, outcome.errno, f"{outcome.state}: {outcome.detail}")
    child.active[name] = outcome
    try:
        lied = layer.check(child)
    except Exception as error:
        lied = f"the check failed: {error}"
    if lied:
        raise JailError("selftest", name, 0, lied)
    return LayerReport(name, outcome.state, outcome.errno, outcome.detail)


def ready_for_plugin(child: Child, memory_bytes_max: int) -> None:
    """The last steps, when the plugin is known and before it is looked at. Raises JailError, OSError."""
    limit_memory(child.statm, memory_bytes_max)
    close_filter(child)
