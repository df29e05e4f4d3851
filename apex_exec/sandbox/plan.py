"""The jail's plan: plain data made by the daemon, applied by each worker, shown by ``doctor``.

A first plan, the probe's, tries every layer. From its results we make the plan in force: it requires each layer that
this machine can apply, and gives the reason for each of the others.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from apex_exec.sandbox import bpf
from workers.wire import LayerReport

LAYERS = ("fds", "env", "session", "cgroup", "namespaces", "rlimits", "identity", "pdeathsig", "no_new_privs",
          "landlock", "seccomp", "selftest")
"""The layers in the order of their application (workers/jail)."""

KILL = "kill"
"""An entry beside the layers: whether a worker can be stopped, continued and killed through its pidfd. It is not a
layer of a worker and cannot be waived: without it no limit and no deadline holds, and no level is reached."""

LEVELS: dict[str, list[dict[str, tuple[str, ...]]]] = {
    "L0": [{name: ("active",)} for name in ("fds", "env", "session", "rlimits", "pdeathsig", "no_new_privs",
                                            "selftest")],
    "L1": [{"seccomp": ("active",)}],
    "L2": [{"landlock": ("active", "degraded"), "namespaces": ("active",)}],
    "L3": [{"landlock": ("active",)}, {"namespaces": ("active",)}, {"identity": ("active", "degraded")}],
    "L4": [{"cgroup": ("active",)}],
}
"""What each level requires beyond the one below: for each map one layer, in one of its states. L2 is a second wall
behind seccomp, whichever the kernel offers: Landlock, or an empty root without a network. If root stays uid 0, identity
is ``absent``, and hence L3 is not reached."""

LANDLOCK: tuple[tuple[str, int, int], ...] = (
    ("fs", 1, 0x1FFF),  # execute, read, write, and making and removing every kind of file
    ("fs", 2, 0x2000),  # refer: link and rename between folders
    ("fs", 3, 0x4000),  # truncate
    ("fs", 5, 0x8000),  # ioctl of devices
    ("net", 4, 0x3),  # TCP bind and connect
    ("scoped", 6, 0x3),  # abstract unix sockets, signals
)
"""(field, least ABI, rights). We handle everything that the kernel knows, and no rule allows any of it again."""


SCRATCH_BYTES, SCRATCH_INODES = 16 << 20, 1024
"""The size of the temporary folder that a bundle's tests may write. It is in memory and disappears with the run."""
SCRATCH_RIGHTS = 0x61BE
"""Landlock's rights for that folder: read, write and truncate files; list, make, rename and remove files and folders.
No execution, no link, no socket, fifo or device."""


def make_plan(reports: Iterable[LayerReport] | None = None, waive: Iterable[str] = (), *,
              scratch: bool = False) -> dict[str, Any]:
    """The plan in force after ``reports`` of a probe; without reports, the probe's own plan.

    ``scratch`` adds a writable temporary folder; it requires the layer ``namespaces``.
    """
    waived = frozenset(waive)
    known = {report.layer: report for report in reports or ()}
    layers: dict[str, tuple[str, list[Any]]] = {}
    for name in LAYERS:
        report = known.get(name)
        if name in waived:
            layers[name] = ("waived", [0, "sandbox.waive"])
        elif report is None:
            layers[name] = ("try", [])
        elif report.state in ("active", "degraded"):
            # a worker may do better than the probe, but never worse
            layers[name] = ("required", ["active"] if report.state == "active" else ["active", "degraded"])
        else:
            layers[name] = ("absent", [report.errno, report.detail])
    rules = bpf.policy()
    plan = {"layers": layers, "seccomp": _seccomp(rules), "landlock": LANDLOCK}
    if scratch:
        plan["scratch"] = {"bytes": SCRATCH_BYTES, "inodes": SCRATCH_INODES, "landlock": SCRATCH_RIGHTS,
                           "seccomp": _seccomp(bpf.with_files(rules))}
    return plan


def _seccomp(rules: dict[str, Any]) -> dict[str, Any]:
    """The filter from the jail on, and the ``closing`` filter that a worker adds when it has its plugin's limits."""
    machine = platform.machine()
    try:
        made = bpf.compile_policy(bpf.until_loaded(rules), machine), bpf.compile_closing(rules, machine)
    except KeyError:
        made = bpf.Program([], []), bpf.Program([], [])
    whole, closing = ({"code": program.packed(), "own_pid": program.own_pid} for program in made)
    return {**whole, "closing": closing}


def level_of(states: Mapping[str, str], waived: Iterable[str] = ()) -> str:
    """The highest level whose layers, and those of every level below, are in force; "" if not even L0's are.

    Layers in ``waived`` count as if they were in force: this level is compared with ``sandbox.min_level``. Hosts are
    given the level without waivers.
    """
    excused = frozenset(waived)
    reached = ""
    for level, needs in LEVELS.items():
        if not all(any(states.get(name, "absent") in accepted or name in excused for name, accepted in need.items())
                   for need in needs):
            break
        reached = level
    return reached


class Identities:
    """A uid from ``sandbox.uid_range`` for each living worker; the gid is the same number."""

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._size = high - low + 1
        self._next = 0
        self._taken: dict[int, int] = {}
        self._used: set[int] = set()

    def take(self, worker: int) -> int:
        """A uid for ``worker`` that no other living worker has. Raises RuntimeError if all are taken."""
        if worker in self._taken:
            return self._taken[worker]
        if len(self._used) >= self._size:
            raise RuntimeError("sandbox.uid_range has no uid left")
        while True:  # terminates, because one is free
            uid = self._low + self._next
            self._next = (self._next + 1) % self._size
            if uid not in self._used:
                break
        self._used.add(uid)
        self._taken[worker] = uid
        return uid

    def pass_on(self, spare: int, worker: int) -> None:
        """Gives the uid of ``spare`` to ``worker``: they are one process."""
        self._taken[worker] = self._taken.pop(spare)

    def free(self, worker: int) -> None:
        """Call this when ``worker`` is gone; its uid becomes free. An unknown worker has no effect."""
        uid = self._taken.pop(worker, None)
        if uid is not None:
            self._used.discard(uid)
