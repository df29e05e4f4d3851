"""Which operations the registrar runs: the registry's, and those of the areas that build on it."""

from __future__ import annotations

from apex_exec.daemon.administration.ledger_arguments import TABLE as AUDIT
from apex_exec.daemon.administration.operations import Operation, register
from apex_exec.market.arguments import TABLE
from apex_exec.registry.arguments import ARGUMENTS


def register_all() -> None:
    """Adds them to the table that the admin socket serves."""
    register(Operation(name, args, "registrar", doc)
             for name, (args, doc) in {**ARGUMENTS, **TABLE, **AUDIT}.items())
