"""Runs the catalogue against real daemons, one for each combination of layers, and keeps the table attack × layer."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from apex_exec.client import CallError, Client
from tests.attack.catalogue import ATTACKS, MODULES, PRELUDE, Attack
from tests.attack.contained import CONTAINED, FRAME, Contained
from tests.attack.world import World
from tests.support import need
from tests.support.daemon import ECHO, USER, Daemon, write_plugin

LAYERS = ("seccomp", "landlock", "namespaces", "identity", "rlimits")
UNPRIVILEGED = 65532
USERS = {"root": 0, "unprivileged": UNPRIVILEGED}
DEADLINE_MS = 5000
SHORT_MS = 600
"""For attacks that end by their deadline."""
FULL: dict[str, Any] = {"sandbox.extra_modules": MODULES, "limits.cpu_percent": 100, "sandbox.governor": "psutil"}
ENFORCED: dict[str, Any] = {**FULL, "sandbox.governor": "auto"}


def without(*waived: str, memory_mb: int = 400) -> dict[str, Any]:
    """A configuration that does without some layers, and with a memory limit that stops nothing here."""
    return {**FULL, "sandbox.waive": list(waived), "sandbox.min_level": "L0", "limits.memory_mb": memory_mb}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "full": ENFORCED,
    "L2": without("namespaces", "cgroup", memory_mb=50),
    "L1": without("namespaces", "cgroup", "landlock", memory_mb=50),
    "none": without(*LAYERS, "cgroup"),
    **{f"only {layer}": without(*(other for other in LAYERS if other != layer), "cgroup") for layer in LAYERS},
}
TABLE: dict[str, dict[str, dict[str, bool]]] = {}
"""User → configuration → attack → came through."""
_WORLDS: list[str] = []


def plugin_id(kind: str, index: int) -> str:
    """The bundle's id of one row."""
    return f"{kind}-{index:03d}"


def close_worlds() -> None:
    """Takes the surroundings away; a later campaign makes new ones."""
    for user in _WORLDS:
        world(user).close()
    _WORLDS.clear()
    world.cache_clear()


@cache
def world(user: str) -> World:
    """The surroundings of one user's daemons, with every attack as a bundle."""
    need(os.geteuid() == 0, "running daemons as root and as another user takes root")
    made = World(USERS[user])
    _WORLDS.append(user)
    for index, attack in enumerate(ATTACKS):
        body = "\n".join("    " + line for line in attack.code.splitlines())
        write_plugin(made.plugins, plugin_id("attack", index), PRELUDE.replace("BODY", body))
    for index, row in enumerate(CONTAINED):
        body = "\n".join("    " + line for line in row.code.splitlines())
        write_plugin(made.plugins, plugin_id("contained", index),
                     "import msgspec\n" + FRAME + PRELUDE.replace("BODY", body))
    write_plugin(made.plugins, "bystander", ECHO)
    return made


def concerned(user: str, configuration: str) -> list[tuple[int, Attack]]:
    """The rows that a configuration says something about."""
    layer = configuration.removeprefix("only ")
    return [(index, attack) for index, attack in enumerate(ATTACKS)
            if (attack.who == "any" or user == "root") and (layer == configuration or layer in attack.stops)]


def call(client: Client, plugin: str, context: dict[str, Any], deadline_ms: int) -> tuple[str, Any]:
    """(code, result): "ok" and what the hook returned, or the error's code and message."""
    try:
        reply = client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": context}, deadline_ms)
    except CallError as error:
        return error.code, str(error)
    return "ok", reply["result"]["result"]


@cache
def campaign(user: str, configuration: str) -> tuple[dict[str, bool], dict[str, str], str]:
    """(attack → came through, attack → the answer that the caller got, isolation level) of one daemon's life."""
    here = world(user)
    through: dict[str, bool] = {}
    told: dict[str, str] = {}
    with Daemon(plugins=here.plugins, config=CONFIGURATIONS[configuration], uid=here.uid or None) as daemon:
        with Client(daemon.endpoint) as client:
            level = client.hello()["isolation"]
            for index, attack in concerned(user, configuration):
                context, before = here.addresses(daemon.runtime), here.snapshot()
                code, result = call(client, plugin_id("attack", index), context,
                                    SHORT_MS if attack.proof == "timeout" else DEADLINE_MS)
                through[attack.name] = here.came_through(attack.proof, code, result, before)
                told[attack.name] = f"{code}: {result}"[:300]
            assert call(client, "bystander", {"n": 1}, DEADLINE_MS) == ("ok", {"n": 1})
    TABLE.setdefault(user, {})[configuration] = through
    return through, told, level


@cache
def containment(user: str) -> tuple[dict[str, tuple[str, Any, bool]], str]:
    """(row → (code, result, the bystander answered and the daemon lives), the daemon's log)."""
    here = world(user)
    found: dict[str, tuple[str, Any, bool]] = {}
    env = {"APEX_TEST_SECRET": "value-of-APEX-DAEMON-SECRET"}
    with Daemon(plugins=here.plugins, config=FULL, uid=here.uid or None, env=env) as daemon:
        with Client(daemon.endpoint) as client:
            for index, row in enumerate(CONTAINED):
                code, result = call(client, plugin_id("contained", index), {}, deadline_of(row))
                well = call(client, "bystander", {"n": index}, DEADLINE_MS) == ("ok", {"n": index})
                found[row.name] = code, result, well and daemon.process.poll() is None
        log = daemon.log
    return found, log


def deadline_of(row: Contained) -> int:
    """A short deadline where the row is to end by it."""
    return SHORT_MS if row.codes == ("TIMEOUT",) else 3000


def table(found: dict[str, dict[str, dict[str, bool]]]) -> list[str]:
    """Attack × layer as text: ``stops`` where the layer alone did, ``through`` where not, ``-`` untried."""
    columns = ("none", *(f"only {layer}" for layer in LAYERS), "L1", "L2", "full")
    lines = []
    for user, runs in sorted(found.items()):
        lines.append(f"{user:<38}" + "".join(f"{name.removeprefix('only '):>12}" for name in columns))
        for attack in ATTACKS:
            cells = []
            for name in columns:
                came = runs.get(name, {}).get(attack.name)
                cells.append(f"{'-' if came is None else 'through' if came else 'stops':>12}")
            lines.append(f"{attack.name:<38}" + "".join(cells))
    return lines
