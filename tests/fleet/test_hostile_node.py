"""A node with a good key that says what no node says: the real one at the other end refuses, and serves on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
import zmq
import zmq.auth

from apex_exec.client import CallError, Client
from apex_exec.fleet.statements import CURVE_KEY
from apex_exec.wire.node_messages import COUNTS_MAX
from tests.support.daemon import ECHO, USER, wait_for, write_plugin
from tests.support.fleet import LocalFleet

NAMES = [f"plugin-{number}" for number in range(8)]
WIRE = [1]
FETCH = '''
@plugin.hook("onDataFetch")
def fetch(context, params):
    return {"transformedData": [1]}
'''


class Impostor:
    """The node ``b``, by its keys: where ``a`` connects to, and a connection to ``a``. All of it in one thread."""

    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet
        self.context: zmq.Context[Any] = zmq.Context()
        self._public, self._secret = zmq.auth.load_certificate(fleet.keys_dir("b") / CURVE_KEY)
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.linger = 0
        self.dealer.curve_publickey, self.dealer.curve_secretkey = self._public, self._secret
        self.dealer.curve_serverkey = fleet.curves["a"]
        self.dealer.connect(f"tcp://127.0.0.1:{fleet.ports['a']}")
        self.bind()

    def bind(self) -> None:
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.curve_server = True
        self.router.curve_secretkey = self._secret
        self.router.bind(f"tcp://127.0.0.1:{self.fleet.ports['b']}")
        self.a = b""

    def restart(self) -> None:
        """Another life of the node, at the same address."""
        self.router.close()
        wait_for(lambda: self.fleet.states("a")["b"] == "lost", 20, "the end of the link")
        self.bind()

    def hear(self, mark: bytes, seconds: float = 20) -> Any:
        """The next message of ``a`` with that mark; None if there is none. Cancellations are left out."""
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0:
            if self.router.poll(left * 1000):
                self.a, found, body = self.router.recv_multipart()
                message = msgspec.msgpack.decode(body)
                if found.startswith(mark) and message["type"] != "cancel":
                    return message
        return None

    def say(self, **message: Any) -> None:
        """A control message on the connection to ``a``."""
        self.raw(msgspec.msgpack.encode(message))

    def raw(self, body: bytes, mark: bytes = b"2") -> None:
        self.dealer.send_multipart([mark, body])

    def is_(self, state: str = "serving", **changes: Any) -> dict[str, Any]:
        return {"type": "node", "name": "b", "version": "1.0", "state": state, "executes": True, "protocol": WIRE,
                **changes}

    def join(self) -> None:
        """Is taken for a node that serves."""
        assert self.hear(b"2") is not None

        def is_known() -> bool:
            self.say(**self.is_())  # again: what comes before the link is there is not heard
            return self.fleet.states("a")["b"] == "serving"

        wait_for(is_known, 60, "the impostor")

    def answer(self, body: bytes | dict[str, Any], mark: bytes = b"1a") -> None:
        """Says something on the link that ``a`` has made."""
        self.router.send_multipart([self.a, mark, body if isinstance(body, bytes) else msgspec.msgpack.encode(body)])

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    plugins = tmp_path_factory.mktemp("plugins")
    for name in NAMES:
        write_plugin(plugins, name, ECHO + FETCH, ("onActionExecute", "onDataFetch"))
    with ExitStack() as stack:
        made = LocalFleet(plugins, 2, {"fleet.join_seconds": 1, "limits.timeout_ms": 1500})
        stack.push(made)
        made.start("a")
        yield made


@pytest.fixture
def impostor(fleet: LocalFleet) -> Iterator[Impostor]:
    made = Impostor(fleet)
    yield made
    made.close()
    wait_for(lambda: fleet.states("a")["b"] != "serving", 20, "the impostor's end")
    wait_for(lambda: serves(fleet), 30, "a call at the real node")


def serves(fleet: LocalFleet) -> bool:
    try:
        return bool(fleet.nodes["a"].invoke(NAMES[0], "onActionExecute", {"action": "x", "context": {"n": 1}}))
    except CallError as error:
        assert error.retryable, error  # a machine that is busy
        return False


def theirs(fleet: LocalFleet) -> str:
    return fleet.owned_by("b", NAMES)[0]


def ask(client: Client, plugin: str) -> int:
    return client.start({"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
                         "payload": {"action": "x", "context": {}}}, 10_000)


def result(id_: int, value: Any) -> dict[str, Any]:
    return {"type": "result", "id": id_, "plugin": NAMES[0], "action": "onActionExecute", "result": value,
            "effects": [], "usage": {}}


def test_what_cannot_be_read_or_is_out_of_bounds_changes_nothing(impostor: Impostor, fleet: LocalFleet) -> None:
    impostor.join()
    slots = list(range(4096))
    a = fleet.nodes["a"]
    before = a.metric('protocol_anomalies_total{kind="unreadable_node"}') or 0.0
    bad: list[bytes] = [b"", b"\xc1", b"\x91" * 5000, msgspec.msgpack.encode({"type": "crown"}),
                        *map(msgspec.msgpack.encode, (
                            impostor.is_("king"), impostor.is_(version="1\n\x1b[31mall is well"),
                            impostor.is_(version="v" * 101), impostor.is_(protocol=[1] * 65),
                            {"type": "handover", "slots": [65_536], "leftMs": 0},
                            {"type": "handover", "slots": slots, "leftMs": -1},
                            {"type": "handover", "slots": [], "leftMs": 0, "windows": {NAMES[0]: [[-60_000, "u"]]}},
                            {"type": "handover", "slots": [], "leftMs": 0, "windows": {NAMES[0]: [[60_001, "u"]]}},
                            {"type": "handover", "slots": [], "leftMs": 0,
                             "windows": {NAMES[0]: [[0, "u"]] * (COUNTS_MAX + 1)}},
                            {"type": "order", "order": "shutdown", "by": "b"}))]
    for body in bad:
        impostor.raw(body)
    a.wait_metric('protocol_anomalies_total{kind="unreadable_node"}', before + len(bad))
    impostor.say(type="handover", slots=[], leftMs=0, windows={name: [[0, "u"]] * 2000 for name in NAMES})
    wait_for(lambda: "hands over more counts at once than it may" in a.log, 10, "the refusal")
    assert fleet.states("a") == {"a": "serving", "b": "serving"} and "all is well" not in a.log


def test_a_node_of_a_newer_wire_is_refused_in_one_line_and_gets_no_call(impostor: Impostor, fleet: LocalFleet) -> None:
    assert impostor.hear(b"2") is not None
    for _ in range(3):
        impostor.say(**impostor.is_(protocol=[2, 3], version="9.0"))
    wait_for(lambda: fleet.states("a")["b"] == "refused", 20, "the refusal")
    time.sleep(0.3)
    assert fleet.nodes["a"].log.count("speaks the protocol versions [2, 3] between nodes, and this one speaks 1") == 1
    assert {fleet.owner(name) for name in NAMES} == {"a"}


def test_a_node_divides_no_dispatch_and_forwards_no_call_of_another(impostor: Impostor, fleet: LocalFleet) -> None:
    impostor.join()
    call = {"type": "invoke", "id": 1, "plugin": fleet.owned_by("a", NAMES)[0], "action": "onActionExecute",
            "userId": USER, "payload": {"action": "x", "context": {}}}
    for message, mark, words in (
            ({"type": "dispatch", "id": 1, "action": "onDashboardLoad", "userId": USER,
              "payload": {"dashboardId": "d"}}, b"1b", "it divides a dispatch itself"),
            (call, b"1a", "forwarded already, by the node 'a'; b may not forward it again"),
            (call, b"1\xff\n\x1b[31m", "forwarded already"), (call, b"", "does not say what this message is"),
            ({"type": "admin", "id": 1, "op": "audit.read", "args": {}}, b"1b", "answers everything else itself"),
            ({"type": "provide", "id": 1, "methods": []}, b"1b", "answers everything else itself")):
        impostor.raw(msgspec.msgpack.encode(message), mark)
        while True:
            assert impostor.dealer.poll(10_000), words
            *_, body = impostor.dealer.recv_multipart()
            answer = msgspec.msgpack.decode(body)
            if answer["type"] == "error":
                break
        assert words in answer["message"] and answer["message"].isprintable() and not answer["started"]


def test_an_owner_that_answers_twice_or_for_others_or_what_is_none_costs_no_host_but_its_own_call(
        impostor: Impostor, fleet: LocalFleet) -> None:
    impostor.join()
    plugin = theirs(fleet)
    with Client(fleet.nodes["a"].endpoint) as client:
        first, second = ask(client, plugin), ask(client, plugin)
        ids = [impostor.hear(b"1a")["id"] for _ in range(2)]
        impostor.answer(result(ids[0] + 7, "nobody's"))
        impostor.answer(result(ids[0], 1))
        impostor.answer(result(ids[0], "again"))
        head = msgspec.msgpack.encode(result(ids[1], 2))
        for body in (head[:-1] + b"\xc1", head[:-3], head + b"\x00", b"\xc1", b"", b"\x91" * 3000):
            impostor.answer(body)
        assert client.wait(first, 5000)["result"] == 1
        begun = time.monotonic()
        with pytest.raises(CallError) as caught:
            client.wait(second, 20_000)
        assert caught.value.code == "NODE_LOST" and caught.value.started and time.monotonic() - begun < 10
        third = ask(client, plugin)
        impostor.answer(result(impostor.hear(b"1a")["id"], 3))
        assert client.wait(third, 5000)["result"] == 3, "the link and the host's connection live on"


def test_an_owner_that_answers_what_no_hook_returns_does_not_hold_a_dispatch_up(impostor: Impostor,
                                                                                fleet: LocalFleet) -> None:
    impostor.join()
    with Client(fleet.nodes["a"].endpoint) as client:
        asked = client.start({"type": "dispatch", "action": "onDataFetch", "userId": USER,
                              "payload": {"query": "q", "filters": {}}}, 30_000)
        for _ in fleet.owned_by("b", NAMES):
            impostor.answer(result(impostor.hear(b"1a")["id"], 7))
        reply = client.wait(asked, 10_000)
    codes = {one["plugin"]: one.get("error", {}).get("code") for one in reply["outcomes"]}
    assert codes == {name: "INTERNAL" if fleet.owner(name) == "b" else None for name in NAMES}
    assert reply["partial"] and reply["result"]["transformedData"] == [1]


def test_a_host_methods_answer_goes_to_the_life_of_the_node_that_asked(impostor: Impostor, fleet: LocalFleet) -> None:
    """A node that begins anew counts its calls from 1 again, and would take the answer for one of its own."""
    impostor.join()
    asked, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def users(call: Any) -> str:
        asked.set()
        assert go_on.wait(20)
        return "a secret of the first life"

    with Client(fleet.nodes["a"].endpoint) as host:
        host.provide({"admin.users.list": users})

        def serve() -> None:
            while not done.is_set():
                host.serve(0.2)

        serving = threading.Thread(target=serve)
        serving.start()
        impostor.router.send_multipart([impostor.a, msgspec.msgpack.encode({
            "type": "hostCall", "callId": 1, "method": "admin.users.list", "params": {}, "plugin": NAMES[0],
            "userId": USER, "deadlineMs": 2**62})])
        assert asked.wait(10)
        impostor.restart()
        impostor.join()
        go_on.set()
        assert impostor.hear(b"1a", 2) is None
        done.set()
        serving.join(20)


def test_a_message_of_more_bytes_than_any_answer_ends_the_link_and_nothing_else(
        impostor: Impostor, fleet: LocalFleet) -> None:
    impostor.join()
    impostor.answer(b"\x00" * (66 * 1024 * 1024))
    wait_for(lambda: fleet.states("a")["b"] == "lost", 20, "the end of the link")
