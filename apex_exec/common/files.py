"""Writing a file so that a crash leaves the old content or the new one, and nothing in between. Every call blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

TEMPORARY_PREFIX = ".new-"
"""The name of a file that was not finished begins with this; a folder's owner may remove such files at its start."""


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, only_writer: bool = False, sync_folder: bool = True,
                 at_point: Callable[[], None] = lambda: None) -> None:
    """Puts ``data`` at ``path`` in one step: a reader of ``path`` sees the old file or the new one, even after a crash.

    The content is on the disk before the name changes. With ``sync_folder`` the name is on the disk too when this
    returns; without it a power cut may bring the old file back. ``mode`` is the new file's, less the umask.
    ``only_writer`` promises that nothing else writes ``path`` meanwhile: the temporary file then has a name of its own
    (``<name>.new``), so that a process that is killed every second leaves one such file and not one for each time.
    ``at_point`` is called before the name changes: tests crash there. Raises OSError, and then removes what it wrote.
    """
    temporary = path.with_name(f"{path.name}.new" if only_writer else f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    if only_writer:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    try:
        create_file(temporary, data, mode)
        at_point()
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync_folder:
        sync(path.parent)


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Makes ``path``, which must not exist, with ``data`` on the disk when this returns.

    Never follows a link and never overwrites. Raises OSError (FileExistsError if there is such a file), and then leaves
    no half of a file.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Returns when the file ``path``, or what the folder ``path`` lists, is on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
