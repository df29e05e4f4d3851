"""The keeper: an actor of Ray's on each of its nodes, which has the daemon there run and tells it who the members are.

Keepers are equal: each places one on any node of Ray's that it has not seen yet, so that a machine that is started
again gets its keeper back without anybody's doing. Ray starts a keeper again that dies; nothing here ends a daemon.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_exec.config import load_settings
from apex_exec.fleet.daemon_watch import DaemonWatch
from apex_exec.fleet.engines.ray import FILE, read, write
from apex_exec.fleet.statements import NAME

NAMESPACE = "apex-exec"
NODE = "{node}"
"""Stands for the node's name in the path of the configuration."""
LOOK_SECONDS = 1.0
FIRST_SECONDS = 10.0
"""How long a daemon's start waits for the first list of members, so that the daemon does not begin alone."""
WANTED = {
    "RAY_AUTH_MODE": "token",  # Ray's ports take pickles from everybody who can reach them otherwise
    "RAY_USE_TLS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Ray has to be started with, on every machine."""


def open_because(environment: Mapping[str, str]) -> str:
    """Why a Ray with this environment is not one that daemons may be kept by; "" if it is."""
    wrong = [f"{name}={word}" for name, word in WANTED.items() if environment.get(name) != word]
    return f"Ray was started without {', '.join(wrong)}: set this on every machine, and start Ray again" * bool(wrong)


class Keeper:
    """``node`` is the name that Ray has for this node, and so this node's name in the fleet."""

    def __init__(self, node: str, config: str) -> None:
        self._node = node
        self._pattern = config
        self._path = Path(config.replace(NODE, node))
        self._watch = DaemonWatch(node, self._path, as_rays_parent)
        self._problem = open_because(os.environ)
        self._first = threading.Event()
        self._forgotten: set[str] = set()
        if not self._problem:
            threading.Thread(target=self._tell_members, daemon=True).start()
            threading.Thread(target=self._keep, daemon=True).start()

    def status(self) -> dict[str, Any]:
        """The daemon's pid, 0 if it does not run; how often this keeper started and adopted it; what is wrong."""
        return {"node": self._node, "config": self._pattern, "keeper": os.getpid(), "pid": self._watch.pid,
                "starts": self._watch.starts, "adopted": self._watch.adopted,
                "problem": self._problem or self._watch.problem}

    def forget(self, node: str) -> None:
        """Takes a node that will not come back out of the members; it is one again if Ray has it again."""
        self._forgotten.add(node)

    def _keep(self) -> None:
        self._first.wait(FIRST_SECONDS)
        self._watch.run()

    def _tell_members(self) -> None:
        """Writes down who the members are, and places keepers, once a second.

        A node that Ray has lost stays a member: its daemon most likely runs on, and would own its plugins beside the
        others if only they knew that it had left. Links say who is there. A list is as long as the nodes ever seen.
        """
        import ray

        seen: set[str] = set()
        names: set[str] | None = None
        while True:
            try:
                path = load_settings(self._path).fleet_keys_path / FILE
                if names is None:
                    names = read(path) if path.exists() else set()
                nodes = ray.nodes()
                there = {node["NodeName"] for node in alive(nodes)}
                self._forgotten -= there
                names = (names | there) - self._forgotten
                write(path, names)
                self._first.set()
                place([node for node in alive(nodes) if node["NodeID"] not in seen], self._pattern)
                seen.update(node["NodeID"] for node in alive(nodes))
                self._problem = ""
            except Exception as error:  # whatever Ray raises: it is tried again, and the daemon has what it knew
                self._problem = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            time.sleep(LOOK_SECONDS)


def as_rays_parent() -> None:
    """Undoes for this thread, and so for what it starts, what Ray does to its workers: they run at nice 15 and are the
    first that the kernel kills. Raises PermissionError with what to do."""
    parent = os.getppid()
    try:
        nice = os.getpriority(os.PRIO_PROCESS, parent)
        if os.getpriority(os.PRIO_PROCESS, 0) != nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        wanted = Path(f"/proc/{parent}/oom_score_adj").read_text("ascii")
        own = Path("/proc/self/oom_score_adj")
        if own.read_text("ascii") != wanted:
            own.write_text(wanted, "ascii")
    except PermissionError:
        raise PermissionError("the daemon would run at Ray's priority for workers, and be the first that the kernel "
                              "kills: start Ray with RAY_worker_niceness=0 and RAY_worker_oom_score_adjustment=0, "
                              "or as root") from None


def alive(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ray's nodes that are there and whose names are a node's: a name becomes a part of a path."""
    return [node for node in nodes if node["Alive"] and NAME.fullmatch(node["NodeName"])]


def place(nodes: list[dict[str, Any]], config: str) -> dict[str, Any]:
    """A keeper on each of ``nodes``, started if it is not there: its handle by the node's name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {node["NodeName"]: ray.remote(Keeper).options(
        name=f"keeper-{node['NodeID']}", namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
        max_restarts=-1, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    ).remote(node["NodeName"], config) for node in nodes}
