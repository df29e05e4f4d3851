"""Node, the compiled scenarios, and a daemon with the echo plugins."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import apex_exec
from tests.host_ts.echo_plugins import write_all
from tests.support import need
from tests.support.daemon import Daemon

HOST_TS = Path(apex_exec.__file__).parent / "examples" / "host-ts"
COMPILED = HOST_TS / "dist" / "tests" / "tests" / "host_ts" / "scenarios"
Scenario = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    """Runs one compiled scenario and returns its summary."""
    need(shutil.which("node"), "node is not installed")
    tsc = HOST_TS / "node_modules" / ".bin" / "tsc"
    need(tsc.exists(), f"run `npm ci` in {HOST_TS}")
    built = subprocess.run([str(tsc), "-p", str(Path(__file__).parent)], capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout

    def run(name: str, *arguments: str, timeout: float = 60) -> dict[str, Any]:
        done = subprocess.run(["node", str(COMPILED / f"{name}.mjs"), *arguments], capture_output=True, text=True,
                              timeout=timeout)
        assert done.returncode == 0, done.stderr[-3000:]
        summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return summary

    return run


@pytest.fixture(scope="session")
def plugins() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        yield write_all(Path(folder) / "plugins")


@pytest.fixture(scope="module")
def daemon(plugins: Path) -> Iterator[Daemon]:
    """One daemon for a module's scenarios. Nothing of what they do may open the breaker."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        with Daemon(folder, plugins=plugins, config=PATIENT) as running:
            yield running


PATIENT = {"breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.01,
           "limits.cpu_percent": 100}
