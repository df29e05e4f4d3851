"""A history that the simulator has recorded replays from its file alone, in another process, to the same actions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.sim import history, recording

ROOT = Path(__file__).parents[2]


def test_a_recorded_history_replays_from_its_file_in_another_process_to_the_same_actions(tmp_path: Path) -> None:
    file = tmp_path / "history"
    told: list[str] = []
    history.run(7, told.append, file)
    done = subprocess.run([sys.executable, "-m", "tests.sim", "--replay", str(file)], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "InvokeRequested" in done.stdout and "→ Verdict" in done.stdout
    steps = len(msgspec.msgpack.decode(file.read_bytes(), type=recording.Recording).steps)
    assert steps > 50 and done.stdout.splitlines()[-1].startswith(f"{steps} steps")


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 500), marks=pytest.mark.slow)],
                         ids=["20", "480"])
def test_histories_with_every_fault_replay_to_the_same_actions(seeds: range, tmp_path: Path) -> None:
    file = tmp_path / "history"
    kinds: set[str] = set()
    for seed in seeds:
        history.run(seed, record=file)
        recording.replay(file)
        kinds |= {step.event for step in msgspec.msgpack.decode(file.read_bytes(), type=recording.Recording).steps}
    assert {"CallsStarted", "WorkerGone", "ZygoteLost", "WorkRefused", "GenerationPrepared"} <= kinds


def test_a_replay_that_decides_otherwise_is_found(tmp_path: Path) -> None:
    file = tmp_path / "history"
    history.run(7, record=file)
    recorded = msgspec.msgpack.decode(file.read_bytes(), type=recording.Recording)
    asked = next(number for number, step in enumerate(recorded.steps) if step.event == "InvokeRequested")
    del recorded.steps[asked]
    recorded.save(file)
    with pytest.raises(recording.Differs):
        recording.replay(file)
