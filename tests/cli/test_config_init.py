"""``config init``: the file that it writes is the configuration, with every key."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from apex_exec.catalogue.keys import KEYS
from apex_exec.config import Settings, known_keys, load_settings
from tests.cli.test_framework import run


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without walls, the environment of the tests lowers the level that daemons ask for. These tests look
    at the defaults."""
    for name in [name for name in os.environ if name.startswith("APEX_EXEC_") and name != "APEX_EXEC_PYTHONS"]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    done = run("config", "init", str(path))
    assert done.returncode == 0 and f"--config {path}" in done.stdout
    return path


def test_what_is_written_changes_nothing_is_private_and_names_every_key(file: Path) -> None:
    assert load_settings(file) == Settings()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    section, found = "", []
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1] + "."
        elif named := re.match(r"#(\w+) = ", line):
            found.append(section + named[1])
    hooks = [f"{section}{key}" for key in ("mode", "params", "result")]  # the sample section that follows the last one
    assert sorted(found) == sorted([*(key for key in known_keys() if key != "hooks"), *hooks])


def test_every_key_can_be_uncommented_as_it_stands(file: Path) -> None:
    file.write_text(re.sub(r"^#(?=\w+ = |\[hooks)", "", file.read_text(), flags=re.M))
    loaded, defaults = load_settings(file).model_dump(), Settings().model_dump()
    assert list(loaded["hooks"]) == ["onInvoiceCreated"]
    for name, key in KEYS.items():
        have, by_default = loaded, defaults
        for part in name.split("."):
            have, by_default = have[part], by_default[part]
        assert (have == by_default) is (not key.example and name != "hooks"), name


def test_a_file_that_is_there_is_kept_unless_it_is_to_be_replaced(file: Path) -> None:
    file.write_text("drain_seconds = 3\n")
    done = run("config", "init", str(file))
    assert done.returncode == 1 and "--force" in done.stderr and file.read_text() == "drain_seconds = 3\n"
    assert run("config", "init", str(file), "--force").returncode == 0 and load_settings(file) == Settings()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run("config", "init", str(tmp_path / "no" / "c.toml"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and os.strerror(2) in done.stderr
