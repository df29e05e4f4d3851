"""Control groups for workers, v1 or v2: the kernel itself limits memory and CPU, if a group is writable.

::

    <the daemon's own group>/apex-exec-<pid>…/     removed at the end; those of dead daemons are swept at start
        p-<plugin>      cpu.max: outlives workers, so the share is the plugin's
            w<worker>   memory.max (v2)            (v1: memory is another tree)
        s<spare>        a spare's; the plugin's as soon as the spare is bound to it; its older one is then removed

A process never changes its group after its jail is closed: if another process moved it, the kernel would stop all forks
(we measured 2.4 ms).

The period is one second, so that a short hook never reaches the quota; the kernel's burst may not exceed the quota.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from apex_exec.core.plugin import PluginSpec

MOUNT = Path("/sys/fs/cgroup")
PREFIX = "apex-exec-"
PERIOD_US = 1_000_000
SLACK_BYTES = 9 * 1024 * 1024
"""Memory in addition to the plugin's: the interpreter's growth, and the kernel memory of an idle worker (about 1 MB).
"""
SETTLED_SECONDS = 60.0
CLOSE_SECONDS_MAX = 1.0
"""How long the shutdown waits for killed workers to leave their groups, which takes milliseconds."""


class CgroupError(Exception):
    """No group is available; the message says why."""


def _own(controller: str) -> str:
    """This process's group in the hierarchy of ``controller`` ("" for v2's). Raises CgroupError."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    raise CgroupError(f"this machine has no {controller or 'unified'} cgroup hierarchy")


