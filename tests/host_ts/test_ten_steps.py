"""The example host in TypeScript takes the ten steps of the other languages' hosts, on every JavaScript runtime."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.host_ts.conftest import COMPILED, HOST_TS, Scenario
from tests.hosts.test_example_hosts import STEPS
from tests.support.daemon import Daemon
from tests.support.runtimes import RUNTIMES, runtime

PROGRAM = COMPILED.parents[2] / "apex_exec/examples/host-ts/host.js"


@pytest.fixture(scope="module")
def examples() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.slow_after(1)
def test_the_example_host_takes_the_ten_steps(name: str, scenario: Scenario, examples: Daemon) -> None:
    """``scenario`` compiles it."""
    done = subprocess.run([runtime(name), *RUNTIMES[name], str(PROGRAM), examples.endpoint], cwd=HOST_TS,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout, done.stderr) == (STEPS, "")
