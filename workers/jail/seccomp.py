"""Layer ``seccomp``: installs the filter that the daemon compiled from its policy, a list of what is allowed.

A second, short filter is added once the worker has its plugin's limits (``close_filter``): the calls that the worker
needed until then, to limit its memory and to add that filter, are not allowed to the plugin.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import Any

from workers.jail.base import ACTIVE, Child, JailError, Outcome, invoke

PR_GET_SECCOMP, PR_SET_SECCOMP, MODE_FILTER = 21, 22, 2
_CONSTANT = 4  # offset of k in struct sock_filter {u16 code; u8 jt, jf; u32 k}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A program for the kernel, prepared in the zygote."""

    def __init__(self, made: dict[str, Any]) -> None:
        code: bytes = made["code"]
        self.own_pid: list[int] = made["own_pid"]
        self.code = ctypes.create_string_buffer(code, len(code)) if code else None
        self.program = _Program(len(code) // 8, ctypes.addressof(self.code) if self.code else None)

    def install(self) -> None:
        """Fills in the worker's pid and installs the program for good. Raises OSError."""
        for index in self.own_pid:
            struct.pack_into("=I", self.code, 8 * index + _CONSTANT, os.getpid())  # type: ignore[arg-type]  # there is
        invoke("prctl", PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(self.program), 0, 0)


def _both(made: dict[str, Any]) -> tuple[Filter, Filter]:
    return Filter(made), Filter(made["closing"])


class Seccomp:
    """``plan["seccomp"]``: ``{code: bytes, own_pid: [instruction], closing: {code, own_pid}}``. Empty code means that
    we have no table for this machine.

    ``plan["scratch"]["seccomp"]`` is the same with calls for files, used only if the root contains nothing else.
    """

    name = "seccomp"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._usual = _both(plan["seccomp"])
        self._with_files = _both(plan["scratch"]["seccomp"]) if plan.get("scratch") else self._usual

    def apply(self, child: Child) -> Outcome:
        """Raises OSError."""
        chosen, closing = self._with_files if child.scratch else self._usual
        if chosen.code is None:
            raise OSError(errno.ENOSYS, "this machine's system calls are in no table of ours")
        chosen.install()
        child.closing = closing
        return ACTIVE

    def check(self, child: Child) -> str:
        """The selftest, which follows, tries what the filter must refuse."""
        return "" if invoke("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == MODE_FILTER else "no filter is installed"


def close_filter(child: Child) -> None:
    """Leaves the process only what its plugin may do, for good. Without the layer ``seccomp`` this does nothing.

    Must run before any byte of the plugin is read. Raises JailError if the filter does not hold.
    """
    if child.closing is None:
        return
    try:
        child.closing.install()
    except OSError as error:
        raise JailError("jail", "seccomp", error.errno or 0, f"the second filter: {error.strerror}") from None
    for what, attempt in (("add a filter", lambda: invoke("prctl", PR_GET_SECCOMP, 0, 0, 0, 0)),
                          ("set a limit", lambda: _set_again(resource.RLIMIT_DATA))):
        try:
            attempt()
        except (OSError, ValueError):  # ValueError is setrlimit's form of EPERM
            continue
        raise JailError("selftest", "seccomp", 0, f"after loading it could {what}")


def _set_again(which: int) -> None:
    resource.setrlimit(which, resource.getrlimit(which))
