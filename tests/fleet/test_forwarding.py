"""Three real daemons as one fleet: a host of any of them calls every plugin, which one of them runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.auth

from apex_exec.client import CallError, Cancelled, Client
from apex_exec.client.protocol import CurveKeys
from apex_exec.fleet.statements import CURVE_KEY
from tests.support.daemon import USER, Daemon, wait_for, write_plugin
from tests.support.fleet import LocalFleet

NAMES = [f"plugin-{number}" for number in range(9)]
WHERE = '''
import os
import time

@plugin.hook("onActionExecute")
async def act(context, params):
    asked = params["context"]
    if "sleep" in asked:
        time.sleep(asked["sleep"])
    if "method" in asked:
        return {"result": await context.api.call(asked["method"], {"of": asked["of"]}), "metadata": {}}
    return {"result": None if asked.get("pass") else [os.getppid(), asked], "metadata": {}}

@plugin.hook("onDashboardLoad")
def load(context, params):
    return {"customWidgets": [{"id": "w", "component": "C", "props": {"d": params["dashboardId"]}}]}

@plugin.hook("onDataFetch")
def fetch(context, params):
    return {"transformedData": [*(params.get("data") or []), context.plugin_id]}
'''
HOOKS = ("onActionExecute", "onDashboardLoad", "onDataFetch")
PERMISSIONS = ("ui:render", "admin:users")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for name in NAMES:
        write_plugin(folder, name, WHERE, HOOKS, PERMISSIONS)
    return folder


@pytest.fixture(scope="module")
def fleet(plugins: Path) -> Iterator[LocalFleet]:
    policy = plugins.parent / "policy.toml"
    policy.write_text("".join(f'[plugin.{name}]\nallow = ["ui:render", "admin:users"]\n' for name in NAMES))
    with LocalFleet(plugins, config={"security.policy_file": str(policy)}) as made:
        yield made


def call(fleet: LocalFleet, at: str, plugin: str, **context: Any) -> Any:
    return fleet.nodes[at].invoke(plugin, "onActionExecute", {"action": "x", "context": context})["result"]


def far(fleet: LocalFleet, at: str = "a") -> str:
    """A plugin that another node than ``at`` owns."""
    return next(plugin for plugin in NAMES if fleet.owner(plugin) != at)


def test_all_nodes_agree_and_a_plugin_runs_at_its_owner_whoever_calls(fleet: LocalFleet) -> None:
    owners = {plugin: fleet.owner(plugin) for plugin in NAMES}
    assert set(owners.values()) == {"a", "b", "c"}
    for at in fleet.names:
        assert {plugin: fleet.owner(plugin, at) for plugin in NAMES} == owners
    for plugin in NAMES:
        zygotes = {call(fleet, at, plugin)[0] for at in fleet.names}
        assert len(zygotes) == 1, plugin
    for at in fleet.names:
        pids = {row["id"] for row in fleet.nodes[at].operate("daemon.status")["plugins"] if row["pids"]}
        assert pids == {plugin for plugin in NAMES if owners[plugin] == at}


def test_an_error_and_its_usage_come_back_as_they_were(fleet: LocalFleet) -> None:
    with Client(fleet.nodes["a"].endpoint) as client:
        for plugin in NAMES[:4]:
            with pytest.raises(CallError) as caught:
                client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": {"sleep": "no number"}})
            assert caught.value.code == "PLUGIN_ERROR" and caught.value.details["exception"] == "TypeError"
        with pytest.raises(CallError, match="HOOK_NOT_DECLARED|does not declare"):
            client.invoke(far(fleet), "onAuthSuccess", USER, {"sessionId": "s"})
        with pytest.raises(CallError, match="no plugin"):
            client.invoke("nobody", "onActionExecute", USER, {"action": "x", "context": {}})


def test_a_dispatch_over_three_nodes_is_that_of_one_byte_for_byte(fleet: LocalFleet, plugins: Path) -> None:
    def plain(reply: dict[str, Any]) -> bytes:
        for outcome in reply["outcomes"]:
            outcome.pop("usage")
        return msgspec.msgpack.encode({key: value for key, value in reply.items() if key != "id"})

    cases: list[tuple[str, dict[str, Any]]] = [
        ("onDashboardLoad", {"dashboardId": "d"}), ("onDataFetch", {"query": "q", "filters": {}, "data": ["first"]}),
        ("onActionExecute", {"action": "x", "context": {"pass": True}})]
    with Daemon(plugins=plugins) as one:
        alone = [plain(one.dispatch(hook, payload)) for hook, payload in cases]
    assert [plain(fleet.nodes["b"].dispatch(hook, payload)) for hook, payload in cases] == alone


def test_a_forwarded_call_is_cancelled_where_it_runs(fleet: LocalFleet) -> None:
    with Client(fleet.nodes["a"].endpoint) as client:
        plugin = far(fleet)
        call_id = client.start({"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
                                "payload": {"action": "x", "context": {"sleep": 4}}})
        time.sleep(0.3)
        begun = time.monotonic()
        client.cancel(call_id)
        with pytest.raises(Cancelled):
            client.wait(call_id, 5000)
        assert time.monotonic() - begun < 2
        owner = fleet.nodes[fleet.owner(plugin)]
        wait_for(lambda: owner.operate("daemon.status")["pending"] == 0, 5, "the end at the owner")


def test_a_host_method_is_answered_by_a_host_of_the_node_that_the_call_came_from(fleet: LocalFleet) -> None:
    plugin = far(fleet)
    owner = fleet.owner(plugin)
    approve = {"admin.users.list"}
    with Client(fleet.nodes["a"].endpoint) as host:
        host.provide({method: lambda call: {"by": "a", "of": call.params["of"]} for method in approve})
        answer: dict[str, Any] = {}

        def ask() -> None:
            with Client(fleet.nodes["a"].endpoint) as other:
                try:
                    answer.update(other.invoke(plugin, "onActionExecute", USER, {
                        "action": "x", "context": {"method": "admin.users.list", "of": owner}}, 4000))
                except CallError as error:
                    answer["error"] = error

        wait_for(lambda: _told(fleet, owner), 3, "the owner's word of the provider")
        asking = threading.Thread(target=ask)
        asking.start()
        host.serve(3)
        asking.join(10)
    assert "error" not in answer, answer
    assert answer["result"]["result"] == {"by": "a", "of": owner}


def _told(fleet: LocalFleet, owner: str) -> bool:
    time.sleep(0.3)
    return bool(owner)


def test_a_call_that_was_forwarded_already_is_one_clear_error(fleet: LocalFleet) -> None:
    """What a node with a good key sends that it has from another node, or that says nothing of it."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    public, secret = zmq.auth.load_certificate(fleet.keys_dir("c") / CURVE_KEY)
    socket.curve_publickey, socket.curve_secretkey = public, secret
    socket.curve_serverkey = fleet.curves["a"]
    socket.connect(f"tcp://127.0.0.1:{fleet.ports['a']}")
    plugin = next(name for name in NAMES if fleet.owner(name) == "a")
    body = msgspec.msgpack.encode({"type": "invoke", "id": 7, "plugin": plugin, "action": "onActionExecute",
                                   "userId": USER, "payload": {"action": "x", "context": {}}})
    try:
        for mark, words in ((b"1b", "forwarded already, by the node 'b'"), (b"9", "does not say"), (b"1c", "")):
            socket.send_multipart([mark, body])
            assert socket.poll(5000), words
            answer = msgspec.msgpack.decode(socket.recv_multipart()[-1])
            assert answer["id"] == 7
            if words:
                assert answer["code"] == "PROTOCOL_ERROR" and words in answer["message"] and not answer["started"]
            else:
                assert answer["type"] == "result"
    finally:
        context.destroy(linger=0)


def test_ipc_and_tcp_are_served_together(plugins: Path, tmp_path: Path) -> None:
    keys = tmp_path / "curve"
    keys.mkdir()
    for name in ("server", "web"):
        zmq.auth.create_certificates(keys, name)
        (keys / f"{name}.key_secret").chmod(0o600)
    with LocalFleet(plugins, 1, {"host.curve_keys_dir": str(keys)}) as alone:
        public, secret = zmq.auth.load_certificate(keys / "web.key_secret")
        assert secret is not None
        curve = CurveKeys(alone.curves["a"], public, secret)
        with Client(f"tcp://127.0.0.1:{alone.ports['a']}", curve=curve) as client:
            by_tcp = client.invoke(NAMES[0], "onActionExecute", USER, {"action": "x", "context": {}})["result"]
        assert by_tcp["result"] == call(alone, "a", NAMES[0])
