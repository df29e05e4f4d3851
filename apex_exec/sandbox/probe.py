"""Finds out what this machine can enforce, by trying it in short-lived children and never by guessing from versions.

First every layer is tried alone. Then the resulting plan is applied as a worker would apply it, until it holds: a layer
that works alone but not in the sequence (a user namespace that may be made, but not mounted in) counts as absent.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from apex_exec.sandbox.bare import BareProcess, Pipe
from apex_exec.sandbox.plan import KILL, LAYERS, level_of, make_plan
from workers.jail import trial
from workers.wire import LayerReport

_REPORTS = msgspec.msgpack.Decoder(list[LayerReport])
ANSWER_SECONDS_MAX = 20
FILES_MIN = 128
"""The zygote holds namespaces at descriptors from 100 on (``workers.jail.base.PLACE_FDS``), and needs some more."""


class Findings:
    """The result for each layer, the level that follows, and the plan that requires exactly that of each worker."""

    def __init__(self, reports: list[LayerReport], kill: LayerReport, waived: list[str],
                 scratch: bool = False) -> None:
        self.reports = [*reports, kill]
        self.kill = kill
        self.waived = waived
        self.plan = make_plan(reports, waived, scratch=scratch)
        states = {report.layer: report.state for report in reports}
        can_kill = kill.state == "active"
        self.level = level_of(states) if can_kill else ""
        self.accepted_level = level_of(states, waived) if can_kill else ""
        """``level`` with the waived layers counted as present; it is compared with min_level."""


def probe(waive: Iterable[str] = (), worker: dict[str, Any] | None = None, *, scratch: bool = False) -> Findings:
    """Tries this machine; blocks for about a fifth of a second. ``worker`` is the map that a worker would get.
    ``scratch`` is for a bundle's tests, which have a temporary folder.

    Must be called before any thread exists, because it spawns a process that forks. Raises RuntimeError if the trial
    itself cannot run; the message is one line that says why, and what to do.
    """
    if lacking := no_proc() or _closed_to_this_user() or _too_few_files():
        raise RuntimeError(lacking)
    waived = [name for name in LAYERS if name in set(waive)]
    worker = worker or {"uid": 65534, "gid": 65534, "cgroup": []}
    ours, theirs = Pipe()
    process = BareProcess(trial.main, (theirs,), "apex-exec-probe", ignores_ends=True)
    process.start()
    theirs.close()
    try:
        return Findings(*_settle(ours, waived, worker, scratch), waived, scratch)
    except (EOFError, OSError) as error:
        process.join(1)
        raise RuntimeError("the sandbox could not be tested: its process "
                           + (f"ended with {process.exitcode}" if process.exitcode is not None else "gave no answer")
                           + f" ({type(error).__name__}: {error})") from None
    finally:
        ours.close()
        process.join(2)


def no_proc() -> str:
    """The error message if the kernel's view of processes is not mounted; "" if it is."""
    return "" if os.path.isdir("/proc/self/task") else (
        "/proc is not mounted, but the daemon needs it to watch its processes: "
        "mount -t proc proc /proc")


def _closed_to_this_user() -> str:
    """What this user may not execute or read among the files from which every process of the daemon is started; "" if
    nothing.

    The kernel checks this at each start: a process that gave up root may run an interpreter that it cannot start again.
    """
    for path, right, does in ((sys.executable, os.X_OK, "execute the interpreter"), (__file__, os.R_OK, "read")):
        if path and not os.access(path, right, effective_ids=True):
            return (f"uid {os.geteuid()} cannot {does} {path}, which the daemon starts its processes from: install "
                    "apex-exec where this user can read it (python3 -m venv /opt/apex-exec), not in a private folder")
    return ""


def _too_few_files() -> str:
    """The error message if a process may open fewer files than the jail needs; "" if it may open enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_MIN:
        return (f"a process may open only {hard} files here (RLIMIT_NOFILE), but the jail needs {FILES_MIN}: "
                "ulimit -n 1024, or LimitNOFILE=1024 in the unit")
    if soft != resource.RLIM_INFINITY and soft < FILES_MIN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MIN, hard))
    return ""


def _settle(link: Any, waived: list[str], worker: dict[str, Any],
            scratch: bool) -> tuple[list[LayerReport], LayerReport]:
    """The result for each layer, and whether the child that went through them could be killed."""
    kill = LayerReport(KILL, "absent")

    def outcome(reports: Iterable[LayerReport] | None) -> dict[str, LayerReport]:
        nonlocal kill
        plan = make_plan(reports, waived, scratch=scratch)
        found = {report.layer: report for report in _try(link, plan, worker)}
        kill = found.pop(KILL)
        return found

    known = outcome(None)
    while len(known) < len(LAYERS):  # the sequence ended early, so that layer is not available
        known.update(outcome(r for r in known.values() if r.state in ("absent", "lied")))
    for _ in LAYERS:
        confirmed = outcome(known.values())
        if len(confirmed) == len(LAYERS):
            return [confirmed[name] for name in LAYERS], kill
        known.update(confirmed)
    raise OSError("the layers do not settle")


def _try(link: Any, plan: dict[str, Any], worker: dict[str, Any]) -> list[LayerReport]:
    link.send_bytes(msgspec.msgpack.encode([plan, worker]))
    if not link.poll(ANSWER_SECONDS_MAX):
        raise OSError("no answer")
    return _REPORTS.decode(link.recv_bytes())


def advice(report: LayerReport) -> str:
    """What an operator can change if ``report`` is not ``active``; "" if there is nothing to say."""
    if report.state == "active":
        return ""
    root = os.geteuid() == 0
    return {
        "cgroup": "run the daemon where a cgroup (v2, or v1 memory and cpu) is writable: systemd Delegate=yes, or root",
        "namespaces": ("give the daemon CAP_SYS_ADMIN and CAP_SYS_CHROOT, or run it unprivileged where user namespaces "
                       "are allowed" if root else
                       "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
                       "kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile), or run as root"),
        "identity": "give the daemon CAP_SETUID and CAP_SETGID, and a sandbox.uid_range that is mapped here" if root
                    else "run the daemon as root: each worker then has a uid of its own",
        "landlock": "Linux 6.12 with landlock among its lsm= has all of it; 5.13 the least. To do without it by name: "
                    'sandbox.waive = ["landlock"]',
        "seccomp": "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
        KILL: "allow pidfd_open and pidfd_send_signal (Linux 5.3; in a container, a seccomp profile that knows them)"
              + (", and give the daemon CAP_KILL: each worker has a uid of its own" if root else ""),
    }.get(report.layer, "")
