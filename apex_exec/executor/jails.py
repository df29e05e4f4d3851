"""Our side of the jail: probes this machine once, refuses to serve below ``min_level``, says what each worker gets."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from apex_exec.config import Settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import ConfigError
from apex_exec.executor.processes.runtimes import boot
from apex_exec.sandbox.cgroup import CgroupError, Cgroups
from apex_exec.sandbox.modules import check_modules
from apex_exec.sandbox.plan import Identities
from apex_exec.sandbox.probe import Findings, advice, no_proc, probe

log = logging.getLogger("apex_exec")
_NOBODY = PluginSpec("probe", "0.0.0", "", "", ())


def examine(settings: Settings) -> tuple[Findings, str]:
    """Returns what this machine can confine, and whether memory and CPU are ``sampled`` or ``enforced`` (by cgroups).

    With ``sandbox.governor = "psutil"`` no cgroup is used even if there could be one. Raises RuntimeError.
    """
    if lacking := no_proc():
        raise RuntimeError(lacking)
    cgroups = None
    if settings.sandbox.governor != "psutil":
        with contextlib.suppress(CgroupError):
            cgroups = Cgroups("probe")
    paths: list[str] = []
    try:
        if cgroups is not None:
            with contextlib.suppress(OSError):
                paths = cgroups.enter(0, _NOBODY, 0.0)
        findings = probe(settings.sandbox.waive, {"uid": 65534, "gid": 65534, "cgroup": paths})
    finally:
        if cgroups is not None:
            cgroups.close()
    in_cgroup = any(r.layer == "cgroup" and r.state == "active" for r in findings.reports)
    return findings, "enforced" if in_cgroup else "sampled"


def extra_modules_hint(settings: Settings) -> str:
    """Returns what may be at fault if a zygote cannot run: nothing else in the configuration decides what it loads."""
    named = ", ".join(settings.sandbox.extra_modules)
    return f" (sandbox.extra_modules has it load {named})" if named else ""


class Sandboxing:
    """What confines workers here (``ports.Jails``). Must be made before any thread exists. ``level`` is in force;
    ``waived`` are the layers that the operator does without. Raises ConfigError if this machine reaches too little."""

    def __init__(self, settings: Settings) -> None:
        sandbox = settings.sandbox
        check_modules(sandbox.extra_modules)
        try:
            findings, self.governor = examine(settings)
        except RuntimeError as error:
            raise ConfigError(str(error)) from None
        self.cgroups: Cgroups | None = None
        if self.governor == "enforced":
            try:
                self.cgroups = Cgroups()
            except CgroupError as error:
                raise ConfigError(f"sandbox.governor: {error}") from None
        elif sandbox.governor == "cgroup":
            raise ConfigError("sandbox.governor = cgroup, and no cgroup with memory and cpu is writable here; use auto")
        self.burst_seconds = settings.limits.cpu_burst_seconds
        self.level = findings.level or "L0"
        self.waived = findings.waived
        self.reports = findings.reports
        self.boot = boot(findings.plan, sandbox.extra_modules)
        self.extra_modules_hint = extra_modules_hint(settings)
        self._identities = Identities(*sandbox.uid_range) if os.geteuid() == 0 else None
        if findings.kill.state != "active":
            raise ConfigError(
                f"no worker could be stopped or killed here ({findings.kill.detail}), so no deadline would hold: "
                f"{advice(findings.kill)}. See `apex-exec doctor`")
        if findings.accepted_level < sandbox.min_level:
            lacking = "; ".join(f"{r.layer} is {r.state}: {r.detail} ({advice(r)})" for r in findings.reports
                                if r.state not in ("active", "waived") and advice(r))
            raise ConfigError(
                f"sandbox.min_level = {sandbox.min_level}, and this machine reaches "
                f"{findings.accepted_level or 'none'}: {lacking}. See `apex-exec doctor`")
        for report in findings.reports:
            if report.state not in ("active", "absent"):
                log.warning("sandbox layer %s is %s: %s", report.layer, report.state, report.detail)
        if self.level < "L2":
            log.warning("isolation is %s: workers are bounded, not confined; run only plugins that you trust",
                        self.level)
        else:
            log.info("isolation is %s", self.level)

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Returns what the zygote needs to know of this worker; without ``spec`` it is a spare. Raises RuntimeError if
        there is no uid or control group for it."""
        paths: list[str] = []
        if self.cgroups is not None:
            try:
                paths = (self.cgroups.enter_spare(worker) if spec is None
                         else self.cgroups.enter(worker, spec, self.burst_seconds))
            except OSError as error:
                self.cgroups.leave(worker)
                raise RuntimeError(f"no cgroup: {error.filename}: {error.strerror}") from None
        if self._identities is None:
            return {"cgroup": paths}
        uid = self._identities.take(worker)
        return {"uid": uid, "gid": uid, "cgroup": paths}

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """Gives what the spare holds to the worker, with the plugin's limits. Raises RuntimeError."""
        if self.cgroups is not None:
            try:
                self.cgroups.bind(spare, worker, spec, self.burst_seconds)
            except OSError as error:
                raise RuntimeError(f"no cgroup: {error.filename}: {error.strerror}") from None
        if self._identities is not None:
            self._identities.pass_on(spare, worker)

    def killed(self, worker: int) -> None:
        """SIGKILL was sent to the worker, so nothing may hold it back on its way to its end."""
        if self.cgroups is not None:
            self.cgroups.let_die(worker)

    def worker_gone(self, worker: int) -> None:
        """The worker is dead: its uid may be given to another worker, and its control group is removed."""
        if self.cgroups is not None:
            self.cgroups.leave(worker)
        if self._identities is not None:
            self._identities.free(worker)
