"""A file is replaced in one step: a process that is killed at it leaves the old content or the new one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.common.files import TEMPORARY_PREFIX, create_file, replace_file

pytestmark = pytest.mark.fast

CRASH = """
import os, signal, sys
from pathlib import Path
from apex_exec.common.files import replace_file
replace_file(Path(sys.argv[1]), b"new" * 1000, only_writer=sys.argv[2] == "only",
             at_point=lambda: os.kill(os.getpid(), signal.SIGKILL))
"""
FULL = """
import resource, signal, sys
from pathlib import Path
from apex_exec.common.files import replace_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    replace_file(Path(sys.argv[1]), bytes(1 << 20))
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("writer", ["only", "many"])
def test_whoever_is_killed_before_the_name_changes_leaves_the_old_file(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "kept"
    replace_file(path, b"old")
    for _ in range(2):
        assert _run(CRASH, str(path), writer).returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
    left = sorted(name for name in os.listdir(tmp_path) if name != "kept")
    if writer == "only":
        assert left == ["kept.new"], "one that is killed often leaves one file"
    else:
        assert len(left) == 2 and all(name.startswith(TEMPORARY_PREFIX) for name in left)
    replace_file(path, b"newer", only_writer=writer == "only")
    assert path.read_bytes() == b"newer"


def test_a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    replace_file(path, b"old")
    assert b"OSError" in _run(FULL, str(path)).stdout
    assert os.listdir(tmp_path) == ["kept"] and path.read_bytes() == b"old"


def test_a_new_file_is_its_owners_alone_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        replace_file(tmp_path / "a", b"")
        replace_file(tmp_path / "a", b"1")
        replace_file(tmp_path / "b", b"", mode=0o644)
        create_file(tmp_path / "c", b"")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"] == [0o600, 0o644, 0o600]


def test_a_file_that_must_be_new_is_never_written_over_nor_through_a_link(tmp_path: Path) -> None:
    create_file(tmp_path / "key", b"first")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            create_file(tmp_path / name, b"second")
    assert (tmp_path / "key").read_bytes() == b"first" and not (tmp_path / "elsewhere").exists()


def test_a_link_that_was_laid_where_the_only_writer_writes_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "kept.new").symlink_to(victim)
    replace_file(tmp_path / "kept", b"content", only_writer=True)
    assert victim.read_bytes() == b"mine" and (tmp_path / "kept").read_bytes() == b"content"
    assert not (tmp_path / "kept").is_symlink()
