"""The README's tour, pasted line by line into a shell; `serve --background` and `stop`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.test_framework import run
from tests.support.daemon import ROOT

SAYS_NO = ("invoke spinner",)
"""Lines whose answer is an error, as the README says of them."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder; whatever daemon is left in it ends."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        yield Path(folder)
        run("stop", "--runtime-dir", f"{folder}/run")


def lines_of_the_tour() -> list[str]:
    """The commands of "Five minutes" as they would be pasted, continued lines joined."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## Five minutes")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [line for language, block in blocks if not language for line in block.replace("\\\n", " ").splitlines()]


def put_on_path(place: Path) -> Path:
    """A folder with an ``apex-exec`` that is the one under test, whatever else of that name is on PATH."""
    script = place / "bin" / "apex-exec"
    script.parent.mkdir()
    root, python = shlex.quote(str(ROOT)), shlex.quote(sys.executable)
    script.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {python} -m apex_exec "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.mark.slow
def test_the_readmes_tour_can_be_pasted_line_by_line(place: Path) -> None:
    bin_ = put_on_path(place)
    (place / "apex_exec").symlink_to(ROOT / "apex_exec")
    lines = [line.replace("/tmp/apex-tour-state", f"{place}/state").replace("/tmp/apex-tour", f"{place}/run")
             for line in lines_of_the_tour()]
    assert len(lines) > 14 and lines[-1].startswith("apex-exec stop")
    told = {}
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"})
        told[line] = done.stdout
        assert done.returncode == any(word in line for word in SAYS_NO), (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    answers = [text for line, text in told.items() if " invoke " in line]
    assert "customWidgets" in answers[0] and "TIMEOUT" in answers[1] and "Hello from My Plugin!" in answers[2]


@pytest.mark.slow
def test_a_daemon_in_the_background_is_ready_when_the_verb_returns_and_ends_by_stop(place: Path) -> None:
    started = run("serve", "--background", "--runtime-dir", f"{place}/run", "--state-dir", f"{place}/state",
                  "--http-address", "127.0.0.1:0")
    assert started.returncode == 0, started.stderr
    pid, log, stop = (re.search(rf"^{word} +(.*)$", started.stdout, re.M)[1] for word in ("pid", "log", "stop"))
    assert run("plugin", "list", "--runtime-dir", f"{place}/run").returncode == 0
    assert Path(log).stat().st_mode & 0o777 == 0o600 and "serving" in Path(log).read_text()
    process = psutil.Process(int(pid))
    assert os.getsid(int(pid)) == int(pid), "it outlives the shell"
    assert stop.endswith(f"stop --runtime-dir {place}/run")
    told = run("status", "--runtime-dir", f"{place}/run", "--json")
    assert json.loads(told.stdout)["plugins"] == []
    bin_ = put_on_path(place)
    ended = subprocess.run(["sh", "-c", stop], cwd=ROOT, capture_output=True, text=True, timeout=60,
                           env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"})
    assert ended.returncode == 0 and f"pid {pid}, has ended" in ended.stdout, ended
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    again = run("stop", "--runtime-dir", f"{place}/run")
    assert again.returncode == 3 and again.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_daemon_that_does_not_come_up_says_why_and_leaves_nothing(place: Path) -> None:
    begun = time.monotonic()
    done = run("serve", "--background", "--runtime-dir", f"{place}/run", "--state-dir", f"{place}/state",
               "--http-address", "no.such.host.invalid:1")
    assert done.returncode == 1 and "http.address" in done.stderr and "serve.log" in done.stderr, done.stderr
    assert time.monotonic() - begun < 60 and not done.stdout
