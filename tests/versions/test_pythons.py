"""Every interpreter that the project names serves plugins: the README's first command, and what is looked up late."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PYTHONS, need
from tests.support.daemon import ROOT

VERSIONS = ("3.11", "3.12", "3.13")
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
ASK = "import sys; print('%d.%d' % sys.version_info[:2])"


def find(version: str) -> str:
    """An interpreter of ``version``: from APEX_EXEC_PYTHONS, from PATH, or the one that runs the tests; "" if none."""
    own = sys._base_executable  # type: ignore[attr-defined]  # the interpreter below a virtual environment
    for path in (*os.environ.get(PYTHONS, "").split(os.pathsep), shutil.which(f"python{version}"), own):
        if path and os.access(path, os.X_OK):
            said = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=30)
            if said.stdout.strip() == version:
                return path
    return ""


@pytest.fixture(scope="module", params=VERSIONS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment of the version, into which the project is installed as the README's first command does."""
    path = find(request.param)
    need(path, f"no CPython {request.param} on PATH or in {PYTHONS}")
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([path, "-m", "venv", folder], check=True, timeout=120)
    # Not editable: an editable installation reads a .pth file, and so looks codecs up before the jail is closed.
    left_out = shutil.ignore_patterns(".venv", "node_modules", ".git", "results", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=left_out)
    done = subprocess.run([folder / "bin" / "pip", "install", "-q", source, "pytest>=8"], capture_output=True,
                          text=True, timeout=500)
    need(done.returncode == 0, f"installing on {request.param}: {done.stderr[-300:]}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_demo_runs_as_expected(installed: Path) -> None:
    done = subprocess.run([installed / "bin" / "apex-exec", "demo", "--json"], capture_output=True, text=True,
                          timeout=120, cwd="/")
    shown = json.loads(done.stdout)
    wrong = [step for step in shown["steps"] if not step["asExpected"]]
    assert done.returncode == 0 and not wrong, (wrong, done.stderr)


def test_what_is_looked_up_late_is_there(installed: Path) -> None:
    """This interpreter's own library is read for late imports, and the jail's tests run on it."""
    done = subprocess.run(
        [installed / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
         "addopts=--import-mode=importlib", "tests/workers/test_late_lookups.py",
         "tests/workers/test_plugins_in_the_jail.py"], capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_the_documents_example_goes_from_file_to_answer(installed: Path) -> None:
    """As the user that runs the tests, and as another one if only root can become that."""
    registry = subprocess.run([installed / "bin" / "pip", "install", "-q", f"{installed / 'source'}[registry]"],
                              capture_output=True, text=True, timeout=500)
    need(registry.returncode == 0, f"installing the registry: {registry.stderr[-300:]}")
    done = subprocess.run(
        [installed / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
         "addopts=--import-mode=importlib", "-rs", "tests/javascript/test_document.py", "-k", "from_file_to_answer"],
        capture_output=True, text=True, timeout=600, cwd=ROOT)
    as_whom = 2 if os.geteuid() == 0 else 1
    assert done.returncode == 0 and f"{as_whom} passed" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
