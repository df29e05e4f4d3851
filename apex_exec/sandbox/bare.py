"""Starts a process that receives nothing about the process that started it.

``multiprocess`` gives a spawned process its parent's authentication key, start folder, arguments and environment, and
runs the parent's main module again. All of it would stay in the memory of a zygote, even in freed blocks. Each worker
is a copy of that memory, which plugin code can read, so it must never arrive there. The daemon's side processes are
started in the same way, but they keep the environment, because database drivers and resolvers read it.

``multiprocess`` also starts a resource tracker beside the first process, and imports dill into every process. We use no
semaphores, shared memory or pickled closures, and the two cost 0.8 of the 4.5 s of CPU that a daemon's start took.
Every module imports ``multiprocess`` from here, so that dill is never loaded.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_had_dill = "dill" in sys.modules
if not _had_dill:
    sys.modules["dill"] = None  # type: ignore[assignment]  # multiprocess then uses pickle
from multiprocess import Pipe, active_children, popen_spawn_posix, process, spawn, util  # noqa: E402
from multiprocess.connection import Connection  # noqa: E402
from multiprocess.context import SpawnProcess, reduction, set_spawning_popen  # noqa: E402

if not _had_dill:
    del sys.modules["dill"]  # a program that only uses the clients may want dill

__all__ = ["BareProcess", "Connection", "Pipe", "active_children", "after_launch"]

ENDS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""The signals that a terminal, a shell or an init sends to end a whole group or tree of processes."""
CLEAN = ("import signal as s; s.signal(s.SIGCHLD, s.SIG_DFL); {} s.pthread_sigmask(s.SIG_SETMASK, ()); del s; ")
IGNORES = "[s.signal(n, s.SIG_IGN) for n in (s.SIGHUP, s.SIGINT, s.SIGTERM)];"
"""The child is started with ENDS blocked, so that no signal can end it before it ignores them. The program that started
the daemon may have blocked signals, too, or ignored SIGCHLD; our processes inherit none of that."""
MAIN = "from multiprocess.spawn import spawn_main; spawn_main(pipe_handle={})"
"""The first code that the new interpreter runs; the argument is the descriptor on which the process object arrives."""
if reduction.pickle.__name__ != "dill":  # another module may have imported multiprocess before this one
    MAIN = f"import sys; sys.modules['dill'] = None; {MAIN}"

ADDED = {"PYTHONSAFEPATH": "1"}
"""Without this option, ``sys.path[0]`` of a spawned process is the current folder, and CPython 3.13.0 asks the kernel
for that folder whenever a module lacks an attribute. The jail refuses the call, and the AttributeError becomes
``SystemError: error return without exception set`` (fixed in 3.13.1)."""
KEPT = ("PYTHON", "LD_LIBRARY_PATH", "LANG", "LC_")
"""Prefixes of the environment variables that an interpreter needs to find its libraries and its locale."""


class _Launch:
    """``waiting``: what is to be called once the main thread's launch is over; None while it launches nothing."""

    waiting: list[Callable[[], None]] | None = None


def after_launch(act: Callable[[], None]) -> None:
    """Calls ``act``, which may raise, now; or, if the main thread is just starting a process, as soon as that process
    has been sent everything. For handlers of signals: the kernel may deliver one to any other thread, and Python then
    runs its handler in the main thread, whatever that thread has blocked."""
    if _Launch.waiting is None:
        act()
    else:
        _Launch.waiting.append(act)


@contextlib.contextmanager
def _launching() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs here
        return
    waiting: list[Callable[[], None]] = []
    _Launch.waiting = waiting
    try:
        yield
    finally:
        _Launch.waiting = None
        for act in waiting:
            act()


class _Popen(popen_spawn_posix.Popen):  # type: ignore[misc]  # multiprocess ships no types
    returncode: int | None

    def _launch(self, process_obj: BareProcess) -> None:
        """As in the library, except for the data sent, the environment, the folder and the resource tracker's pipe."""
        with _launching():
            self._start(process_obj)

    def _start(self, process_obj: BareProcess) -> None:
        body = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump({"sys_path": process_obj.import_path}, body)
            reduction.dump(process_obj, body)
        finally:
            set_spawning_popen(None)
        main = CLEAN.format(IGNORES if process_obj.ignores_ends else "") + MAIN
        self.sentinel, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            environ = {name: value for name, value in os.environ.items()
                       if process_obj.keeps_environment or name.startswith(KEPT)}
            self._child = subprocess.Popen(
                [spawn.get_executable(), *util._args_from_interpreter_flags(), "-c", main.format(child_r),
                 "--multiprocessing-fork"],
                stderr=process_obj.stderr, cwd=None if process_obj.keeps_environment else "/", env={**environ, **ADDED},
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
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def terminate(self) -> None:
        """Sends SIGKILL. At the interpreter's end the library would send SIGTERM to what is left, and wait without a
        bound."""
        self.kill()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or None while the process runs; with 0 as ``flag`` it waits for the end."""
        if self.returncode is None:
            self.returncode = self._child.poll() if flag else self._child.wait()
        return self.returncode


class BareProcess(SpawnProcess):  # type: ignore[misc]  # multiprocess ships no types
    """A ``multiprocess.Process`` (spawn, daemonic) that knows its target, its arguments and the import path, and no
    more.

    The folder in which the caller was started is excluded from the import path, unless ``target`` itself is in it. With
    ``keeps_environment`` the process also has the caller's environment and current folder; then no plugin code may ever
    run in it. With ``ignores_ends`` it ignores ENDS from its first moment. ``stderr`` is a descriptor for its standard
    error; None means the caller's own.
    """

    _Popen = staticmethod(_Popen)

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], name: str, *,
                 keeps_environment: bool = False, ignores_ends: bool = False,
                 stderr: int | None = None) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)
        self.stderr = stderr
        self.ignores_ends = ignores_ends
        self.keeps_environment = keeps_environment
        top = sys.modules[target.__module__.partition(".")[0]]
        code = os.path.dirname(os.path.dirname(os.path.abspath(str(top.__file__))))
        paths = [path or process.ORIGINAL_DIR for path in sys.path]
        self.import_path = [path for path in paths if path != process.ORIGINAL_DIR or path == code]

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrives as a plain process of the library, with a configuration that contains no key."""
        return copyreg._reconstructor, (SpawnProcess, object, None), {  # type: ignore[attr-defined]  # as object does
            **self.__dict__, "_config": {"daemon": True}}
