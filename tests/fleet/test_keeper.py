"""What a keeper does without Ray: a daemon is started, adopted and started again, and the members are listed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from apex_exec.client import Client
from apex_exec.common.pid_behind import pid_behind
from apex_exec.fleet.daemon_watch import DaemonWatch
from apex_exec.fleet.engines.ray import FILE, SILENT_SECONDS, Ray, write
from apex_exec.fleet.engines.silence import EngineSilent
from apex_exec.fleet.keeper import WANTED, alive, open_because
from apex_exec.registry.trust.signing import new_key
from apex_exec.testing.configuration import to_toml
from tests.support.daemon import ECHO, USER, wait_for, write_plugin
from tests.support.fleet import free_port

START_SECONDS = 100.0


@contextmanager
def watched(config: Path, *prepare: Callable[[], None]) -> Iterator[DaemonWatch]:
    """A watch in a thread, as a keeper has it."""
    watch = DaemonWatch("a", config, *prepare)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join(START_SECONDS)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a node that Ray keeps; its daemon is ended afterwards."""
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    write(tmp_path / "state" / "fleet" / FILE, {"a"})
    signing_key, _ = new_key(tmp_path / "keys", "fleet")
    file = tmp_path / "a.toml"
    file.write_text(to_toml({
        "runtime_dir": tmp_path / "run", "state_dir": tmp_path / "state", "plugins_dir": tmp_path / "plugins",
        "audit.min_free_bytes": 0, "http.address": "127.0.0.1:0", "fleet.engine": "ray", "fleet.endpoint": f"tcp://127.0.0.1:{free_port()}",
        "fleet.signing_key": signing_key, "fleet.join_seconds": 0.1}))
    yield file
    if pid := pid_behind(f"ipc://{tmp_path}/run/admin.sock"):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_daemon_is_started_started_again_after_a_kill_and_adopted_by_the_next_watch(
        config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with watched(config) as watch:
        wait_for(lambda: watch.pid or watch.problem, START_SECONDS, "the start")
        assert not watch.problem
        first = psutil.Process(watch.pid)
        assert first.ppid() != os.getpid() and os.getsid(first.pid) != os.getsid(0)
        assert not [name for name in first.environ() if name.startswith("RAY_")]
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: watch.pid not in (0, first.pid), START_SECONDS, "the second start")
        second = watch.pid
        assert watch.starts == 2 and watch.adopted == 0 and watch.problem == ""
    assert psutil.pid_exists(second), "the end of a watch ends no daemon"
    with watched(config) as watch:
        wait_for(lambda: watch.pid == second, 10, "the adoption")
        assert watch.adopted == 1 and watch.starts == 0
        with Client(f"ipc://{config.parent}/run/host.sock") as client:
            assert client.invoke("echo", "onActionExecute", USER, {"action": "a", "context": {"n": 1}})["result"]


@pytest.mark.parametrize(("change", "words"), [
    ({"fleet.engine": "static"}, 'write engine = "ray"'), ({"limits.timeout_ms": "soon"}, "limits.timeout_ms")])
def test_a_daemon_that_cannot_be_kept_is_one_line_and_is_not_started(config: Path, change: dict[str, object],
                                                                   words: str) -> None:
    config.write_text(to_toml({"runtime_dir": config.parent / "run", "fleet.engine": "ray", **change}))
    with watched(config) as watch:
        wait_for(lambda: watch.problem, 10, "the problem")
        assert words in watch.problem and "\n" not in watch.problem and watch.starts == 0


def test_a_daemon_is_not_started_at_a_priority_that_cannot_be_left(config: Path) -> None:
    def refused() -> None:
        raise PermissionError("start Ray as root")

    with watched(config, refused) as watch:
        wait_for(lambda: watch.problem, 10, "the problem")
        assert watch.problem == "start Ray as root" and watch.starts == 0


def test_the_members_are_those_that_the_keeper_wrote_and_a_silent_keeper_is_said(tmp_path: Path) -> None:
    engine = Ray(tmp_path)
    with pytest.raises(EngineSilent, match="placed a keeper"):
        engine.members()
    write(tmp_path / FILE, {"b", "a"})
    assert engine.members() == {"a", "b"}
    old = time.time() - SILENT_SECONDS - 1
    os.utime(tmp_path / FILE, (old, old))
    with pytest.raises(EngineSilent, match="does Ray run on this machine"):
        engine.members()
    for wrong in ("{}", '["../a"]', '["a"', "[1]", '["' + "a" * 70_000 + '"]'):
        (tmp_path / FILE).write_text(wrong)
        with pytest.raises(EngineSilent, match="members.ray"):
            engine.members()


def test_a_ray_that_is_open_or_reports_is_not_used_and_a_bad_name_becomes_no_path() -> None:
    assert open_because(WANTED) == ""
    for name in WANTED:
        assert name in open_because({key: word for key, word in WANTED.items() if key != name})
        assert name in open_because({**WANTED, name: "maybe"})
    nodes = [{"NodeName": name, "Alive": there, "NodeID": "1"}
             for name, there in (("a-1", True), ("../etc", True), ("10.0.0.1", True), ("gone", False), ("", True))]
    assert [node["NodeName"] for node in alive(nodes)] == ["a-1", "10.0.0.1"]
