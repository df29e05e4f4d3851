"""The zygote of `apex-exec plugin debug`: its children are new interpreters, in which a debugger can be loaded.

A fork of the usual zygote could not have one: it has no threads, no files and no environment. The messages are the
same, so the supervisor sees a worker like any other.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from workers.jail import Jail


class DebugZygote:
    """The target of the spawned process. ``folder`` is the author's source, ``path`` where the debugger is imported
    from, and ``port`` where it listens."""

    def __init__(self, port: int, folder: str, path: list[str]) -> None:
        self.port = port
        self.folder = folder
        self.path = path

    def __call__(self, control: Connection, boot: dict[str, Any]) -> None:
        """Runs the zygote, with the arguments of ``workers.runtime.zygote.main``."""
        import msgspec

        from workers.runtime import zygote

        kept = {key: boot[key] for key in ("preload", "hidden", "refused", "withheld", "jail")}
        given = msgspec.msgpack.encode({**kept, "port": self.port, "folder": self.folder, "path": self.path})

        def become(_jail: Jail, _worker: dict[str, Any], fds: tuple[int, int]) -> None:
            """The forked child: it becomes another program. ``given`` is too long for an argument."""
            number = os.memfd_create("given", 0)
            os.write(number, given)
            for fd in fds:
                os.set_inheritable(fd, True)
            words = [sys.executable, "-m", "workers.debug.worker", *map(str, (number, *fds, os.getppid()))]
            os.execve(sys.executable, words, {"PYTHONPATH": os.pathsep.join(self.path), "PYTHONSAFEPATH": "1"})

        zygote.main(control, boot, become)
