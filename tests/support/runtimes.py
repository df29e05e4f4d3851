"""The JavaScript runtimes that a host may run on."""

from __future__ import annotations

import os
import shutil

from tests.support import need

RUNTIMES: dict[str, list[str]] = {
    "node": [], "node22": [], "node24": [], "bun": [], "deno": ["run", "--allow-all", "--node-modules-dir=manual"]}
"""Program → the arguments before the file. ``.ci/lib.sh`` installs them; ``node`` is the machine's own."""
FOLDER = "APEXTEST_RUNTIMES"
"""The variable that names one more folder in which they are looked for, before PATH."""


def runtime(name: str) -> str:
    """The program of a runtime; without it the test is skipped, and fails in CI."""
    found = shutil.which(name, path=os.environ.get(FOLDER, "")) or shutil.which(name)
    need(found, f"{name} is neither in the folder {FOLDER} nor on PATH")
    return str(found)
