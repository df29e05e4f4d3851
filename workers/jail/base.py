"""What the layers share: a child on its way into the jail, the outcome of a layer, and the kernel through ctypes.

A layer is made once in the zygote, so that everything possible is prepared before the fork, and applied in the child.
``apply`` raises OSError if the kernel refuses; ``check`` then really tries what the layer must stop.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple, Protocol

libc = ctypes.CDLL(None, use_errno=True)
for _name, _types in {
    "prctl": (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong),
    "unshare": (ctypes.c_int,),
    "mount": (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p),
    "umount2": (ctypes.c_char_p, ctypes.c_int),
}.items():
    getattr(libc, _name).argtypes = _types
libc.syscall.restype = ctypes.c_long

_locked = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock during the call


def fork() -> int:
    """fork(2) without the interpreter's own work after a fork. Returns the child's pid, or 0 in the child. Raises
    OSError.

    Only for a process with one thread and no lock held, which the zygote asserts: in the child ``os.fork`` resets locks
    and threads that cannot be in use here, at the cost of 236 page faults and 1.3 ms (measured). It does not seed
    ``random`` either; the layer ``env`` does that.
    """
    pid: int = _locked.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def invoke(name: str, *arguments: Any) -> int:
    """Calls libc's ``name``. Raises OSError with the kernel's errno."""
    result: int = getattr(libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: Any) -> int:
    """A system call for which libc has no function. Raises OSError."""
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")
    return result


SCRATCH = "/tmp"
"""Where a plan with ``scratch`` has its folder, the only thing in the root."""

PLACE_FDS = range(100, 105)
"""The zygote's descriptors of the namespaces that a worker enters; layer ``fds`` keeps them for layer ``namespaces``.
"""


class Outcome(NamedTuple):
    """The result of a layer: ``active``, or ``degraded`` (in force, but weaker than possible; ``detail`` says how)."""

    state: str = "active"
    detail: str = ""
    errno: int = 0


ACTIVE = Outcome()


class Installable(Protocol):
    """Something that the kernel takes over for good, as a seccomp filter."""

    def install(self) -> None:
        """Hands it to the kernel. Raises OSError."""


class Child:
    """The process being confined. ``fds``: the link, and the write end of the start counter. ``statm``: the descriptor
    of its own statm (-1: none). ``closing``: the filter to add once the plugin's limits are known, if ``seccomp`` is in
    force."""

    __slots__ = ("active", "closing", "fds", "plan", "statm", "worker", "zygote")

    def __init__(self, plan: dict[str, Any], worker: dict[str, Any], fds: tuple[int, int], zygote: int) -> None:
        self.plan = plan
        self.worker = worker
        self.fds = fds
        self.statm = -1
        self.closing: Installable | None = None
        self.zygote = zygote
        self.active: dict[str, Outcome] = {}

    @property
    def scratch(self) -> dict[str, Any] | None:
        """The plan's temporary folder (tests only). Also None if the empty root is not in force: otherwise the rights
        that the folder needs would include the machine's own files."""
        return self.plan.get("scratch") if "namespaces" in self.active else None


class Layer(Protocol):
    """One layer of the jail."""

    name: str

    def apply(self, child: Child) -> Outcome:
        """Confines the calling process for good. Raises OSError."""

    def check(self, child: Child) -> str:
        """What was possible that must not be; "" if nothing was."""


class JailError(Exception):
    """The process must not continue: a required layer failed (stage ``jail``) or did not hold (``selftest``)."""

    def __init__(self, stage: str, layer: str, number: int, detail: str) -> None:
        super().__init__(f"{layer}: {detail}")
        self.stage = stage
        self.layer = layer
        self.errno = number
