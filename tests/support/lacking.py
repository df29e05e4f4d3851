"""A machine that lacks something: ``PYTHONPATH=. python3 tests/support/lacking.py unshare setns -- command …``.

Executes the command with a seccomp filter in which the named system calls answer ENOSYS, as on a kernel without them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from apex_exec.sandbox import bpf

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def main() -> None:
    """Never returns."""
    names, command = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
    numbers = bpf.numbers(os.uname().machine)
    steps = [(LOAD, 0, 0, 0)]
    for name in names:
        steps += [(JUMP_IF_EQUAL, 0, 1, numbers[name]), (RETURN, 0, 0, bpf.RET_ERRNO | errno.ENOSYS)]
    code = bpf.Program([*steps, (RETURN, 0, 0, bpf.RET_ALLOW)], []).packed()
    buffer = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*call) != 0:
            sys.exit(f"lacking: {os.strerror(ctypes.get_errno())}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
