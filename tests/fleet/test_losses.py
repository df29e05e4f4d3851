"""A node that is killed, cut off, drained or no longer trusted: what its callers see, and that nothing runs twice."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from apex_exec.registry.trust.signing import new_key
from tests.support.daemon import USER, wait_for, write_plugin
from tests.support.fleet import SIGNER, LocalFleet

NAMES = [f"plugin-{number}" for number in range(8)]
MARK = '''
import sys
import time

@plugin.hook("onActionExecute")
def act(context, params):
    asked = params["context"]
    sys.stdout.write(f"ran {asked['n']} end" + chr(10))
    sys.stdout.flush()
    time.sleep(asked.get("sleep", 0))
    return {"result": asked["n"], "metadata": {}}
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    for name in NAMES:
        write_plugin(tmp_path / "plugins", name, MARK)
    return tmp_path / "plugins"


def message(plugin: str, n: int, sleep: float = 0) -> dict[str, Any]:
    return {"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
            "payload": {"action": "x", "context": {"n": n, "sleep": sleep}}}


def runs(fleet: LocalFleet) -> Counter[str]:
    """How often each call has run, by what the plugins have printed on all nodes."""
    return Counter(word for node in fleet.nodes.values() for line in node.log.splitlines() if "ran " in line
                   for word in [line.rpartition("ran ")[2].split()[0]])


@pytest.mark.system
def test_a_killed_owner_costs_its_calls_in_flight_one_reply_each_and_nothing_runs_twice(plugins: Path) -> None:
    config = {"log.plugin_lines_per_second": 100_000, "pool.prefetch": 1}
    with LocalFleet(plugins, config=config) as fleet, Client(fleet.nodes["a"].endpoint) as client:
        victim = fleet.owner(next(name for name in NAMES if fleet.owner(name) != "a"))
        theirs = fleet.owned_by(victim, NAMES)
        for number, plugin in enumerate(theirs):
            client.request(message(plugin, 900 + number), 10_000)
        ids = {client.start(message(theirs[n % len(theirs)], n, 0.05), 20_000): n for n in range(60)}
        time.sleep(0.4)
        fleet.nodes[victim].process.kill()
        killed = time.monotonic()
        served = 0.0
        while not served:
            try:
                client.request(message(theirs[0], 1000), 5000)
                served = time.monotonic() - killed
            except CallError as error:
                assert error.code == "NODE_LOST"
        answers = Counter[str]()
        for id_ in ids:
            try:
                answers["ok"] += client.wait(id_, 20_000)["type"] == "result"
            except CallError as error:
                assert error.code == "NODE_LOST" and error.started and not error.retryable, error
                answers["lost"] += 1
        assert answers.total() == 60 and answers["lost"], answers
        counted = runs(fleet)
        assert max(counted.values()) == 1, [n for n, times in counted.items() if times > 1]
        print(f"served by the next owner {served * 1000:.0f} ms after kill -9; {dict(answers)}")  # noqa: T201
        assert served < 5, "see the benchmark for the figure on a quiet machine"
        assert fleet.states("a")[victim] == "lost"
        fleet.nodes["a"].wait_metric(f'fleet_node_lost_total{{node="{victim}"}}', 1)
        fleet.start(victim)
        fleet.wait_whole()
        assert sorted(fleet.owned_by(victim, NAMES)) == sorted(theirs)


@pytest.mark.system
def test_a_drained_node_gives_its_plugins_away_and_serves_its_hosts_on(plugins: Path) -> None:
    with LocalFleet(plugins, 2) as fleet:
        mine = fleet.owned_by("a", NAMES)
        assert mine and len(mine) < len(NAMES)
        with Client(fleet.nodes["a"].endpoint) as client:
            fleet.nodes["b"].operate("fleet.drain", node="a")
            wait_for(lambda: fleet.states("b")["a"] == "leaving", 10, "the word of it")
            assert {fleet.owner(name, at) for name in NAMES for at in "ab"} == {"b"}
            for number, plugin in enumerate(NAMES):
                assert client.request(message(plugin, number), 10_000)["result"]["result"] == number
            with pytest.raises(AssertionError, match="no link to a node 'x'"):
                fleet.nodes["b"].operate("fleet.drain", node="x")
            fleet.nodes["b"].operate("fleet.rebalance")
            wait_for(lambda: fleet.owned_by("a", NAMES, "b") == mine, 10, "its part again")


@pytest.mark.slow
def test_nodes_are_ended_and_started_in_turn_under_load_without_an_error(plugins: Path) -> None:
    with LocalFleet(plugins) as fleet, Client(fleet.nodes["a"].endpoint) as client:
        done, number = Counter[str](), 0

        def load(until: float) -> None:
            nonlocal number
            while time.monotonic() < until:
                number += 1
                try:
                    client.request(message(NAMES[number % len(NAMES)], number), 10_000)
                    done["ok"] += 1
                except CallError as error:
                    done[error.code] += 1

        for name in ("b", "c"):
            fleet.nodes[name].process.terminate()
            while fleet.nodes[name].is_running():
                load(time.monotonic() + 0.2)
            fleet.launch(name)
            while not fleet._waiting[name].is_ready():
                load(time.monotonic() + 0.2)
            fleet.wait_ready(name)
            load(time.monotonic() + 0.3)
        slow = {"DEADLINE_EXCEEDED", "AUDIT_UNAVAILABLE"}  # a machine that is busy: nothing of these was run
        assert set(done) - slow == {"ok"} and done["ok"] > 20, done


@pytest.mark.system
def test_a_node_whose_key_is_revoked_or_unknown_is_refused(plugins: Path) -> None:
    with LocalFleet(plugins, 2) as fleet:
        stranger, _ = new_key(fleet.folder / "keys", "stranger")
        fleet.state("b", stranger)
        wait_for(lambda: fleet.states("a")["b"] == "refused", 10, "the refusal of a key that is not registered")
        assert "not registered in the role node" in fleet.nodes_of("a")["b"]["reason"]
        assert {fleet.owner(name) for name in NAMES} == {"a"}
        fleet.state("b")
        wait_for(lambda: fleet.states("a")["b"] == "serving" and fleet.states("b")["a"] == "serving", 20, "b again")
        fleet.nodes["a"].operate("keys.revoke", name=SIGNER, reason="stolen")
        wait_for(lambda: fleet.states("a")["b"] == "refused", 10, "the refusal of a revoked key")
        assert "was revoked" in fleet.nodes_of("a")["b"]["reason"]
        wait_for(lambda: fleet.states("b")["a"] in ("lost", "refused"), 10, "b is not let in")
        assert fleet.nodes["a"].invoke(NAMES[0], "onActionExecute", {"action": "x", "context": {"n": 1}})


@contextmanager
def namespaces(names: list[str]) -> Iterator[dict[str, str]]:
    """A network namespace for each node, on one bridge. Takes root and iproute2."""
    tag = f"apf{os.getpid() % 10_000}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    addresses = {name: f"10.213.{os.getpid() % 250}.{number + 1}" for number, name in enumerate(names)}
    made: list[str] = []
    try:
        ip("link", "add", f"{tag}br", "type", "bridge")
        ip("link", "set", f"{tag}br", "up")
        for name, address in addresses.items():
            ip("netns", "add", f"{tag}{name}")
            made.append(f"{tag}{name}")
            ip("link", "add", f"{tag}{name}v", "type", "veth", "peer", "name", "eth0", "netns", f"{tag}{name}")
            ip("link", "set", f"{tag}{name}v", "master", f"{tag}br", "up")
            ip("-n", f"{tag}{name}", "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", f"{tag}{name}", "link", "set", "eth0", "up")
            ip("-n", f"{tag}{name}", "link", "set", "lo", "up")
        yield addresses
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{tag}br"], capture_output=True)


@pytest.mark.system
@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root")
def test_a_silent_cut_is_known_in_about_a_second_and_heals(plugins: Path) -> None:
    names = ["a", "b", "c"]
    tag = f"apf{os.getpid() % 10_000}"
    with namespaces(names) as addresses:
        fleet = LocalFleet(plugins, 3, {"fleet.lost_seconds": 0.9}, hosts=[addresses[name] for name in names])
        fleet.wrappers = {name: ["ip", "netns", "exec", f"{tag}{name}"] for name in names}
        with fleet, Client(fleet.nodes["a"].endpoint) as client:
            victim = fleet.owner(next(name for name in NAMES if fleet.owner(name) != "a"))
            plugin = fleet.owned_by(victim, NAMES)[0]
            assert client.request(message(plugin, 1), 10_000)
            subprocess.run(["ip", "-n", f"{tag}{victim}", "neigh", "flush", "all"], capture_output=True)
            subprocess.run(["ip", "link", "set", f"{tag}{victim}v", "nomaster"], check=True)  # says nothing to anybody
            begun, n = time.monotonic(), 1
            while True:
                n += 1
                try:
                    client.request(message(plugin, n), 8000)
                    break
                except CallError as error:
                    assert error.code == "NODE_LOST", error
            took = time.monotonic() - begun
            print(f"served by the next owner {took:.2f} s after a silent cut")  # noqa: T201
            assert took <= 1.5
            assert fleet.owner(plugin) != victim == fleet.owner(plugin, victim), "both own it during a cut"
            subprocess.run(["ip", "link", "set", f"{tag}{victim}v", "master", f"{tag}br"], check=True)
            fleet.wait_whole()
            assert max(runs(fleet).values()) == 1
