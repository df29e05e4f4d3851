"""What the tests share: real daemons, real servers, and a plain word where something they need is missing."""

from __future__ import annotations

import ctypes
import os

import pytest

PYTHONS = "APEX_EXEC_PYTHONS"
"""The variable that names interpreters, separated by colons, for the tests that try each version."""
RUN_FOLDER = "APEXTEST_FOLDER"
"""The variable that names the run's folder (``tests.support.folders``) to every process of the run."""


def need(condition: object, reason: str) -> None:
    """Skips the test where ``condition`` does not hold; fails it in CI, where everything must be there."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)


def has_namespaces() -> bool:
    """Whether this process may make a mount namespace, as a container's profile or a kernel may refuse."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(0x00020000) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def has_landlock() -> bool:
    """Whether this kernel has Landlock, without which no machine reaches L2."""
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint32(1))) > 0
