"""Three real daemons as one fleet: a host of any of them calls every plugin, which one of them runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import Client
from tests.support.daemon import USER, write_plugin
from tests.support.fleet import LocalFleet

NAMES = [f"plugin-{number}" for number in range(9)]
WHERE = '''
import os

@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": [os.getppid(), params["context"]], "metadata": {}}
'''


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    for name in NAMES:
        write_plugin(plugins, name, WHERE)
    with LocalFleet(plugins) as made:
        yield made


def call(fleet: LocalFleet, at: str, plugin: str, context: object = 1) -> object:
    return fleet.nodes[at].invoke(plugin, "onActionExecute", {"action": "x", "context": {"c": context}})["result"]


def test_all_nodes_agree_and_a_plugin_runs_at_its_owner_whoever_calls(fleet: LocalFleet) -> None:
    owners = {plugin: fleet.owner(plugin) for plugin in NAMES}
    assert set(owners.values()) == {"a", "b", "c"}
    for at in fleet.names:
        assert {plugin: fleet.owner(plugin, at) for plugin in NAMES} == owners
    for plugin in NAMES:
        zygotes = {call(fleet, at, plugin)[0] for at in fleet.names}  # type: ignore[index]
        assert len(zygotes) == 1, plugin
