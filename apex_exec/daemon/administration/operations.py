"""The one table of administrative operations: name, arguments, where it runs, what it does.

``where`` is "loop" for what the supervisor answers from memory and "registrar" for what touches a disk or a database:
that runs in the registrar process. Registry, market and audit add their operations with ``register``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from apex_exec.common.operations import NoArgs, Operation
from apex_exec.daemon.administration import figures_arguments
from apex_exec.daemon.administration.role_table import role_needed
from apex_exec.errors import Code, SupervisorBug, WireError
from apex_exec.registry.arguments import PluginArgs
from apex_exec.wire.error_paths import text_and_path


class DrainArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``stop``: whether the daemon ends once all is answered (as SIGTERM has it), or stays until it is undrained."""

    stop: bool = True


class NodeArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``node``: the node's name; "" is the one that is asked."""

    node: str = ""


class BackupArgs(msgspec.Struct, forbid_unknown_fields=True):
    """Where the backup goes on the daemon's machine: a folder that is made, or a file if it ends in .tar, .tgz or
    .tar.gz."""

    path: str


MAP_ARGUMENTS = ("manifest", "payload")
"""Arguments that are maps, of whichever operation has them."""
OPERATIONS: dict[str, Operation] = {}


def register(operations: Iterable[Operation]) -> None:
    """Adds operations. Raises SupervisorBug if a name has another meaning already."""
    for operation in operations:
        known = OPERATIONS.get(operation.name)
        if known is not None and known != operation:
            raise SupervisorBug(f"two operations are named {operation.name}")
        OPERATIONS[operation.name] = operation


BACKUP = Operation("state.backup", BackupArgs,
                   "Writes a verified copy of the whole state, ledger and keys included, while the daemon runs.",
                   lane="slow")
"""Installations wait for it in the slow lane; what stops a plugin does not."""
register((
    Operation("ops", NoArgs, "Lists every operation with the JSON Schema of its arguments.", "loop"),
    Operation("daemon.status", NoArgs, "Plugins, workers, queues, breakers, connections, health.", "loop"),
    Operation("daemon.reload", NoArgs, "Reads the configuration and plugins_dir again, as SIGHUP does.", "loop"),
    Operation("daemon.drain", DrainArgs,
              "Takes no new work and answers what is pending; then ends as by SIGTERM, or with `stop: false` stays.",
              "loop"),
    Operation("daemon.undrain", NoArgs, "Takes new work again.", "loop"),
    Operation("plugin.restart", PluginArgs,
              "Replaces a plugin's worker: the old one answers what it has, the next calls go to a new one.", "loop"),
    Operation("breaker.reset", PluginArgs, "Closes a plugin's breaker and forgets its failures and its backoff.",
              "loop"),
    Operation("fleet.status", NoArgs, "The nodes of the fleet, as this one sees them, and what each owns.", "loop"),
    Operation("fleet.owner", PluginArgs, "Which node owns a plugin.", "loop"),
    Operation("fleet.drain", NodeArgs,
              "A node gives its plugins to the others and owns none until `fleet.rebalance`; its hosts are served on.",
              "loop"),
    Operation("fleet.rebalance", NoArgs, "Every drained node owns its part of the plugins again.", "loop"),
    BACKUP,
    *figures_arguments.OPERATIONS,
))

Handler = Callable[[Any, int], Any]
"""``handler(args, uid)`` returns the result; WireError and Refusal become the error reply."""


def listing() -> dict[str, Any]:
    """What ``ops`` answers: each operation with the role that it needs."""
    return {"operations": [
        {"name": op.name, "where": op.where, "role": role_needed(op.name), "doc": op.doc,
         "args": msgspec.json.schema(op.args)}
        for _, op in sorted(OPERATIONS.items())]}


def find(name: str) -> Operation:
    """The operation. Raises WireError (NOT_FOUND)."""
    operation = OPERATIONS.get(name)
    if operation is None:
        raise WireError(Code.NOT_FOUND, f"there is no operation {name[:64]!r}; `ops` lists them all",
                        {"reason": "unknown_operation"})
    return operation


def parse(name: str, args: dict[str, Any] | None) -> tuple[Operation, msgspec.Struct]:
    """The operation and its checked arguments. Raises WireError (NOT_FOUND, INVALID_INPUT)."""
    operation = find(name)
    given = args or {}
    for key in MAP_ARGUMENTS:  # PHP and Lua write an empty map as an empty array
        if given.get(key) == []:
            given = {**given, key: {}}
    try:
        return operation, msgspec.convert(given, operation.args)
    except msgspec.ValidationError as error:
        text, path = text_and_path(error)
        raise WireError(Code.INVALID_INPUT, f"{name}: {text}", {"path": f"$.args{path[1:]}"}) from None
