"""What a run of the tests says and leaves: tried on a suite of four tests that uses this suite's own conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import RUN_FOLDER
from tests.support.daemon import ROOT

SUITE = '''
import os
import tempfile

import pytest

from tests.support import need


def test_that_makes_files() -> None:
    with open(os.path.join(tempfile.mkdtemp(), "left"), "w") as file:
        file.write("x")


def test_that_cannot_run_here() -> None:
    need(False, "a machine that flies")


@pytest.mark.slow
def test_that_is_slow() -> None:
    pass


@pytest.mark.system
def test_of_another_program() -> None:
    pass
'''


def run(*arguments: str, folder: Path, **environment: str) -> str:
    """The output of pytest on the small suite."""
    suite = folder / "test_small.py"
    suite.write_text(SUITE)
    kept = {name: value for name, value in os.environ.items() if name not in (RUN_FOLDER, "CI", "PYTEST_ADDOPTS")
            and not name.startswith("PYTEST_XDIST")}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
                           "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), *arguments, str(suite)],
                          cwd=ROOT, capture_output=True, text=True, timeout=100, env={**kept, **environment})
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_end_of_a_run_says_what_was_left_out_why_and_how_to_run_it(tmp_path: Path) -> None:
    for workers in ("0", "2"):
        said = run("-n", workers, folder=tmp_path)
        assert "1 passed, 1 skipped" in said, said
        assert "1 slow: " in said and "run them with: python -m pytest -q -m slow" in said
        assert "1 system: " in said and "run them with: python -m pytest -q -m system" in said
        assert "1 skipped: a machine that flies" in said


def test_what_is_missing_fails_in_ci(tmp_path: Path) -> None:
    said = run("-n", "0", folder=tmp_path, CI="1")
    assert "1 failed, 1 passed" in said and "missing in CI: a machine that flies" in said


@pytest.mark.slow
def test_a_run_leaves_nothing_and_takes_no_configuration_from_its_surroundings(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    said = run("-n", "2", folder=tmp_path, TMPDIR=str(tmp_path / "t"), APEX_EXEC_NO_SUCH_KEY="1")
    assert "1 passed" in said and not list((tmp_path / "t").iterdir())
