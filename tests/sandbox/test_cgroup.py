"""Groups of a real kernel where it lets us: memory and CPU are held, evidence is found, nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from apex_exec.catalogue.limits import Limits
from apex_exec.core.plugin import PluginSpec
from apex_exec.sandbox.cgroup import CgroupError, Cgroups
from tests.support import need
from tests.support.daemon import wait_for

ROOT = Path(__file__).parents[2]
ENTER = "import os, sys\nfor path in sys.argv[1:]:\n    open(path, 'w').write('0')\n"


def spec(memory_mb: int = 50, cpu_percent: float = 10) -> PluginSpec:
    return PluginSpec("aaa", "1.0.0", "d", "p.py", (), limits=Limits(memory_mb=memory_mb, cpu_percent=cpu_percent))


@pytest.fixture
def groups() -> Iterator[Cgroups]:
    made = None
    try:
        made = Cgroups("test")
    except CgroupError as error:
        need(False, f"no writable cgroup: {error}")
    assert made is not None
    yield made
    made.close()
    assert not made._cpu.exists() and not made._memory.exists()


def ended(child: subprocess.Popen[bytes], groups: Cgroups, worker: int) -> None:
    child.wait()
    groups.leave(worker)


def test_memory_beyond_the_group_is_death_with_evidence(groups: Cgroups) -> None:
    files = groups.enter(1, spec(memory_mb=30), 0.5)
    child = subprocess.Popen([sys.executable, "-c", ENTER + "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
                              *files])
    assert child.wait(30) == -signal.SIGKILL
    assert groups.out_of_memory(1)
    groups.leave(1)
    assert not groups.out_of_memory(1)


@pytest.mark.slow
def test_a_killed_process_need_not_wait_for_its_groups_next_period_to_die(groups: Cgroups) -> None:
    for worker in range(1, 6):
        files = groups.enter(worker, spec(cpu_percent=1), 0.0)
        child = subprocess.Popen([sys.executable, "-c", ENTER + "while True: pass", *files])
        due = time.monotonic() + 10
        before = groups.throttled_ns("aaa")
        while groups.throttled_ns("aaa") == before and time.monotonic() < due:
            time.sleep(0.02)  # it has been held back for a period, and is now in the next
        time.sleep(0.1)
        child.kill()
        groups.let_die(worker)
        begun = time.monotonic()
        ended(child, groups, worker)
        assert time.monotonic() - begun < 0.5


@pytest.mark.slow
def test_the_share_is_the_plugins_and_outlives_its_workers(groups: Cgroups) -> None:
    used = 0.0
    begun = time.monotonic()
    for worker in range(1, 5):
        files = groups.enter(worker, spec(), 0.0)
        child = subprocess.Popen([sys.executable, "-c", ENTER + "while True: pass", *files])
        time.sleep(1.0)
        child.kill()
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = -9
        used += usage.ru_utime + usage.ru_stime
        groups.leave(worker)
    assert used / (time.monotonic() - begun) < 0.25  # 10 %, one start of Python outside the group each, one period more
    assert groups.throttled_ns("aaa") > 10**9


def test_an_end_without_pressure_is_no_evidence(groups: Cgroups) -> None:
    files = groups.enter(1, spec(), 0.5)
    child = subprocess.Popen([sys.executable, "-c", ENTER + "import time; time.sleep(60)", *files])
    time.sleep(0.3)
    child.kill()
    child.wait()
    assert not groups.out_of_memory(1)
    ended(child, groups, 1)


def test_what_a_killed_daemon_left_is_swept_at_the_next_start_and_nobody_elses(groups: Cgroups) -> None:
    groups.enter(1, spec(), 0.5)
    code = ("import os, signal\nfrom apex_exec.sandbox.cgroup import Cgroups\n"
            "from apex_exec.core.plugin import PluginSpec\n"
            "made = Cgroups()\nmade.enter(1, PluginSpec('bbb', '1.0.0', 'd', 'p.py', ()), 0.5)\n"
            "print(made._cpu, made._memory, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    left = [Path(path) for path in killed.stdout.split()]
    assert len(left) == 2 and all(path.exists() for path in left)
    Cgroups("other").close()
    assert not any(path.exists() for path in left)
    assert (groups._cpu / "p-aaa").exists()


def test_what_one_left_that_was_pid_1_of_its_own_namespace_is_swept_and_a_living_one_is_not(groups: Cgroups) -> None:
    need(os.geteuid() == 0, "a PID namespace takes root")
    code = ("import sys\nfrom apex_exec.sandbox.cgroup import Cgroups\nfrom apex_exec.core.plugin import PluginSpec\n"
            "made = Cgroups()\nmade.enter(1, PluginSpec('bbb', '1.0.0', 'd', 'p.py', ()), 0.5)\n"
            "print(made._cpu, made._memory, flush=True)\nsys.stdin.read()")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        left = [Path(path) for path in child.stdout.readline().split()]
        assert len(left) == 2 and "-1-workers" in left[0].name
        inside = [sorted(path.rglob("*/")) for path in left]
        assert all(inside)
        for path in left:
            os.utime(path, (0, 0))
        Cgroups("other").close()
        assert [sorted(path.rglob("*/")) for path in left] == inside, "it lives"
        child.kill()

    def swept() -> bool:
        """Its lock goes with it, a moment after its parent's end."""
        for path in left:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (0, 0))
        Cgroups("other").close()
        return not any(path.exists() for path in left)

    wait_for(swept, 5, "the sweep")


