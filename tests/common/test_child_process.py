"""A bounded child ends within its bounds, says how, and gets nothing of the environment of its parent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apex_exec.common.child_process import Ended, clean_environment, run_module

Run = Callable[..., Ended]
CHILD = """\
import os, sys, time
verb = sys.argv[1]
if __name__ != "__main__":
    print("imported")
elif verb == "echo":
    sys.stdout.buffer.write(sys.stdin.buffer.read())
elif verb == "told":
    print(sys.argv[0], sorted(os.environ), os.getcwd())
elif verb == "sleep":
    time.sleep(600)
elif verb == "memory":
    kept = bytearray(1 << 30)
elif verb == "spin":
    while True:
        pass
elif verb == "shout":
    while True:
        os.write(1, bytes(65536))
elif verb == "fail":
    print("first line", file=sys.stderr)
    sys.exit("the last words")
elif verb == "deaf":
    os.close(0)
    print("answered")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "bounded_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda verb, **bounds: run_module("bounded_child", (verb,), **{"seconds": 30, **bounds})


def test_what_goes_in_comes_out_whatever_its_size(run: Run) -> None:
    data = os.urandom(3 << 20)
    assert run("echo", data=data) == Ended(0, data, "")


def test_a_child_knows_nothing_of_our_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_EXEC_SECRET", "1")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    told = run("told").output.decode()
    assert "SECRET" not in told and told.split()[-1] == "/"
    assert set(clean_environment()) == {"PATH", "LANG", "PYTHONPATH"}


def test_a_child_finds_the_interpreters_library_where_its_parent_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    assert clean_environment()["LD_LIBRARY_PATH"] == "/opt/python/lib"


def test_one_that_takes_too_long_is_killed(run: Run) -> None:
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run("sleep", seconds=1.5)
    assert time.monotonic() - begun < 20


def test_memory_and_processor_time_are_bounded(run: Run) -> None:
    assert run("memory").status == 0
    ended = run("memory", memory_bytes_max=512 << 20)
    assert ended.status != 0 and "MemoryError" in ended.last_words
    assert run("spin", cpu_seconds_max=1).status < 0


def test_one_that_writes_without_end_is_killed_at_the_bound(run: Run) -> None:
    ended = run("shout", output_bytes_max=1 << 20)
    assert ended.status < 0 and len(ended.output) == 1 << 20


def test_its_last_words_say_why_it_failed(run: Run) -> None:
    assert run("fail") == Ended(1, b"", "the last words")


def test_one_that_does_not_read_its_input_may_still_answer(run: Run) -> None:
    assert run("deaf", data=bytes(1 << 20)).output == b"answered\n"


def test_a_module_that_is_not_there_is_an_end_like_another() -> None:
    ended = run_module("no_such_module_of_ours", seconds=30)
    assert ended.status == 1 and "no_such_module_of_ours" in ended.last_words
