"""One registry operation in a process that kills itself at a named point: ``FOLDER URL OPERATION POINT``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bundle import pack
from tests.registry.conftest import Stage
from tests.support.bundles import bundle


def main() -> None:
    """Ends by SIGKILL at the point, or prints ``done``."""
    folder, url, operation, point = sys.argv[1:]

    def at_point(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    stage = Stage(Path(folder), url)
    stage.now_ns += 1_000_000_000
    stage.change(at_point=at_point)
    stage.change(blobs=BlobStore(Path(folder) / "bundles", at_point=at_point))
    if operation == "upgrade":
        stage.run("plugin.upgrade", bundle=pack(bundle("new", version="1.4.0")))
    elif operation == "install":
        stage.install(bundle(id="fresh"))
    else:
        stage.run(f"plugin.{operation}", id="sample")
    print("done")


if __name__ == "__main__":
    main()
