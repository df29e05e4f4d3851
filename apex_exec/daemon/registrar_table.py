"""Which operations the registrar runs: the registry's, and those of the areas that build on it."""

from __future__ import annotations

from apex_exec.daemon.operations import Operation, register
from apex_exec.market import service as market
from apex_exec.registry import operations as registry
from apex_exec.registry.operations import Entry


def entries() -> dict[str, Entry]:
    """Every entry by its operation's name."""
    return {entry.name: entry for entry in (*registry.ENTRIES, *market.ENTRIES)}


def register_all() -> None:
    """Adds them to the table that the admin socket serves."""
    register(Operation(entry.name, entry.args, "registrar", entry.doc) for entry in entries().values())
