"""The copy by which a test becomes another user: usable from anywhere, and red where it is broken."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RUN_FOLDER, other_user
from tests.support.daemon import ROOT
from tests.support.folders import make_run_folder, reachable


@pytest.fixture
def place() -> Iterator[Path]:
    """A public folder that holds no copy yet."""
    other_user.need_root()
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_another_user_runs_this_checkout() -> None:
    other_user.need_root()
    code = "import os, apex_exec, workers; print(os.getuid(), apex_exec.__file__)"
    done = subprocess.run([other_user.python(), "-c", code], capture_output=True, text=True, timeout=60,
                          env=other_user.environment(), **other_user.become())
    uid, path = done.stdout.split()
    assert int(uid) == other_user.UID and reachable(Path(path)), done.stderr
    assert (ROOT / "apex_exec" / "__init__.py").stat().st_nlink == 1, "the checkout itself is not changed by a link"


@pytest.mark.slow
def test_a_copy_that_lacks_a_part_is_a_failure_and_no_skip(
        place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_user, "_installed", lambda: iter(()))  # the packages are left out
    monkeypatch.setenv(RUN_FOLDER, str(place))
    for _ in range(2):  # the process that made it, and every later one
        other_user._place.cache_clear()
        with pytest.raises(AssertionError, match="(?s)cannot use the copy.*No module named"):
            other_user.python()
    other_user._place.cache_clear()


@pytest.mark.slow
def test_a_copy_in_a_folder_that_others_cannot_enter_is_a_failure(
        place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "inner").mkdir(mode=0o700)
    assert "Permission" in other_user._copy_and_try(place / "inner")


def test_a_long_temporary_folder_is_passed_over_since_sockets_lie_in_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = make_run_folder()
    try:
        assert len(os.fsencode(made)) < 60 and (made / "tmp").is_dir()
    finally:
        (made / "tmp").rmdir()
        made.rmdir()
