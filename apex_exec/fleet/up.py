"""``fleet up``'s talk with Ray, in a process of its own: Ray's library writes to the terminal, and waits for minutes
for a head that does not answer. Arguments: the address, the configuration, seconds, names of nodes to forget.
Prints a JSON list of keepers' states."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

from apex_exec.fleet.keeper import NAMESPACE, alive, place

POLL_SECONDS = 0.5
BAD_NAME = "this is not a node's name: set one of up to 63 of a-z, 0-9, dots and hyphens by `ray start --node-name`"


def up(address: str, config: str, seconds: float, forget: list[str]) -> list[dict[str, Any]]:
    """Places the keepers and waits until each has a daemon or a problem, for ``seconds`` at most. ``forget``
    are nodes that will not come back. Raises what Ray does."""
    import ray

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    nodes = ray.nodes()
    found = [{"node": node["NodeName"], "pid": 0, "problem": BAD_NAME} for node in nodes
             if node["Alive"] and node not in alive(nodes)]
    keepers = place(alive(nodes), config)
    due = time.monotonic() + seconds
    states: dict[str, dict[str, Any]] = {name: {"node": name, "pid": 0, "problem": "its keeper does not start in time"}
                                         for name in keepers}
    while any(not row["pid"] for row in states.values()) and time.monotonic() < due:
        for name, keeper in keepers.items():
            try:
                state = ray.get(keeper.status.remote(), timeout=max(0.1, due - time.monotonic()))
                if state["config"] != config:  # of an earlier `fleet up`
                    ray.kill(keeper)
                    continue
                states[name] = state
                for one in forget:
                    keeper.forget.remote(one)
            except ray.exceptions.GetTimeoutError:
                pass
            except ray.exceptions.RayActorError:  # one that was ended here, or by itself
                keepers = {**keepers, **place([node for node in alive(nodes) if node["NodeName"] == name], config)}
        time.sleep(POLL_SECONDS)
    return found + [{**row, "problem": row["problem"] or ("" if row["pid"] else "its daemon is not ready yet")}
                    for row in states.values()]


if __name__ == "__main__":
    print(msgspec.json.encode(up(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:])).decode())
