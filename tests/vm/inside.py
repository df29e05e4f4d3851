"""Runs inside the machine that ``tests/vm/run`` boots: each step as root, as a service, as a user; reports on ttyS1."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

BIN, SOURCE, WORK = "/opt/apex/bin", Path("/opt/src"), Path("/run/steps")
USER = "11111111-2222-4333-8444-555555555555"
GOVERNOR = ["tests/executor/test_governing.py", "tests/executor/test_governing_alone.py",
            "tests/sandbox/test_cgroup.py"]
GROUP = "/sys/fs/cgroup/system.slice/apex-exec.service"
DELEGATED = ["-p", "Delegate=cpu memory pids", "-p", "TasksMax=8192", "-p", "LimitNOFILE=65536"]
"""What the shipped unit asks for."""
WORDS = dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)
ONLY, SCALE = set(filter(None, WORDS.get("apex.only", "").split(","))), float(WORDS.get("apex.scale", "1"))
WAYS: dict[str, list[str]] = {
    "root": [],  # as the steps' own unit: root without a delegated group
    "service": ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", *DELEGATED, f"--working-directory={SOURCE}"],
    "user": ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", *DELEGATED, "--uid=tester",
             f"--working-directory={SOURCE}", "-p", "Environment=HOME=/home/tester"],
}
out = open("/dev/ttyS1", "w")  # noqa: SIM115 - open to the end


def say(**row: Any) -> None:
    """One line for the outside."""
    print(json.dumps(row), file=out, flush=True)


def run(who: str, command: list[str], seconds: float) -> tuple[int, str, float]:
    """(status, output, seconds); status 124 after the time limit."""
    begun = time.monotonic()
    limit = seconds * SCALE
    environment = ["env", f"PATH={BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1"]
    try:
        done = subprocess.run([*WAYS[who], *environment, *command], cwd=SOURCE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit, check=False)
        return done.returncode, done.stdout.decode("utf-8", "replace"), time.monotonic() - begun
    except subprocess.TimeoutExpired as error:
        return 124, (error.stdout or b"").decode("utf-8", "replace"), time.monotonic() - begun


def command(who: str, step: str, words: list[str], seconds: float) -> str:
    """A step that is one command; its output."""
    status, output, took = run(who, words, seconds)
    say(step=step, who=who, level=level_of(who), passed=int(status == 0), failed=int(status != 0),
        seconds=round(took, 1), log=output[-4000:] if status else "")
    return output


def tests(who: str, step: str, words: list[str], seconds: float) -> None:
    """A step that is a run of pytest."""
    report = WORK / f"{who}-{step}.xml"
    status, output, took = run(who, ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout",
                                     str(int(300 * SCALE)), f"--junitxml={report}", *words], seconds)
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if report.exists():
        suite = ElementTree.parse(report).getroot().find("testsuite")
        counts = {name: int(suite.get(name, 0)) if suite is not None else 0 for name in counts}
    failed = counts["failures"] + counts["errors"] + int(status not in (0, 1, 5))
    say(step=step, who=who, level=level_of(who), passed=counts["tests"] - failed - counts["skipped"], failed=failed,
        skipped=counts["skipped"], seconds=round(took, 1), log=output[-12000:] if failed else "")


_levels: dict[str, str] = {}


def level_of(who: str) -> str:
    """The level that doctor gives this way of running; the first to ask reports the step."""
    if who not in _levels:
        status, output, took = run(who, ["apex-exec", "doctor", "--json"], 60)
        try:
            _levels[who] = str(json.loads(output[output.index("{"):])["level"])
        except (ValueError, KeyError):
            _levels[who] = "?"
        say(step="doctor", who=who, level=_levels[who], passed=int(status == 0), failed=int(status != 0),
            seconds=round(took, 1), log=output[-4000:] if status else "")
    return _levels[who]


def shipped_unit() -> None:
    """The unit of `deploy systemd`, as it is: it starts, serves, governs, reloads and stops."""
    begun, log = time.monotonic(), []
    shutil.copy(SOURCE / "apex_exec/deploy/apex-exec.service", "/etc/systemd/system/apex-exec.service")
    Path("/usr/bin/apex-exec").symlink_to(f"{BIN}/apex-exec")
    Path("/etc/apex-exec.toml").write_text(
        'runtime_dir = "/run/apex-exec"\nstate_dir = "/var/lib/apex-exec"\n'
        f'plugins_dir = "{SOURCE}/apex_exec/examples/plugins"\n')
    invoke = ["apex-exec", "invoke", "hello-world", "onDashboardLoad", "--user", USER, "--payload",
              '{"dashboardId": "main"}', "--config", "/etc/apex-exec.toml", "--deadline-ms", "30000"]
    passed = failed = 0
    for words in (["systemctl", "daemon-reload"], ["systemctl", "start", "apex-exec"], invoke,
                  ["systemctl", "reload", "apex-exec"], invoke,
                  ["sh", "-c", f"find {GROUP} -name cpu.max | xargs grep -l 100000"],
                  ["apex-exec", "status", "--config", "/etc/apex-exec.toml"], ["systemctl", "stop", "apex-exec"],
                  ["sh", "-c", f"! test -e {GROUP}"]):
        status, output, _ = run("root", words, 90)
        passed, failed = passed + int(status == 0), failed + int(status != 0)
        log.append(f"$ {' '.join(words)} → {status}\n{output[-1500:]}")
    if failed:
        log.append(run("root", ["journalctl", "-u", "apex-exec", "--no-pager", "-n", "40"], 30)[1])
    say(step="unit", who="service", level=level_of("service"), passed=passed, failed=failed,
        seconds=round(time.monotonic() - begun, 1), log="\n".join(log)[-8000:] if failed else "")


def main() -> None:
    """Every step in turn; one that fails does not keep the others from running."""
    WORK.mkdir(exist_ok=True)
    WORK.chmod(0o777)
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout.split()[1]
    cgroup = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    say(step="facts", who="-", kernel=platform.release(), systemd=version, cgroup=cgroup,
        python=platform.python_version(), cpus=os.cpu_count())

    def wanted(step: str) -> bool:
        return not ONLY or step in ONLY

    for who in WAYS:
        level_of(who)
    for who in WAYS:
        if wanted("demo"):
            command(who, "demo", ["apex-exec", "demo"], 120)
        if wanted("governor"):
            tests(who, "governor", GOVERNOR, 600)
        if wanted("proof"):
            tests(who, "proof", ["tests/market/test_proof.py"], 600)
    if wanted("unit"):
        shipped_unit()
    if wanted("attack"):  # the matrix has both users in it, so it is run by root
        for who in ("root", "service"):
            tests(who, "attack", ["tests/attack"], 1200)
    say(step="end", who="-")


if __name__ == "__main__":
    main()
