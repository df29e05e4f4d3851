"""The zygote: one single-threaded process that has the standard library loaded, and forks workers on request.

Its control socket carries MessagePack with attached descriptors, never pickles. It opens each child's pidfd before it
may reap the child, so that the supervisor can always kill exactly that process. It exits when the supervisor does.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from workers.jail import Jail
from workers.jail.base import fork
from workers.jail.env import forget_surroundings
from workers.runtime import child
from workers.runtime.interface import Language, Languages, Unavailable
from workers.wire import Exited, Fork, Forked, ForkFailed, Kill, ToZygote, ZygoteReady

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MESSAGE_BYTES_MAX = 65536
PR_SET_PDEATHSIG = 1
FORK_FDS = 2

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ToZygote).decode


Become = Callable[[Jail, dict[str, Any], tuple[int, int]], None]
"""What a forked child does with the jail, the worker's map and its descriptors. It does not return."""


def main(control: Connection, boot: dict[str, Any], become: Become = child.run) -> None:
    """The target of the spawned process. ``boot``: the module lists ``preload hidden refused``, ``languages`` (name →
    suffixes and module, in the order in which they are prepared), ``jail``, ``death_fd``,
    and ``nice`` if the caller has a niceness that workers must not inherit."""
    supervisor = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(0)
    if "nice" in boot and os.getpriority(os.PRIO_PROCESS, 0) < boot["nice"]:
        os.setpriority(os.PRIO_PROCESS, 0, boot["nice"])
    for number in child.IGNORED:  # the parent has already done this, except in tests
        signal.signal(number, signal.SIG_IGN)
    lacking = _prepare(boot)
    jail = Jail(boot["jail"])
    forget_surroundings()
    if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
        sys.exit("the zygote has more than one thread; forking would not be safe")
    gc.collect()
    gc.freeze()
    # A full collection waits until what is new is a quarter of what the last one left. This one leaves nothing, so a
    # worker need not fill as much memory as all that is frozen here before its own cycles are freed.
    gc.collect()
    link = socket.socket(fileno=os.dup(control.fileno()))
    link.setblocking(True)
    control.close()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        link.send(_encode(ZygoteReady(os.getpid(), len(sys.modules), lacking)))
    except OSError:
        os._exit(0)  # the supervisor has exited meanwhile
    _loop(link, wake_read, boot["death_fd"].fileno(), jail, become)


def _prepare(boot: dict[str, Any]) -> dict[str, str]:
    """Loads what each language needs. Returns name → why, for those that this machine cannot run."""
    lacking = {}
    for name, (suffixes, module) in boot["languages"].items():
        why = ""
        try:
            runtime = importlib.import_module(module)
            runtime.prepare(boot)
        except Unavailable as error:
            lacking[name] = why = str(error)
        Languages.known[name] = Language(tuple(suffixes), runtime.make, why)
    return lacking


def _loop(link: socket.socket, wake_read: int, death_fd: int, jail: Jail, become: Become) -> None:
    workers: dict[int, int] = {}
    poll = select.poll()
    for fd in (link.fileno(), wake_read, death_fd):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == death_fd:
                os._exit(0)
            elif fd == wake_read:
                os.read(wake_read, 4096)
                _reap(link, workers)
            else:
                data, ancillary, _, _ = link.recvmsg(MESSAGE_BYTES_MAX, socket.CMSG_SPACE(3 * 4))
                if not data:
                    os._exit(0)
                fds = array.array("i")
                for _, _, raw in ancillary:
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                message = _decode(data)
                if isinstance(message, Fork):
                    _fork(link, message, fds, workers, lambda given, ends: become(jail, given, ends))
                elif isinstance(message, Kill):
                    _kill(message.worker, workers)
                else:
                    os._exit(0)


def _fork(link: socket.socket, message: Fork, fds: array.array[int], workers: dict[int, int],
          become: Callable[[dict[str, Any], tuple[int, int]], None]) -> None:
    if len(fds) < FORK_FDS:  # this process is out of descriptors (EMFILE), and the kernel dropped those beyond
        _close(fds)
        link.send(_encode(ForkFailed(message.worker, errno.EMFILE)))
        return
    try:
        pid = fork()
    except OSError as error:
        _close(fds)
        link.send(_encode(ForkFailed(message.worker, error.errno or errno.EAGAIN)))
        return
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            become(message.jail, (fds[0], fds[1]))
        finally:
            os._exit(72)
    _close(fds)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:  # without a pidfd the worker could not be killed at its deadline, so it must not run
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        link.send(_encode(ForkFailed(message.worker, error.errno or errno.EMFILE)))
        return
    workers[pid] = message.worker
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
    link.sendmsg([_encode(Forked(message.worker, pid))], rights)
    os.close(pidfd)


def _kill(worker: int, workers: dict[int, int]) -> None:
    for pid, number in workers.items():
        if number == worker:  # the child is not reaped yet, so its pid cannot be another process's
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _close(fds: array.array[int]) -> None:
    for fd in fds:
        os.close(fd)


def _reap(link: socket.socket, workers: dict[int, int]) -> None:
    while workers:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        worker = workers.pop(pid, None)
        if worker is not None:
            link.send(_encode(Exited(worker, pid, status, int(usage.ru_utime * 1e9), int(usage.ru_stime * 1e9),
                                     usage.ru_maxrss)))
