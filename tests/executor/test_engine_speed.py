"""What `doctor` says of the JavaScript engine's build."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from apex_exec.cli.daemon.doctor import show
from apex_exec.common.child_process import Ended
from apex_exec.executor.processes.engine_speed import LOOP_TURNS, measure


def test_the_installed_engine_is_measured() -> None:
    speed = measure()
    assert speed is not None and 1 < speed.turn_ns < 2000


@pytest.mark.parametrize(("printed", "slow"), [(b"2700000 350000", True), (b"1100000 380000", False)])
def test_a_build_is_slow_by_its_loop_against_its_json(printed: bytes, slow: bool) -> None:
    speed = measure(lambda *_, **__: Ended(0, printed, ""))
    assert speed is not None and speed.slow is slow and speed.turn_ns == int(printed.split()[0]) / LOOP_TURNS


@pytest.mark.parametrize("error", [OSError(), subprocess.TimeoutExpired("x", 1), None])
def test_an_engine_that_cannot_be_measured_is_no_error(error: Exception | None) -> None:
    def run(*_: Any, **__: Any) -> Ended:
        if error is not None:
            raise error
        return Ended(1, b"", "No module named '_quickjs'")

    assert measure(run) is None


@pytest.mark.parametrize(("engine", "says"), [
    ({"tenMillionTurnsMs": 905, "slow": True, "change": "pip install x"},
     "it is the slow build; to compile the fast one: pip"),
    ({"tenMillionTurnsMs": 350, "slow": False, "change": ""},
     "350 ms for ten million turns of an empty loop: it is the fast build"),
    (None, "")])
def test_doctor_says_which_build_it_is_and_how_to_make_the_fast_one(
        capsys: pytest.CaptureFixture[str], engine: dict[str, Any] | None, says: str) -> None:
    show({"layers": [], "level": "L4", "user": 0, "means": "", "governor": "enforced", "runtimes": {"python": ""},
          "engine": engine, "waived": [], "zygote": "", "ok": True})
    told = capsys.readouterr().out
    assert says in told and ("JavaScript engine" in told) == (engine is not None)
