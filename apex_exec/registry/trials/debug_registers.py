"""Sees which places of a process are executed, from outside: by the processor's debug registers, through ptrace.

Nothing in the watched process changes: no byte of its code, its memory or its descriptors. A register holds the address
of one instruction of Python's bytecode; when the process touches the address, the kernel stops it and tells this side,
and what counts is only a touch by the interpreter's own evaluation loop, told by the program counter. So the process
can neither read what is watched nor report anything: to be seen at a place it has to execute the place.

x86_64 only, with four registers a process. Blocks only where a docstring says so; one process, one thread.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import platform
import re
import signal
import struct
import sys
from collections import Counter
from functools import cache
from pathlib import Path

SLOTS = 4
_PEEKUSER, _POKEUSER, _CONT, _SEIZE, _INTERRUPT = 3, 6, 7, 0x4206, 0x4207
_EXITKILL = 0x100000
"""PTRACE_O_EXITKILL: the process dies if its watcher dies."""
_WALL = 0x40000000
_EVENT_STOP = 128
"""PTRACE_EVENT_STOP, in the status above the signal."""
_DEBUG = 848
"""offsetof(struct user, u_debugreg) on x86_64."""
_RIP = 16 * 8
_TOUCHED, _TWO_BYTES = 0b11, 0b01
"""A touch is a read or a write (this processor has no registers for reads alone) of one unit of bytecode."""
STOPS_MAX = 64
"""Stops that one look answers: a process that touches its code without end has to be stopped in time. Each further stop
is a SIGCHLD of its own, so none is forgotten."""
EVALUATOR = b"_PyEval_EvalFrameDefault"
COLD_JUMPS_MIN = 8
"""So many jumps from the loop into the middle of a nameless piece make that its cold part (seen: 378, and no other)."""
_JUMPS = re.compile(rb"(?:\xe9|\x0f[\x80-\x8f])", re.DOTALL)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result: int = _libc.ptrace(request, pid, address, data)
    number = ctypes.get_errno()
    if result == -1 and number:
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return result


class Watch:
    """One process under watch. The constructor raises OSError if this machine or user may not watch it.

    The process stands still until ``go``. ``hits`` then says what was executed.
    """

    def __init__(self, pid: int) -> None:
        if platform.machine() != "x86_64":
            raise OSError(f"no watching on {platform.machine()}")
        self.pid = pid
        self.alive = True
        self._armed: list[int] = [0] * SLOTS
        self._ranges = evaluator_ranges(pid)
        _ptrace(_SEIZE, pid, 0, _EXITKILL)
        _ptrace(_INTERRUPT, pid)
        os.waitpid(pid, _WALL)

    @property
    def free(self) -> int:
        """Returns how many registers are left."""
        return self._armed.count(0)

    def arm(self, addresses: list[int]) -> None:
        """Watches ``addresses``, at most ``free`` of them. The process must stand still."""
        for address in addresses:
            slot = self._armed.index(0)
            _ptrace(_POKEUSER, self.pid, _DEBUG + 8 * slot, address)
            self._armed[slot] = address
        self._control()

    def disarm(self, addresses: list[int]) -> None:
        """Gives the registers of ``addresses`` back. The process must stand still."""
        for address in addresses:
            self._armed[self._armed.index(address)] = 0
        self._control()

    def _control(self) -> None:
        value = 0
        for slot, address in enumerate(self._armed):
            if address:
                value |= 1 << 2 * slot | (_TOUCHED | _TWO_BYTES << 2) << 16 + 4 * slot
        _ptrace(_POKEUSER, self.pid, _DEBUG + 8 * 7, value)

    def go(self, number: int = 0) -> None:
        """Lets the process run on, and gives it the signal that it was stopped for."""
        try:
            _ptrace(_CONT, self.pid, 0, number)
        except ProcessLookupError:  # killed meanwhile; its end is waited for
            return

    def hits(self) -> list[int] | None:
        """Returns the watched addresses that were just executed; the process then stands still. Returns None if it runs
        on, has ended (``alive``), or has stopped too often to be looked at now. Never blocks."""
        for _ in range(STOPS_MAX):
            try:
                pid, status = os.waitpid(self.pid, _WALL | os.WNOHANG)
            except ChildProcessError:
                self.alive = False
                break
            if pid == 0:
                break
            if not os.WIFSTOPPED(status):
                self.alive = False
                break
            try:
                found = self._stopped(status)
            except ProcessLookupError:
                continue
            if found:
                return found
        return None

    def _stopped(self, status: int) -> list[int]:
        number = os.WSTOPSIG(status)
        if status >> 16 == _EVENT_STOP:
            self.go()
            return []
        touched = _ptrace(_PEEKUSER, self.pid, _DEBUG + 8 * 6) & 0b1111 if number == signal.SIGTRAP else 0
        if not touched:
            self.go(number)
            return []
        _ptrace(_POKEUSER, self.pid, _DEBUG + 8 * 6, 0)
        counter = _ptrace(_PEEKUSER, self.pid, _RIP)
        found = [address for slot, address in enumerate(self._armed) if touched >> slot & 1 and address]
        if not found or not any(begin <= counter <= end for begin, end in self._ranges):
            self.go()  # somebody looked at the code, or the interpreter rewrote it; nobody executed it
            return []
        return found

    def end(self) -> None:
        """Waits for the end of the process, which must have been killed. Its parent can reap it afterwards."""
        while self.alive:
            try:
                _, status = os.waitpid(self.pid, _WALL)
            except ChildProcessError:
                break
            if not os.WIFSTOPPED(status):
                break
            self.go()
        self.alive = False


# ---------------------------------------------------------------- where the evaluation loop lies
def evaluator_ranges(pid: int) -> list[tuple[int, int]]:
    """Returns the addresses of the evaluation loop's machine code in ``pid``, which runs this interpreter. Raises
    OSError."""
    file, ranges, (offset, page) = _in_file()
    known = os.stat(file)
    device = f"{os.major(known.st_dev):02x}:{os.minor(known.st_dev):02x}"
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, _, mapped, on, inode = line.split()[:5]
        if int(inode) == known.st_ino and on == device and int(mapped, 16) == offset & ~0xFFF:
            bias = int(where.partition("-")[0], 16) - (page & ~0xFFF)
            return [(begin + bias, end + bias) for begin, end in ranges]
    raise OSError(f"{file} is not mapped in process {pid}")


@cache
def _in_file() -> tuple[str, list[tuple[int, int]], tuple[int, int]]:
    """Returns (file, ranges in it by virtual address, (offset, virtual address) of the segment that holds them)."""
    files = [os.path.realpath(sys.executable)]
    with open("/proc/self/maps") as maps:
        files += sorted({line.split(None, 5)[5].strip() for line in maps if "libpython" in line})
    for file in files:
        with open(file, "rb") as opened:
            image = _Image(opened.read())
        found = image.symbol(EVALUATOR)
        if found is not None:
            begin, size = found
            return file, [(begin, begin + size), *image.cold_parts(begin, size)], image.segment(begin)
    raise OSError("this interpreter does not say where its evaluation loop is")


class _Image:
    """As much of an ELF file (64 bits, little-endian) as we need."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise OSError("not a 64-bit little-endian ELF file")
        first, count = struct.unpack_from("<Q", data, 0x20)[0], struct.unpack_from("<H", data, 0x38)[0]
        self._segments = [struct.unpack_from("<IIQQQQQQ", data, first + 56 * index) for index in range(count)]
        sections, number = struct.unpack_from("<Q", data, 0x28)[0], struct.unpack_from("<H", data, 0x3C)[0]
        self._sections = [struct.unpack_from("<IIQQQQIIQQ", data, sections + 64 * index) for index in range(number)]

    def symbol(self, name: bytes) -> tuple[int, int] | None:
        """Returns (virtual address, size) of a dynamic symbol if the file defines it, else None."""
        for section in self._sections:
            if section[1] != 11:  # SHT_DYNSYM
                continue
            begin, size, names = section[4], section[5], self._sections[section[6]][4]
            for at in range(begin, begin + size, 24):
                text, _, _, index, value, length = struct.unpack_from("<IBBHQQ", self._data, at)
                here = names + text
                if index and value and self._data[here:here + len(name) + 1] == name + b"\0":
                    return value, length
        return None

    def segment(self, address: int) -> tuple[int, int]:
        """Returns (offset in the file, virtual address) of the segment that is loaded there. Raises OSError."""
        for kind, _, offset, begin, _, size, _, _ in self._segments:
            if kind == 1 and begin <= address < begin + size:
                return offset, begin
        raise OSError("the file has nothing at that address")

    def cold_parts(self, begin: int, size: int) -> list[tuple[int, int]]:
        """Returns where the compiler put the unlikely part of a function: nameless pieces that it jumps into."""
        starts = self._function_starts()
        offset, at = self.segment(begin)
        code = self._data[begin - at + offset:begin - at + offset + size]
        into: Counter[int] = Counter()
        for jump in _JUMPS.finditer(code):
            if jump.end() + 4 > size:
                continue
            target = begin + jump.end() + 4 + struct.unpack_from("<i", code, jump.end())[0]
            index = bisect.bisect_right(starts, target) - 1
            inside = begin <= target < begin + size
            if not inside and 0 <= index < len(starts) - 1 and starts[index] != target:
                into[index] += 1
        return [(starts[index], starts[index + 1]) for index, jumps in into.items() if jumps >= COLD_JUMPS_MIN]

    def _function_starts(self) -> list[int]:
        """Returns every function's address, sorted, from the table that unwinding needs (.eh_frame_hdr)."""
        for kind, _, offset, begin, *_ in self._segments:
            if kind == 0x6474E550 and self._data[offset:offset + 4] == b"\x01\x1b\x03\x3b":
                count = struct.unpack_from("<I", self._data, offset + 8)[0]
                return [begin + struct.unpack_from("<i", self._data, offset + 12 + 8 * index)[0]
                        for index in range(count)]
        return []
