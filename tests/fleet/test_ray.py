"""Three daemons over one PostgreSQL that a real Ray keeps: what happens if any part of Ray, or a daemon, is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import AdminClient, CallError, Client, ConnectionLost
from apex_exec.common.pid_behind import pid_behind
from apex_exec.fleet.engines.ray import FILE, read, write
from apex_exec.registry.database import open_database, transact
from apex_exec.registry.tables import SCHEMA, STORE
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import load_public, new_key
from apex_exec.testing.configuration import to_toml
from tests.support import need
from tests.support.daemon import ECHO, USER, wait_for, write_plugin
from tests.support.fleet import free_port
from tests.support.postgres import Postgres, postgres  # noqa: F401 - a fixture
from tests.support.ray import HEAD_SECONDS, LocalRay

NAMES = ["a", "b", "c"]
PLUGINS = [f"plugin-{number}" for number in range(6)]
SECONDS = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(1200)]


class KeptFleet:
    """The configurations of three nodes that share a PostgreSQL, and the daemons that are started with them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.pattern = str(folder / "{node}.toml")
        signing_key, _ = new_key(folder / "keys", "fleet")
        engine = open_database(url, SCHEMA)
        public = load_public(folder / "keys" / "fleet.pub").hex()
        transact(engine, STORE, lambda db: keyring.register(
            db, name="fleet", role="node", owner="fleet", public_key=public, days=10, uid=0, now_ns=time.time_ns()))
        engine.dispose()
        for name in PLUGINS:
            write_plugin(folder / "plugins", name, ECHO)
        for name in NAMES:
            (folder / f"{name}.toml").write_text(to_toml({
                "runtime_dir": folder / name / "run", "state_dir": folder / name / "state",
                "plugins_dir": folder / "plugins", "http.address": "127.0.0.1:0", "audit.min_free_bytes": 0,
                "registry.url": url, "market.url": url, "fleet.engine": "ray",
                "fleet.endpoint": f"tcp://127.0.0.1:{free_port()}", "fleet.signing_key": signing_key,
                "fleet.capacity": 1, "fleet.lost_seconds": 5, "fleet.join_seconds": 10}))

    def pid(self, name: str) -> int:
        """The daemon of the node, 0 if it does not run."""
        return pid_behind(f"ipc://{self.folder}/{name}/run/admin.sock")

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in NAMES}

    def status(self, name: str) -> dict[str, Any]:
        """``fleet.status`` at the node."""
        with AdminClient(f"ipc://{self.folder}/{name}/run/admin.sock") as admin:
            return admin.request("fleet.status")

    def is_whole(self) -> bool:
        """Whether every node sees every node serve."""
        try:
            return all({row["node"]: row["state"] for row in self.status(name)["nodes"]} ==
                       dict.fromkeys(NAMES, "serving") for name in NAMES)
        except (CallError, ConnectionLost, OSError):
            return False

    def wait_whole(self) -> None:
        wait_for(self.is_whole, SECONDS, "a whole fleet")

    def end(self) -> None:
        for pid in self.pids().values():
            if pid:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def load(fleet: KeptFleet) -> Iterator[Counter[str]]:
    """Calls of all plugins at the node ``a``, one after the other, and how they ended."""
    done: Counter[str] = Counter()
    ended = threading.Event()

    def call() -> None:
        with Client(f"ipc://{fleet.folder}/a/run/host.sock") as client:
            number = 0
            while not ended.wait(0.02):
                number += 1
                try:
                    client.invoke(PLUGINS[number % len(PLUGINS)], "onActionExecute", USER,
                                  {"action": "x", "context": {"n": number}}, deadline_ms=20_000)
                    done["ok"] += 1
                except CallError as error:
                    done[error.code] += 1

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def fleet(tmp_path: Path, postgres: Postgres) -> Iterator[KeptFleet]:  # noqa: F811
    need(importlib.util.find_spec("ray"), "the extra fleet-ray")
    made = KeptFleet(tmp_path, postgres.url())
    yield made
    made.end()


def calls_go_on(done: Counter[str], more: int = 20) -> None:
    """Waits until that many calls more have been answered."""
    before = done["ok"]
    wait_for(lambda: done["ok"] >= before + more, 60, f"{more} calls more, after {done}")


def nothing_of_rays_treatment_of_its_workers_reaches(fleet: KeptFleet, ray: LocalRay) -> None:
    """Neither its nice value nor its place among what the kernel kills, nor its token."""
    for name in NAMES:
        daemon, raylet = psutil.Process(fleet.pid(name)), ray.raylet(name)
        assert daemon.nice() <= raylet.nice()  # less if the daemon may take more for its supervisor
        own, theirs = (Path(f"/proc/{one.pid}/oom_score_adj").read_text() for one in (daemon, raylet))
        assert own == theirs and not [word for word in daemon.environ() if word.startswith("RAY_")]


