"""Starts a process that is told nothing of who started it: the zygotes, whose memory plugin code can read.

``multiprocess`` hands a spawned process its parent's authentication key, start folder, arguments and environment, and
runs the parent's main module again. All of it would stay in the zygote's memory, in freed blocks too, and each worker
is a copy of that; so it must never arrive there.
"""

from __future__ import annotations

import copyreg
import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from multiprocess import popen_spawn_posix, process, spawn, util
from multiprocess.context import SpawnProcess, reduction, set_spawning_popen

ADDED = {"PYTHONSAFEPATH": "1"}
"""Without it ``sys.path[0]`` of a spawned process is the current folder, and CPython 3.13.0 asks the kernel for that
folder whenever a module lacks an attribute; the jail refuses the call, and the AttributeError becomes ``SystemError:
error return without exception set`` (mended in 3.13.1)."""
KEPT = ("PYTHON", "LD_LIBRARY_PATH", "LANG", "LC_")
"""What names of the environment begin with that an interpreter needs to find its libraries and its locale."""


class _Popen(popen_spawn_posix.Popen):  # type: ignore[misc]  # multiprocess ships no types
    returncode: int | None

    def _launch(self, process_obj: BareProcess) -> None:
        """As the library's own, but for what is sent, the environment, the folder and the resource tracker's pipe."""
        body = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump({"sys_path": process_obj.import_path}, body)
            reduction.dump(process_obj, body)
        finally:
            set_spawning_popen(None)
        self.sentinel, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        try:
            self._child = subprocess.Popen(
                spawn.get_command_line(pipe_handle=child_r), executable=spawn.get_executable(), cwd="/",
                env={**{name: value for name, value in os.environ.items() if name.startswith(KEPT)}, **ADDED},
                pass_fds=[*self._fds, child_r, child_w])
            self.pid = self._child.pid
            os.close(child_r)
            child_r = -1
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(body.getbuffer())
        finally:
            self.finalizer = util.Finalize(self, util.close_fds, (self.sentinel, parent_w))
            for fd in (child_r, child_w):
                if fd >= 0:
                    os.close(fd)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or None while it runs; 0 as ``flag`` waits for it."""
        if self.returncode is None:
            self.returncode = self._child.poll() if flag else self._child.wait()
        return self.returncode


class BareProcess(SpawnProcess):  # type: ignore[misc]  # multiprocess ships no types
    """A ``multiprocess.Process`` (spawn, daemonic) that knows its target, its arguments and where code is, and no more.

    The folder that the caller was started in is left out of the import path unless ``target`` itself lies there.
    """

    _Popen = staticmethod(_Popen)

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], name: str) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)
        top = sys.modules[target.__module__.partition(".")[0]]
        code = os.path.dirname(os.path.dirname(os.path.abspath(str(top.__file__))))
        paths = [path or process.ORIGINAL_DIR for path in sys.path]
        self.import_path = [path for path in paths if path != process.ORIGINAL_DIR or path == code]

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrives as a plain process of the library, with a configuration that holds no key."""
        return copyreg._reconstructor, (SpawnProcess, object, None), {  # type: ignore[attr-defined]  # as object does
            **self.__dict__, "_config": {"daemon": True}}
