"""Confines a worker: layers that are applied in order after the fork and before any byte of the plugin. One file each.

The daemon's plan (plain data) says for each layer what is to happen: ``required`` (its result must be what the plan
claims, or no plugin code runs), ``try`` (for the probe: report the result), ``absent`` (the probe saw that this machine
cannot apply it) or ``waived`` (the operator does without it, by name). Nothing fails open.
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
"""The reasons for the order: cgroup needs paths, so it precedes the empty root; rlimits need rights, so they precede
identity; a change of uid disarms PDEATHSIG; Landlock and seccomp require no_new_privs; and seccomp forbids what all the
others need."""


class Jail:
    """The layers, prepared once in the zygote and applied in each child."""

    def __init__(self, plan: dict[str, Any], zygote: int = 0) -> None:
        """``zygote`` is the pid of the workers' parent; 0: this process."""
        self._plan = plan
        self._layers = [make(plan) for make in ORDER]
        self._zygote = zygote or os.getpid()

    def child(self, worker: dict[str, Any], fds: tuple[int, int]) -> Child:
        """This process, forked and not yet confined. ``worker`` is the daemon's map, ``{uid, gid, cgroup: [paths]}``.
        """
        return Child(self._plan, worker, fds, self._zygote)

    def apply(self, child: Child) -> list[LayerReport]:
        """Confines this process for good and renumbers ``child.fds``. Returns the result of each layer. Raises
        JailError."""
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
    """The last steps, once the plugin is known and before any of it is read. Raises JailError, OSError."""
    limit_memory(child.statm, memory_bytes_max)
    close_filter(child)