def test_head_raylet_keeper_and_daemon_are_killed_in_turn_and_calls_go_on(fleet: KeptFleet) -> None:
    timings: dict[str, float] = {}

    def timed(what: str, true: Callable[[], Any]) -> None:
        begun = time.monotonic()
        wait_for(true, SECONDS, what)
        timings[what] = round(time.monotonic() - begun, 2)

    with LocalRay(NAMES) as ray:
        up = ray.up(fleet.pattern)
        assert up.returncode == 0 and up.stdout.count("pid") == 3, up.stdout + up.stderr
        fleet.wait_whole()
        wait_for(lambda: {fleet.status(name)["problem"] for name in NAMES} == {""}, 60, "an answer of engine and book")
        nothing_of_rays_treatment_of_its_workers_reaches(fleet, ray)
        with load(fleet) as done:
            calls_go_on(done)
            pids = fleet.pids()

            os.kill(pids["b"], signal.SIGKILL)
            timed("a daemon is started again", lambda: fleet.pid("b") not in (0, pids["b"]))
            fleet.wait_whole()
            assert {name: pid for name, pid in fleet.pids().items() if name != "b"} == {
                name: pid for name, pid in pids.items() if name != "b"}
            calls_go_on(done)
            pids, lost = fleet.pids(), done["NODE_LOST"]

            keeper = ray.keeper("c")
            assert keeper is not None
            keeper.kill()
            timed("a keeper is back", lambda: (new := ray.keeper("c")) is not None and new.pid != keeper.pid)
            calls_go_on(done)
            assert fleet.pids() == pids

            ray.raylet("c").kill()
            calls_go_on(done)
            wait_for(lambda: not keeper.is_running(), 30, "the end of its keeper")
            assert fleet.pids() == pids, "the daemon of the machine whose raylet died has died"
            ray.start_node("c")
            timed("a new raylet has its keeper without anybody's doing", lambda: ray.keeper("c"))
            assert fleet.pids() == pids
            os.kill(pids["c"], signal.SIGKILL)
            timed("the new keeper starts its daemon", lambda: fleet.pid("c") not in (0, pids["c"]))
            fleet.wait_whole()
            calls_go_on(done)
            pids, lost = fleet.pids(), done["NODE_LOST"]

            ray.head().kill()
            calls_go_on(done)
            wait_for(lambda: not ray.processes("raylet"), 60 + HEAD_SECONDS, "the end of Ray")
            calls_go_on(done)
            assert fleet.pids() == pids and fleet.is_whole()
            wait_for(lambda: "does Ray run on this machine" in fleet.status("b")["problem"], 60, "the word of it")
            refused = ray.up(fleet.pattern)
            assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
            assert "Ray's head does not answer" in refused.stderr and fleet.pids() == pids

            ray.start_head()
            ray.start_node("b")
            ray.start_node("c")
            up = ray.up(fleet.pattern)
            assert up.returncode == 0, up.stdout + up.stderr
            assert fleet.pids() == pids, "running daemons were not adopted"
            wait_for(lambda: not fleet.status("b")["problem"], 60, "the keeper's list again")
            calls_go_on(done)
    assert done["ok"] > 100 and set(done) - {"ok"} <= {"NODE_LOST", "DEADLINE_EXCEEDED"}, done
    assert done["NODE_LOST"] == lost, "a call was lost though no daemon had ended"
    assert fleet.pids() == pids, "the end of Ray has ended a daemon"
    print(timings, dict(done))  # noqa: T201


def test_a_ray_that_will_not_do_is_one_error_and_daemons_start_without_it(fleet: KeptFleet) -> None:
    with LocalRay(["a"]) as ray:
        wrong = fleet.folder / "wrong"
        wrong.write_text("0" * 64)
        for said, done in (
                ("RAY_USE_TLS=1", ray.up(fleet.pattern, RAY_USE_TLS="0")),
                ("token", ray.up(fleet.pattern, seconds=1, RAY_AUTH_TOKEN_PATH=str(wrong))),
                ("cannot be read", ray.up(str(fleet.folder / "none.toml"), seconds=30))):
            assert done.returncode == 1 and said in done.stdout + done.stderr, (said, done.stdout, done.stderr)
            assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
        assert not any(fleet.pids().values())
        members = fleet.folder / "a" / "state" / "fleet" / FILE
        write(members, {"gone"})
        better = ray.up(fleet.pattern, "--forget", "gone")  # the keepers of the wrong path are replaced
        assert better.returncode == 0 and fleet.pid("a"), better.stdout + better.stderr
        wait_for(lambda: read(members) == {"a"}, 60, "the end of the forgotten node")
        assert f"pid {fleet.pid('a')}" in better.stdout
    os.kill(fleet.pid("a"), signal.SIGKILL)
    wait_for(lambda: not fleet.pid("a"), 30, "the end of the daemon, which no keeper starts again")
    members.unlink()
    alone = subprocess.run([sys.executable, "-m", "apex_exec", "serve", "--background", "--config",
                            str(fleet.folder / "a.toml"), "--set", "fleet.node=a"], capture_output=True, timeout=180)
    assert alone.returncode == 0, alone.stderr
    with Client(f"ipc://{fleet.folder}/a/run/host.sock") as client:
        for plugin in PLUGINS:
            assert client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": {"n": 1}})["result"]
    assert "placed a keeper" in fleet.status("a")["problem"]
