"""Who the members of the fleet are, as an engine that exists knows it. Each engine is one file behind one port."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from apex_exec.errors import ConfigError


class Engine(Protocol):
    """One engine. It is asked about once a second, in a process of its own, and may block for a few seconds."""

    def members(self) -> set[str]:
        """The names of the nodes that are members now. Raises EngineSilent if it does not say; then the members that
        it named last stay members."""


def engine_of(kind: str, node: str, members: Sequence[str], keys_dir: Path) -> Engine:
    """The engine of this configuration; ``keys_dir`` is ``fleet.keys_dir``. Raises ConfigError."""
    if kind == "static":
        from apex_exec.fleet.engines.static import Static

        return Static(members)
    if kind == "kubernetes":
        from apex_exec.fleet.engines.kubernetes import Kubernetes

        return Kubernetes(node, members)
    if kind == "ray":
        from apex_exec.fleet.engines.ray import Ray

        return Ray(keys_dir)
    raise ConfigError(f"fleet.engine: this release has no engine {kind!r}; the table of keys in apex_exec/README.md "
                      "lists the engines")
