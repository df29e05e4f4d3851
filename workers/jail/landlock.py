"""Layer ``landlock``: withholds every file and TCP right that the kernel can withhold, through a rule set without
rules.

A plan with ``scratch`` (a bundle's tests) has one rule: ordinary files and folders below that place.

Landlock does not cover connecting to a socket with a path, UDP, chmod, stat, chdir; hence seccomp and the empty root.
It binds only the calling thread, and there is only one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from typing import Any

from workers.jail.base import ACTIVE, SCRATCH, Child, Outcome, syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
FULL_ABI = 6
"""From this ABI on, TCP, signals and abstract sockets are covered; below, the layer counts as degraded."""


class Landlock:
    """``plan["landlock"]``: rows of (field, least ABI, bits), fields ``fs``, ``net``, ``scoped``."""

    name = "landlock"

    def __init__(self, plan: dict[str, Any]) -> None:
        self.abi = 0
        with contextlib.suppress(OSError):
            self.abi = syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
        fields = dict.fromkeys(("fs", "net", "scoped"), 0)
        for field, abi, bits in plan["landlock"]:
            if self.abi >= abi:
                fields[field] |= bits
        self._handled = fields
        self._attributes = (ctypes.c_uint64 * 3)(*fields.values())
        self._size = ctypes.c_size_t(8 if self.abi < 4 else 16 if self.abi < FULL_ABI else 24)

    def apply(self, child: Child) -> Outcome:
        """Raises OSError: ENOSYS or EOPNOTSUPP if the kernel has no Landlock, or boots without it."""
        ruleset = syscall(_CREATE_RULESET, self._attributes, self._size, ctypes.c_uint32(0))
        try:
            if child.scratch:
                self._open_folder(ruleset, child.scratch["landlock"])
            syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        finally:
            os.close(ruleset)
        if self.abi >= FULL_ABI:
            return ACTIVE
        lacks = "signals and abstract sockets" if self.abi >= 4 else "TCP, signals and abstract sockets"
        return Outcome("degraded", f"ABI {self.abi}: {lacks} are not covered; Linux 6.12 brings ABI 6")

    def _open_folder(self, ruleset: int, rights: int) -> None:
        folder = os.open(SCRATCH, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", rights & self._handled["fs"], folder)
            syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), ctypes.c_char_p(rule),
                    ctypes.c_uint32(0))
        finally:
            os.close(folder)

    def check(self, child: Child) -> str:
        """Tries to open a folder, to connect, and to signal the parent."""
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
            return "a folder could be opened"
        except OSError as error:
            if error.errno != errno.EACCES:
                return f"opening a folder: {error.strerror}"
        if self.abi >= 4:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                if probe.connect_ex(("127.0.0.1", 9)) != errno.EACCES:
                    return "TCP is not refused"
        if self.abi >= FULL_ABI:
            try:
                os.kill(child.zygote, 0)
                return "the parent can be signalled"
            except OSError as error:
                if error.errno != errno.EPERM:
                    return f"signalling the parent: {error.strerror}"
        return ""