def test_what_bears_our_name_is_left_by_one_that_had_our_pid_before_us(groups: Cgroups) -> None:
    stale = groups._cpu.parent / groups._cpu.name.replace("-test", "-again") / "p-stale"
    stale.mkdir(parents=True)
    again = Cgroups("again")
    assert again._cpu == stale.parent and again._cpu.exists() and not stale.exists()
    again.close()


def test_v2_hands_controllers_down_and_writes_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of plain files stands for a delegated v2 group, which this machine may not have."""
    own = tmp_path / "apex.service"
    own.mkdir()
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    for name, text in (("cgroup.controllers", "cpu memory pids"), ("cgroup.subtree_control", ""),
                       ("cgroup.procs", "")):
        (own / name).write_text(text)
    monkeypatch.setattr("apex_exec.sandbox.cgroup._own", lambda controller: "/apex.service")
    monkeypatch.setattr("apex_exec.sandbox.cgroup._write", lambda path, text: path.write_text(text))
    groups = Cgroups(mount=tmp_path)
    files = groups.enter(7, spec(), 0.5)
    plugin = own / groups.name / "p-aaa"
    assert groups.version == 2 and files == [str(plugin / "w7" / "cgroup.procs")]
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (plugin / "cpu.max").read_text() == "100000 1000000"
    assert (plugin / "cpu.max.burst").read_text() == "100000"
    assert int((plugin / "w7" / "memory.max").read_text()) == 59 * 2**20
    (plugin / "w7" / "memory.events").write_text("low 0\noom_kill 1\n")
    (plugin / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 1500\n")
    assert groups.out_of_memory(7) and groups.throttled_ns("aaa") == 1_500_000
    groups.let_die(7)
    assert (plugin / "cpu.max").read_text() == "max 1000000"
    groups.leave(7)
    assert (plugin / "cpu.max").read_text() == "100000 1000000", "the plugin's next worker is limited again"
    spare = groups.enter_spare(-3)
    assert spare == [str(own / groups.name / "s3" / "w-3" / "cgroup.procs")]
    groups.bind(-3, 8, spec(memory_mb=20), 0.5)
    assert (own / groups.name / "s3" / "cpu.max").read_text() == "100000 1000000"
    assert int((own / groups.name / "s3" / "w-3" / "memory.max").read_text()) == 29 * 2**20
    (own / groups.name / "s3" / "cpu.stat").write_text("throttled_usec 500\n")
    assert groups.throttled_ns("aaa") == 2_000_000, "what the older group held back is not forgotten"


def test_a_plugin_may_have_a_larger_share_than_the_daemons_own_group_which_then_holds_it(groups: Cgroups) -> None:
    need(groups.version == 1, "v2 lets a group ask for more than the one above it has")
    small = Path(groups.enter(1, spec(cpu_percent=5), 0.0)[1]).parent.parent
    (small / "cpu.cfs_period_us").write_text("100000")
    (small / "cpu.cfs_quota_us").write_text("20000")
    files = groups.enter(2, msgspec.structs.replace(spec(cpu_percent=100), id="bbb"), 0.5)
    child = subprocess.Popen([sys.executable, "-c", ENTER + "while True: pass", *files])
    time.sleep(1.5)
    used = psutil.Process(child.pid).cpu_times()
    child.kill()
    groups.let_die(2)
    ended(child, groups, 2)
    groups.leave(1)
    assert used.user + used.system < 0.9
