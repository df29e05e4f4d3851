"""The executor without a daemon: real zygote, real jail, one job after the other. Each job ends, whatever happens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from apex_exec.config import load_settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.blocking import BlockingExecutor
from apex_exec.executor.jails import Sandboxing
from apex_exec.executor.links.jobs import Probe

PLUGIN = b'''
from workers import Plugin

plugin = Plugin(id="one", version="1.0.0", permissions=["data:read"])


@plugin.hook("onDataFetch")
def fetch(params):
    return {"transformedData": 1}
'''
SPEC = PluginSpec("one", "1.0.0", "", "plugin.py", ("onDataFetch",))
DECLARED = {"hooks": ["onDataFetch"], "permissions": ["data:read"], "usesLoop": False, "version": "1.0.0"}


@pytest.fixture(scope="module")
def executor() -> Iterator[BlockingExecutor]:
    sandboxing = Sandboxing(load_settings(None))
    made = BlockingExecutor(sandboxing.boot, sandboxing)
    yield made
    zygote = made.zygote_pid
    made.close()
    assert not psutil.pid_exists(zygote) or psutil.Process(zygote).status() == psutil.STATUS_ZOMBIE
    if sandboxing.cgroups is not None:
        sandboxing.cgroups.close()


def probe(executor: BlockingExecutor, source: bytes, seconds: float = 60.0) -> tuple[Any, str, str]:
    """What the probe of a plugin with that source comes to."""
    told: list[tuple[Any, str, str]] = []
    executor.run(Probe(SPEC, {"plugin.py": source}, time.monotonic_ns() + int(seconds * 1e9),
                       lambda *end: told.append(end)))
    (end,) = told
    return end


def test_one_job_after_the_other_each_in_a_worker_of_its_own(executor: BlockingExecutor) -> None:
    assert probe(executor, PLUGIN)[0] == DECLARED
    value, code, message = probe(executor, b"import socket\n")
    assert value is None and code == "BOOT_FAILED" and "socket" in message
    assert probe(executor, PLUGIN)[0] == DECLARED
    assert not psutil.Process(executor.zygote_pid).children(), "no worker is left"


def test_what_a_plugin_prints_and_breaks_does_not_reach_the_terminal(executor: BlockingExecutor,
                                                                     capfd: pytest.CaptureFixture[str]) -> None:
    assert probe(executor, b"import sys\nprint('hello')\nprint('hello', file=sys.stderr)\n" + PLUGIN)[0] == DECLARED
    assert probe(executor, b"import os\nos.write(3, b'x' * 100)\n")[0] is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("source", "says"), [
    (b"while True:\n    pass\n", "not loaded in time"),
    (b"import os\nos.write(3, b'x' * 100)\nwhile True:\n    pass\n", "broke the inner protocol"),
    (b"import os\nos._exit(5)\n", "exited with 5")])
def test_a_job_that_spins_lies_or_leaves_is_over(executor: BlockingExecutor, source: bytes, says: str) -> None:
    value, _, message = probe(executor, source, seconds=3.0)
    assert value is None and says in message
    assert not psutil.Process(executor.zygote_pid).children()


def test_a_job_whose_zygote_dies_is_over_and_the_next_has_another(executor: BlockingExecutor) -> None:
    zygote = executor.zygote_pid
    due_ns = time.monotonic_ns() + 60 * 10**9
    told: list[tuple[Any, str, str]] = []
    job = Probe(SPEC, {"plugin.py": b"while True:\n    pass\n"}, due_ns, lambda *end: told.append(end))
    executor.loop.every(0.5, lambda _: os.kill(zygote, signal.SIGKILL) if not told and psutil.Process(
        executor.zygote_pid).children() and executor.zygote_pid == zygote else None)
    executor.run(job)
    assert told[0][0] is None and "zygote" in told[0][2]
    assert probe(executor, PLUGIN)[0] == DECLARED and executor.zygote_pid != zygote


def test_a_zygote_that_cannot_start_says_why() -> None:
    with pytest.raises(OSError, match="no_such_module"):
        BlockingExecutor({"jail": {}, "preload": ["no_such_module"], "hidden": [], "refused": [], "withheld": {},
                          "languages": {"python": ([".py"], "workers.python.runtime")}}, Nowhere())


class Nowhere:
    """Jails that are never asked for."""

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Nobody asks."""
        raise AssertionError

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """Nobody asks."""

    def killed(self, worker: int) -> None:
        """Nobody asks."""

    def worker_gone(self, worker: int) -> None:
        """Nobody asks."""
