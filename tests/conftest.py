"""What every run of the tests shares: its folder, its surroundings, which tests run in one process, its last words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attack import campaign, neighbours
from tests.support import PYTHONS, RUN_FOLDER, has_landlock
from tests.support.folders import make_run_folder
from tests.support.postgres import own_postgres, postgres

__all__ = ["own_postgres", "postgres"]

KINDS = {
    "slow": ("long matrices, random histories, soaks and benchmarks' own tests", "python -m pytest -q -m slow"),
    "system": ("real servers and other programs: PostgreSQL, Prometheus, Node, systemd, other interpreters",
               "python -m pytest -q -m system"),
}
"""Marker -> (what the tests are, the command that runs them). ``pyproject.toml`` leaves both out by default."""
FAST = ("core", "wire", "docs", "daemon/test_unprivileged.py")
"""Folders and files whose tests are ``fast``; with ``-m fast`` nothing else is even read."""
WORKERS_MAX = 4
"""More would not help: two or three tests keep a core busy, and the machine's other tests need quiet."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background of a shell, where ctrl-C is ignored; children inherit that, and tests send them one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the run's folder and gives the run surroundings that do not depend on who started it."""
    with contextlib.suppress(ImportError):  # the tests of other interpreters have pytest alone
        import hypothesis

        # Other work on the machine makes no example wrong.
        hypothesis.settings.register_profile("apex-exec", deadline=None)
        hypothesis.settings.load_profile("apex-exec")
    os.umask(0o022)  # some tests hand files to other users
    for name in [name for name in os.environ if name.startswith("APEX_EXEC_") and name != PYTHONS]:
        del os.environ[name]  # the daemons that are tested would take it for their configuration
    if not has_landlock():
        os.environ["APEX_EXEC_SANDBOX__MIN_LEVEL"] = "L0"  # daemons would refuse to serve; tests of walls are skipped
    if not hasattr(config, "workerinput"):
        folder = make_run_folder()
        os.environ[RUN_FOLDER] = str(folder)
        if config.option.basetemp is None:
            config.option.basetemp = str(folder / "pytest")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) or not os.access(Path(__file__).parent, os.W_OK):
        # Hundreds of daemons are started: each would compile everything anew.
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(os.environ[RUN_FOLDER]) / "compiled")
    os.environ["TMPDIR"] = str(Path(os.environ[RUN_FOLDER]) / "tmp")
    tempfile.tempdir = None  # it may have been asked for already
    config.stash[_SUMMARY] = Counter()
    config.option.loadscopereorder = False  # files run in the order in which pytest_collection_modifyitems puts them


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the run's folder, whatever the tests have left in it."""
    if not hasattr(config, "workerinput") and (folder := os.environ.pop(RUN_FOLDER, None)):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many tests run beside each other, where nothing else is asked for with ``-n``."""
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS_MAX)


# What is left out of a run, and why.

_SUMMARY = pytest.StashKey[Counter[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks whole folders as fast, later cases of long tests as slow, and counts what ``-m`` will leave out."""
    cases: Counter[str] = Counter()
    now = time.time()
    for item in items:
        if any(abs(int(number) - now) < 86_400 for number in re.findall(r"(?<!\d)\d{10}(?!\d)", item.nodeid)):
            # two processes would collect different tests
            raise pytest.UsageError(f"{item.nodeid} has the time of its collection in its name; give the case an id")
        if mark := item.get_closest_marker("slow_after"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > mark.args[0]:
                item.add_marker("slow")
        kinds = {mark.name for mark in item.iter_markers()} & KINDS.keys()
        if is_system(item):
            item.add_marker("system")
            kinds = {"system"}
        if not kinds and is_fast(item.path):
            item.add_marker("fast")
        if kinds and config.option.markexpr == DEFAULT:
            config.stash[_SUMMARY][min(kinds)] += 1
    if hasattr(config, "workerinput"):
        # A file of few tests has long ones: begun last it would keep one process busy after the others have ended.
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (tests[item.path], item.path))


DEFAULT = "not slow and not system"


def is_fast(path: Path) -> bool:
    """Whether a file, or something in a folder, is in ``FAST``."""
    here = path.relative_to(Path(__file__).parent).as_posix() if path.is_relative_to(Path(__file__).parent) else ""
    return here in ("", ".") or any(
        here == place or here.startswith(f"{place}/") or place.startswith(f"{here}/") for place in FAST)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Reading all tests takes as long as running the fast ones."""
    return True if config.option.markexpr == "fast" and not is_fast(collection_path) else None


def is_system(item: pytest.Item) -> bool:
    """Whether the test needs a PostgreSQL server, or Node; its fixtures and its place show that."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    fixtures = set(getattr(item, "fixturenames", ()))
    return (not fixtures.isdisjoint(("postgres", "own_postgres")) or item.path.parent.name == "host_ts"
            or any(isinstance(value, str) and value.startswith("postgres") for value in parameters))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its counts and its part of the attack matrix to the process that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[_SUMMARY])
        output["attacks"] = campaign.TABLE
        output["neighbours"] = neighbours.TABLE


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over what a worker found: it has counted all tests, and run some of the attacks."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[_SUMMARY] = Counter(output.get("left_out", {}))
    for user, runs in output.get("attacks", {}).items():
        campaign.TABLE.setdefault(user, {}).update(runs)
    neighbours.TABLE.update(output.get("neighbours", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The attack matrix if attacks were run, and a short list: what was left out, why, the command that runs it."""
    if campaign.TABLE:
        terminalreporter.section("attacks, and the layers that stop each alone", sep="-")
        for line in campaign.table(campaign.TABLE):
            terminalreporter.write_line(line)
    if neighbours.TABLE:
        terminalreporter.section("attacks by way of what the daemon does for all", sep="-")
        for line in neighbours.lines():
            terminalreporter.write_line(line)
    skipped = Counter(str(report.longrepr[2]).removeprefix("Skipped: ")
                      for report in terminalreporter.stats.get("skipped", ()) if isinstance(report.longrepr, tuple))
    left_out = config.stash[_SUMMARY]
    if not skipped and not left_out:
        return
    terminalreporter.section("left out of this run", sep="-")
    for kind, count in sorted(left_out.items()):
        what, command = KINDS[kind]
        terminalreporter.write_line(f"{count:5} {kind}: {what}; run them with: {command}")
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count:5} skipped: {reason}")


# Which tests run in which process: the tests of a file share daemons, so one process runs them one after another. There
# are too many attacks for that: each configuration of layers may go to another process.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile``, but for the attacks."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        """Splits the attacks by user and configuration."""

        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if not file.endswith("attack/test_attacks.py"):
                return file
            return "-".join((file, *re.findall(r"\b(test_\w+|root|unprivileged|full|L2|L1)\b(?=[-\[])", nodeid)))

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


# A test marked ``alone`` has the machine to itself.


def _lock(name: str, how: int) -> int:
    fd = os.open(Path(os.environ[RUN_FOLDER]) / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, how)
    return fd


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Waits for this test's turn; outside the test's own time limit."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    gate = _lock("gate", fcntl.LOCK_EX)  # a test that waits for the whole room keeps others from entering meanwhile
    room = _lock("room", fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    os.close(gate)
    try:
        return (yield)
    finally:
        os.close(room)
