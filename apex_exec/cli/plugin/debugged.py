"""The daemon of ``plugin debug``: ``python -m apex_exec.cli.plugin.debugged PORT DIR serve …``.

It is the daemon itself with another zygote. No configuration leads here: a daemon that is started in any other way has
no way to run a plugin under a debugger.
"""

from __future__ import annotations

import ctypes
import signal
import sys

from apex_exec.cli.run import main as run
from apex_exec.executor.processes.zygote_link import ZygoteLink
from workers.debug.start import DebugZygote

PR_SET_PDEATHSIG = 1


def main() -> None:
    """The arguments behind the folder are those of `apex-exec`. The daemon ends in order when the command that started
    it ends, however that was ended: nothing unjailed may stay behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    port, folder, *words = sys.argv[1:]
    ZygoteLink.target = DebugZygote(int(port), folder, [path for path in sys.path if path])
    run(words)


if __name__ == "__main__":
    main()
