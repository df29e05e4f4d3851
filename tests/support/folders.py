"""Where a run of the tests puts what it makes: one folder with a short path, removed at the run's end.

Unix sockets lie in these folders, so a long ``TMPDIR`` cannot be used.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from apex_exec.common.short_folder import short_bases


def reachable(path: Path) -> bool:
    """Whether every user of this machine can read ``path`` (and can list and enter it, if it is a folder)."""
    path = Path(os.path.abspath(path))
    try:
        if not all(folder.stat().st_mode & stat.S_IXOTH for step in (path, path.resolve()) for folder in step.parents):
            return False
        wanted = stat.S_IROTH | stat.S_IXOTH if path.is_dir() else stat.S_IROTH
        return path.stat().st_mode & wanted == wanted
    except OSError:
        return False


def make_run_folder() -> Path:
    """A new folder which every user can enter if one of the usual places allows that. Raises RuntimeError if none
    of them can be written."""
    tried = []
    for base in sorted(short_bases(), key=lambda base: not reachable(Path(base))):  # stable: the first open to all
        try:
            folder = Path(tempfile.mkdtemp(prefix="apx-tests-", dir=base))
        except OSError as error:
            tried.append(f"{base}: {error.strerror}")
            continue
        folder.chmod(0o755)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        return folder
    raise RuntimeError("the tests found no temporary folder with a short path: " + "; ".join(tried))
