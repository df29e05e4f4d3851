"""Temporary folders in which sockets lie.

The kernel takes 107 bytes of a socket's path, so a long ``TMPDIR`` cannot hold them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

BASE_BYTES_MAX = 40
"""The longest path of a folder below which a daemon's sockets fit, whatever the folders between are called."""
_USUAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")


def short_bases() -> Iterator[str]:
    """Folders with a short path in which temporary ones may be made, the best first; whether they can be written is not
    known."""
    for base in dict.fromkeys((tempfile.gettempdir(), *_USUAL)):
        if len(os.fsencode(base)) <= BASE_BYTES_MAX:
            yield base


def short_base() -> str | None:
    """The ``dir`` for ``tempfile``'s functions: a folder with a short path that can be written; None, which is
    ``tempfile``'s own choice, if there is none."""
    return next((base for base in short_bases() if os.access(base, os.W_OK | os.X_OK)), None)