class Cgroups:
    """The groups of one daemon. ``use`` distinguishes several instances in one process. Never blocks for long.

    The constructor raises CgroupError, and then leaves nothing behind.
    """

    def __init__(self, use: str = "workers", mount: Path = MOUNT) -> None:
        self._mount = mount
        self._space = f"{PREFIX}{os.stat('/proc/self/ns/pid').st_ino}-"  # a pid is unique only in its namespace
        self.name = f"{self._space}{os.getpid()}-{use}"
        self._workers: dict[int, tuple[str, Path, Path]] = {}  # worker or spare → plugin, groups of its memory and CPU
        self._lifted: dict[str, tuple[float, float]] = {}  # CPU group whose limit is lifted → the limit
        self._groups: dict[str, Path] = {}  # plugin → the group that limits its CPU
        self._throttled_before: dict[str, int] = {}  # ns, in groups that the plugin had before
        self._left: list[Path] = []
        self._limited: dict[str, tuple[float, float]] = {}
        # kept open for life: daemons in other namespaces see from the locks that this one lives
        self._locks: list[int] = []
        try:
            self.version = 2 if (mount / "cgroup.controllers").exists() else 1
            if self.version == 2:
                self._cpu = self._memory = self._delegate(mount / _own("").lstrip("/"))
            else:
                self._cpu, self._memory = self._v1("cpu"), self._v1("memory")
            self._sweep_dead()
            for root in {self._cpu, self._memory}:
                root.mkdir(exist_ok=True)
                self._locks.append(_lock(root))
                if self.version == 2:
                    _write(root / "cgroup.subtree_control", "+cpu +memory")
        except OSError as error:
            raise CgroupError(f"{error.filename}: {error.strerror}") from None

    def _v1(self, controller: str) -> Path:
        mounted = self._mount / controller
        own = mounted / _own(controller).lstrip("/")
        base = own if own.is_dir() else mounted  # in a container the path may be the host's
        if not os.access(base, os.W_OK):
            raise CgroupError(f"{base} is not writable")
        return base / self.name

    def _delegate(self, own: Path) -> Path:
        """v2: only leaves may contain processes, so the daemon moves into a leaf before it delegates controllers."""
        if not os.access(own / "cgroup.subtree_control", os.W_OK):
            raise CgroupError(f"{own} is not delegated to this user")
        if not {"cpu", "memory"} <= set((own / "cgroup.controllers").read_text().split()):
            raise CgroupError(f"{own} lacks the cpu or memory controller")
        leaf = own / "supervisor"
        leaf.mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                _write(leaf / "cgroup.procs", pid)
        _write(own / "cgroup.subtree_control", "+cpu +memory")
        return own / self.name

    # ------------------------------------------------------------------ workers
    def enter(self, worker: int, spec: PluginSpec, burst_seconds: float) -> list[str]:
        """Makes the worker's groups. Returns the files into which its jail writes the worker's pid. Raises OSError."""
        group = self._groups.setdefault(spec.id, self._cpu / f"p-{spec.id}")
        paths = self._make(worker, spec.id, group)
        self._limit_cpu(group, spec.limits.cpu_percent, burst_seconds)
        self._limit_memory(worker, spec)
        return paths

    def enter_spare(self, spare: int) -> list[str]:
        """The same for a worker without a plugin; apart from its groups it is already confined. Raises OSError."""
        return self._make(spare, "", self._cpu / f"s{-spare}")

    def _make(self, worker: int, plugin: str, group: Path) -> list[str]:
        if group in self._left:  # of a plugin that was removed and is back
            self._left.remove(group)
        group.mkdir(exist_ok=True)
        if self.version == 2:
            _write(group / "cgroup.subtree_control", "+memory")
        own = (group if self.version == 2 else self._memory) / f"w{worker}"
        own.mkdir(exist_ok=True)
        self._workers[worker] = (plugin, own, group)
        if self.version == 2:
            return [str(own / "cgroup.procs")]
        # v1 has a file for one thread that moves itself, which avoids the lock over all forks: 0.4 instead of 2.4 ms
        # (measured).
        return [str(own / "tasks"), str(group / "tasks")]

    def bind(self, spare: int, worker: int, spec: PluginSpec, burst_seconds: float) -> None:
        """Makes the spare's groups the plugin's, with its limits. Raises OSError; the groups then stay the spare's.

        Quota or burst that is left in the plugin's older group does no harm: the bucket counts all of its workers.
        """
        own = self._workers[spare][1]
        group = self._cpu / f"s{-spare}"
        self._limit_cpu(group, spec.limits.cpu_percent, burst_seconds)
        self._limit_memory(spare, spec)
        del self._workers[spare]
        self._workers[worker] = (spec.id, own, group)
        older = self._groups.get(spec.id)
        if older is not None:
            self._throttled_before[spec.id] = self.throttled_ns(spec.id)
            self._drop(older)
        self._groups[spec.id] = group

    def _limit_memory(self, worker: int, spec: PluginSpec) -> None:
        own, bound = self._workers[worker][1], str(spec.limits.memory_mb * 1024 * 1024 + SLACK_BYTES)
        if self.version == 2:
            _write(own / "memory.max", bound)
            with contextlib.suppress(OSError):  # a kernel without swap accounting
                _write(own / "memory.swap.max", "0")
        else:
            _write(own / "memory.limit_in_bytes", bound)
            with contextlib.suppress(OSError):
                _write(own / "memory.memsw.limit_in_bytes", bound)

    def _limit_cpu(self, group: Path, cpu_percent: float, burst_seconds: float) -> None:
        """Writes the limits only if they change: each write gives the group a fresh quota."""
        if self._limited.get(group.name) == (cpu_percent, burst_seconds):
            return
        self._lifted.pop(group.name, None)
        quota = max(1000, int(PERIOD_US * cpu_percent / 100))
        burst = str(min(quota, int(burst_seconds * 1e6)))
        if self.version == 2:
            _write(group / "cpu.max", f"{quota} {PERIOD_US}")
            names = ("cpu.max.burst",)
        else:
            with contextlib.suppress(OSError):  # a burst above the new quota would make the kernel refuse it
                _write(group / "cpu.cfs_burst_us", "0")
            _write(group / "cpu.cfs_period_us", str(PERIOD_US))
            try:
                _write(group / "cpu.cfs_quota_us", str(quota))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # v1 refuses a share that is larger than what the daemon's own group has, in a small container: that
                # group's quota then holds the plugin below its limit.
                _write(group / "cpu.cfs_quota_us", "-1")
            names = ("cpu.cfs_burst_us",)
        for name in names:
            with contextlib.suppress(OSError):  # Linux before 5.14 has no burst
                _write(group / name, burst)
        self._limited[group.name] = (cpu_percent, burst_seconds)

    def let_die(self, worker: int) -> None:
        """Lifts the CPU limit of a worker's group, from its SIGKILL until it has left the group.

        If a group has spent its quota, the kernel runs no process of it, not even to let it die, for up to a period:
        one second.
        """
        known = self._workers.get(worker)
        if known is None:
            return
        group = known[2]
        limit = self._limited.pop(group.name, None)
        if limit is None:
            return
        self._lifted[group.name] = limit
        with contextlib.suppress(OSError):
            if self.version == 2:
                _write(group / "cpu.max", f"max {PERIOD_US}")
            else:
                _write(group / "cpu.cfs_quota_us", "-1")

    def out_of_memory(self, worker: int) -> bool:
        """Whether the kernel killed in the worker's group for lack of memory: the evidence for MEMORY_LIMIT."""
        known = self._workers.get(worker)
        if known is None:
            return False
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError, ValueError):
            for line in (known[1] / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def throttled_ns(self, plugin: str) -> int:
        """For how long the plugin has been throttled in total."""
        before_ns, group = self._throttled_before.get(plugin, 0), self._groups.get(plugin)
        if group is None:
            return before_ns
        key, unit = ("throttled_usec", 1000) if self.version == 2 else ("throttled_time", 1)
        with contextlib.suppress(OSError, ValueError):
            for line in (group / "cpu.stat").read_text().splitlines():
                if line.startswith(key + " "):
                    return before_ns + int(line.split()[1]) * unit
        return before_ns

    def leave(self, worker: int) -> None:
        """Call this when the worker has ended. Its group is removed now, or as soon as the kernel allows it."""
        known = self._workers.pop(worker, None)
        if known is not None:
            self._left.append(known[1])
            if not known[0]:
                self._drop(known[2])
            limit = self._lifted.pop(known[2].name, None)
            if limit is not None:
                with contextlib.suppress(OSError):  # the group is gone, so no process in it has to be limited
                    self._limit_cpu(known[2], *limit)
        self.tidy()

    def forget(self, plugin: str) -> None:
        """Call this when the plugin was removed."""
        self._throttled_before.pop(plugin, None)
        group = self._groups.pop(plugin, None)
        if group is not None:
            self._drop(group)
        self.tidy()

    def _drop(self, group: Path) -> None:
        """Gives a group up: it is removed once the last process has left it."""
        self._limited.pop(group.name, None)
        self._lifted.pop(group.name, None)
        self._left.append(group)

    def tidy(self) -> None:
        """Tries again to remove groups that were in use. A dead process leaves its group a moment after its end."""
        kept = []
        for path in self._left:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                    kept.append(path)
        self._left = kept[-10_000:]

    # ------------------------------------------------------------------ the daemon's life
    def close(self) -> None:
        """Removes the daemon's groups. Blocks for at most CLOSE_SECONDS_MAX while the last workers leave them.

        A group with a process in it then remains for the next daemon's sweep.
        """
        due = time.monotonic() + CLOSE_SECONDS_MAX
        for root in {self._cpu, self._memory}:
            _remove(root)
            while root.exists() and time.monotonic() < due:
                time.sleep(0.005)
                _remove(root)
        while self._locks:
            os.close(self._locks.pop())

    def _sweep_dead(self) -> None:
        """Removes what killed daemons left, in whatever group and PID namespace they ran: a daemon that was PID 1 of
        its namespace takes the namespace along. A group with our own name was left by a daemon that had our PID before
        us."""
        for base in {self._cpu.parent, self._memory.parent}:
            for root in base.glob(f"{PREFIX}*-*-*"):
                if root.name.startswith(self._space):
                    pid = root.name.removeprefix(self._space).partition("-")[0]
                    dead = root.name == self.name or not Path("/proc", pid).exists()
                else:
                    dead = _is_abandoned(root)
                if dead:
                    _remove(root)


def _lock(root: Path) -> int:
    """A descriptor that holds the lock of the folder ``root``; the kernel releases it with the process."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # without the lock, a sweep in another namespace may remove an empty group
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _is_abandoned(root: Path) -> bool:
    """Whether nobody holds the lock of ``root``, and the folder is old enough that its owner should have locked it."""
    try:
        if time.time() - root.stat().st_mtime < SETTLED_SECONDS:
            return False
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _remove(root: Path) -> None:
    for folder, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)
