"""Layer ``seccomp``: installs the filter that the daemon compiled from its policy; the list of what is allowed."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_GET_SECCOMP, PR_SET_SECCOMP, MODE_FILTER = 21, 22, 2
_CONSTANT = 4  # offset of k in struct sock_filter {u16 code; u8 jt, jf; u32 k}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _Filter:
    def __init__(self, made: dict[str, Any]) -> None:
        code: bytes = made["code"]
        self.own_pid: list[int] = made["own_pid"]
        self.code = ctypes.create_string_buffer(code, len(code)) if code else None
        self.program = _Program(len(code) // 8, ctypes.addressof(self.code) if self.code else None)


class Seccomp:
    """``plan["seccomp"]``: ``{code: bytes, own_pid: [instruction]}``; empty code: no table for this machine.

    ``plan["scratch"]["seccomp"]`` is the same with calls for files, used only where the root holds nothing else.
    """

    name = "seccomp"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._usual = _Filter(plan["seccomp"])
        self._with_files = _Filter(plan["scratch"]["seccomp"]) if plan.get("scratch") else self._usual

    def apply(self, child: Child) -> Outcome:
        """Fills the worker's pid in and hands the filter over. Raises OSError."""
        chosen = self._with_files if child.scratch else self._usual
        if chosen.code is None:
            raise OSError(errno.ENOSYS, "there is no table of system calls for this machine")
        for index in chosen.own_pid:
            struct.pack_into("=I", chosen.code, 8 * index + _CONSTANT, os.getpid())
        invoke("prctl", PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(chosen.program), 0, 0)
        return ACTIVE

    def check(self, child: Child) -> str:
        """The self-test, which follows, tries what the filter must refuse."""
        return "" if invoke("prctl", PR_GET_SECCOMP, 0, 0, 0, 0) == MODE_FILTER else "no filter is installed"
