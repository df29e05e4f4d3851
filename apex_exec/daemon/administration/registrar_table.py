"""Which operations the registrar runs: the registry's, and those of the areas that build on it."""

from __future__ import annotations

from apex_exec.common.operations import Operation
from apex_exec.daemon.administration import ledger_arguments
from apex_exec.daemon.administration.operations import BACKUP, register
from apex_exec.market import arguments as market
from apex_exec.registry import arguments as registry
from apex_exec.registry.plugin_settings import arguments as plugin_settings
from apex_exec.storage import arguments as storage

REGISTRARS: tuple[Operation, ...] = (*registry.OPERATIONS, *market.OPERATIONS, *storage.OPERATIONS,
                                     *plugin_settings.OPERATIONS,
                                     *ledger_arguments.OPERATIONS, BACKUP)


def register_all() -> None:
    """Adds them to the table that the admin socket serves."""
    register(REGISTRARS)
