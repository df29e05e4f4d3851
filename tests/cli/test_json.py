"""What every verb says with --json: one style of keys, moments as ISO 8601, amounts beside their currency."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.json_steps import (
    walk_alone,
    walk_author,
    walk_door,
    walk_fleet,
    walk_market,
    walk_people,
    walk_plugins,
    walk_settings,
)
from tests.cli.json_walk import WITH_JSON, Walk, problems
from tests.support import need
from tests.support.console import Console
from tests.support.daemon import Daemon


@pytest.fixture
def walk(capsys: pytest.CaptureFixture[str]) -> Walk:
    return Walk(capsys)


def test_verbs_that_need_no_daemon_have_one_style(walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walk_alone(walk, tmp_path)
    assert not walk.wrong


def test_the_style_is_looked_at() -> None:
    bad = {"user_id": 1, "openedNs": 5, "dueAt": 3, "x": [{"fee": 5}], "seq": 10**16, "closedAt": "yesterday",
           "not tried": 1}
    assert len(list(problems(bad))) == 7


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_every_verb_has_one_style_of_keys_moments_and_amounts(
        walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(find_spec("coverage"), "coverage is not installed")
    monkeypatch.chdir(tmp_path)
    walk_alone(walk, tmp_path)
    walk_author(walk, tmp_path)
    walk_fleet(walk, tmp_path)
    with Daemon(plugins=None) as daemon:
        monkeypatch.setenv("APEX_EXEC_RUNTIME_DIR", str(daemon.runtime))
        monkeypatch.setenv("APEX_EXEC_STATE_DIR", str(daemon.state))
        walk_plugins(walk, tmp_path)
        walk_settings(walk, tmp_path)
        walk_market(walk, tmp_path)
        walk_door(walk)
        for verb in ("status", "top", "doctor", "demo", "audit tail", "audit verify"):
            walk(*verb.split())
        now = time.gmtime()
        walk("audit", "report", "--quarter", f"{now.tm_year}Q{(now.tm_mon + 2) // 3}")
        for words in ("reload", "drain", "undrain", "audit accept --reason x"):
            walk(*words.split())
        with Console(daemon):
            walk("console", "link", "anna")
            walk("console", "sessions")
            walk("console", "end", "anna")
        walk_people(walk, tmp_path, daemon)
        walk("backup", tmp_path / "monday")
        walk("stop")
    walk("restore", tmp_path / "monday", "--state-dir", tmp_path / "restored")
    assert not walk.wrong, "\n".join(walk.wrong)
    assert walk.walked == WITH_JSON
