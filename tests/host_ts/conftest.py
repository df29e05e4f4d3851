"""Node, the compiled scenarios, the package in a fresh project, and a daemon with the echo plugins."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
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


def run(*arguments: str, cwd: Path, **options: object) -> str:
    done = subprocess.run(list(arguments), cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with the packed package; nothing is downloaded."""
    need(shutil.which("npm"), "npm is not installed")
    need((HOST_TS / "node_modules/.bin/tsc").exists(), f"run `npm ci` in {HOST_TS}")
    folder = tmp_path_factory.mktemp("project")
    for package in (HOST_TS, HOST_TS / "node_modules/@msgpack/msgpack"):
        scripts = () if package == HOST_TS else ("--ignore-scripts",)
        run("npm", "pack", str(package), "--pack-destination", str(folder), "--ignore-scripts=false", *scripts,
            cwd=package)
    packed = sorted(folder.glob("*.tgz"))
    with tarfile.open(next(path for path in packed if path.name.startswith("apex-exec-host"))) as made:
        names = {name.removeprefix("package/") for name in made.getnames()}
    assert {"dist/esm/client.js", "dist/esm/client.d.ts", "dist/cjs/client.js", "dist/cjs/client.d.ts",
            "dist/cjs/package.json", "package.json", "README.md"} <= names
    assert not [name for name in names if name.endswith(".ts") and not name.endswith(".d.ts")]
    (folder / "package.json").write_text('{"private": true}')
    run("npm", "install", "--offline", "--no-audit", "--no-fund", *(f"./{path.name}" for path in packed), cwd=folder)
    assert not (folder / "node_modules/zeromq").exists()
    return folder


@pytest.fixture(scope="module")
def daemon(plugins: Path) -> Iterator[Daemon]:
    """One daemon for a module's scenarios. Nothing of what they do may open the breaker."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        with Daemon(folder, plugins=plugins, config=PATIENT) as running:
            yield running


PATIENT = {"breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.01,
           "limits.cpu_percent": 100}
