"""Host methods: an approval at the time of the call, one provider a method, an answer from nobody else."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from apex_exec.catalogue.methods import HostMethod
from apex_exec.client import CallError, Client
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.host_methods import (
    ABSENT_NS,
    METHODS_MAX,
    METHODS_PER_PEER_MAX,
    WAITING_MAX,
    WAITING_PER_PLUGIN_MAX,
    HostMethods,
)
from apex_exec.errors import WireError
from apex_exec.wire import messages as msg
from tests.gateway.bundles import ALL, bundle
from tests.gateway.conftest import A
from tests.support.daemon import Daemon, wait_for


class Hosts:
    """``HostMethods`` with what it sent and what it found odd."""

    def __init__(self) -> None:
        self.sent: list[tuple[Peer, Any]] = []
        self.odd: list[str] = []
        self.answers: list[Any] = []
        self.now_ns = 10**9
        self.table = HostMethods(lambda kind, _peer: self.odd.append(kind), lambda: self.now_ns)

    def peer(self, name: bytes) -> Peer:
        return Peer(name, 1, self)  # type: ignore[arg-type]  # of all that connections do, the table only replies

    def reply(self, peer: Peer, _frames: list[bytes], body: bytes) -> None:
        self.sent.append((peer, msgspec.msgpack.decode(body)))

    def call(self, method: str, plugin: str = "p") -> int:
        return self.table.call(HostMethod(method), plugin, A, 100, lambda *answer: self.answers.append(answer))


def reply(call_id: int, **more: Any) -> msg.HostReply:
    return msg.HostReply(call_id=call_id, ok=more.pop("ok", True), **more)


def test_the_first_provider_serves_and_the_next_takes_over_as_soon_as_it_ends() -> None:
    hosts = Hosts()
    one, two, three = hosts.peer(b"1"), hosts.peer(b"2"), hosts.peer(b"3")
    names = ["admin.users.list", "system.config.get"]
    assert hosts.table.provide(one, names[:1]) == (names[:1], [])
    assert hosts.table.provide(two, names) == (names[1:], names[:1])
    assert hosts.table.provide(three, names * 2) == ([], names * 2)
    assert hosts.table.provide(one, names[:1]) == (names[:1], []), "to say it again changes nothing"
    hosts.call(names[0])
    assert hosts.sent[-1][0] is one and hosts.sent[-1][1]["method"] == names[0]
    hosts.table.peer_gone(one)
    ((body, code, message),) = hosts.answers
    assert (body, code) == (b"", "host_lost") and "not known" in message
    assert hosts.call(names[0]) and hosts.sent[-1][0] is two
    hosts.table.peer_gone(three)
    hosts.table.peer_gone(two)
    assert len(hosts.answers) == 2 and hosts.answers[-1][1] == "host_lost"


def test_calls_wait_for_a_provider_that_comes_back_and_no_longer_than_their_time() -> None:
    hosts = Hosts()
    one, two = hosts.peer(b"1"), hosts.peer(b"2")
    name = "admin.users.list"
    assert hosts.call(name) == 0 and hosts.answers.pop()[1] == "not_provided", "never provided: nobody is expected"
    hosts.table.provide(one, [name])
    hosts.table.peer_gone(one)
    numbers = [hosts.call(name) for _ in range(3)]
    assert all(numbers) and hosts.sent == [] and hosts.answers == []
    assert hosts.table.forget(numbers[1], is_late=True) is False, "nobody was asked"
    hosts.now_ns += 40 * 10**6
    hosts.table.host_reply(two, reply(numbers[0]))
    assert hosts.odd == ["foreign_reply"], "what has not been asked of it, it cannot answer"
    assert hosts.table.provide(two, [name]) == ([name], [])
    assert [(peer, sent["callId"], sent["deadlineMs"]) for peer, sent in hosts.sent] == [
        (two, numbers[0], 60), (two, numbers[2], 60)]
    hosts.table.host_reply(two, reply(numbers[0]))
    assert hosts.answers == [(b"\xc0", "", "")]
    hosts.table.peer_gone(two)
    waits = hosts.call(name)
    assert hosts.table.expire(hosts.now_ns) == hosts.now_ns + ABSENT_NS
    hosts.now_ns += ABSENT_NS
    assert hosts.table.expire(hosts.now_ns) == 0
    assert hosts.answers[-1][1] == "not_provided" and hosts.table.forget(waits) is False
    assert hosts.call(name) == 0 and hosts.answers[-1][1] == "not_provided"
    assert not hosts.table._absent and not hosts.table._waiting and not hosts.table._out


def test_what_waits_for_a_provider_is_bounded() -> None:
    hosts = Hosts()
    one = hosts.peer(b"1")
    for start in range(0, 2 * METHODS_MAX, METHODS_PER_PEER_MAX):
        hosts.table.provide(one, [f"admin.users.m{n}" for n in range(start, start + METHODS_PER_PEER_MAX)])
        hosts.table.peer_gone(one)
    assert len(hosts.table._absent) == METHODS_MAX
    name = f"admin.users.m{2 * METHODS_MAX - 1}"
    plugins = [f"p{number}" for number in range(WAITING_MAX // WAITING_PER_PLUGIN_MAX)]
    assert all(hosts.call(name, plugin) for plugin in plugins for _ in range(WAITING_PER_PLUGIN_MAX))
    assert hosts.answers == []
    assert hosts.call(name, "another") == 0 and hosts.answers.pop()[1] == "not_provided"


def test_a_plugin_that_has_its_share_waiting_leaves_room_for_the_others() -> None:
    hosts = Hosts()
    one = hosts.peer(b"1")
    name = "admin.users.list"
    hosts.table.provide(one, [name])
    hosts.table.peer_gone(one)
    numbers = [hosts.call(name, "greedy") for _ in range(WAITING_PER_PLUGIN_MAX)]
    assert all(numbers) and hosts.answers == []
    assert hosts.call(name, "greedy") == 0 and hosts.answers.pop()[1] == "not_provided"
    other = hosts.call(name, "other")
    assert other and hosts.answers == []
    hosts.table.forget(numbers[0])
    assert hosts.call(name, "greedy"), "what is given up is room again"
    hosts.table.provide(one, [name])
    assert other in [sent["callId"] for _, sent in hosts.sent]
    hosts.table.peer_gone(one)
    assert all(hosts.call(name, "greedy") for _ in range(WAITING_PER_PLUGIN_MAX)), "what was sent waits no more"


def test_a_host_that_does_not_answer_in_time_is_overtaken() -> None:
    hosts = Hosts()
    one, two = hosts.peer(b"1"), hosts.peer(b"2")
    names = ["admin.users.list", "system.config.get"]
    hosts.table.provide(one, names)
    hosts.table.provide(two, names)
    assert hosts.table.forget(hosts.call(names[0])) and hosts.call(names[0]) and hosts.sent[-1][0] is one
    assert hosts.table.forget(hosts.call(names[0]), is_late=True)
    for name in names:
        hosts.call(name)
        assert hosts.sent[-1][0] is two
    hosts.table.forget(hosts.call(names[0]), is_late=True)
    hosts.call(names[0])
    assert hosts.sent[-1][0] is one, "it may have recovered"


def test_only_who_was_asked_may_answer_and_only_once() -> None:
    hosts = Hosts()
    one, two = hosts.peer(b"1"), hosts.peer(b"2")
    hosts.table.provide(one, ["admin.users.list"])
    number = hosts.call("admin.users.list")
    for peer, call_id, odd in ((two, number, "foreign_reply"), (one, number + 1, "unknown_call_id"),
                               (one, 0, "unknown_call_id"), (one, -1, "unknown_call_id")):
        hosts.table.host_reply(peer, reply(call_id))
        assert hosts.odd[-1] == odd and hosts.answers == []
    hosts.table.host_reply(one, reply(number))
    assert hosts.answers == [(b"\xc0", "", "")]
    hosts.table.host_reply(one, reply(number))
    assert hosts.odd[-1] == "late_reply" and len(hosts.answers) == 1
    number = hosts.call("admin.users.list")
    hosts.table.forget(number)
    hosts.table.host_reply(one, reply(number))
    assert hosts.odd[-1] == "late_reply" and len(hosts.answers) == 1
    number = hosts.call("admin.users.list")
    hosts.table.host_reply(one, reply(number, ok=False, error={"code": "nope", "message": "no such user"}))
    assert hosts.answers[-1] == (b"", "host_error", "nope: no such user")


@pytest.mark.parametrize("params", [
    b"\xa2\xff\xfe", b"\x91\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + bytes(6), b"\xd4\x05\x00", b"\x81\x01\x01",
    b"\x91" * 100 + b"\x90", b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + b"\xff" * 7])
def test_parameters_that_no_host_could_read_reach_none(params: bytes) -> None:
    """A worker writes what it likes onto its link: text that is not UTF-8, NaN, 64-bit integers, a hundred levels."""
    hosts = Hosts()
    hosts.table.provide(hosts.peer(b"1"), ["admin.users.list"])
    method = HostMethod("admin.users.list", msgspec.Raw(params))
    assert hosts.table.call(method, "p", A, 100, lambda *answer: hosts.answers.append(answer)) == 0
    assert hosts.sent == [] and hosts.answers[0][1] == "invalid_output"


@pytest.mark.parametrize("name", ["x", "admin.", "admin.users.", "admin.users", "query", "a" * 101,
                                  "admin.users." + "a" * 100])
def test_a_method_outside_the_prefixes_cannot_be_provided(name: str) -> None:
    with pytest.raises(WireError):
        hosts = Hosts()
        hosts.table.provide(hosts.peer(b"1"), ["admin.users.list", name])


def test_the_number_of_methods_is_bounded() -> None:
    hosts = Hosts()
    peer = hosts.peer(b"1")
    hosts.table.provide(peer, [f"admin.users.m{n}" for n in range(METHODS_PER_PEER_MAX)])
    with pytest.raises(WireError):
        hosts.table.provide(peer, ["admin.users.more"])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    bundle(plugins, "admin", [*ALL, "admin:users"])
    bundle(plugins, "boss", [*ALL, "admin:users", "admin:billing"])
    policy = plugins.parent / "policy.toml"
    policy.write_text('allow = ["data:read", "data:write", "ui:render", "events:emit", "network:fetch"]\n'
                      '[plugin.boss]\nallow = ["admin:users"]\n')
    with Daemon(None, plugins, {"sandbox.min_level": "L0", "security.policy_file": str(policy)}) as running:
        yield running


def ask(daemon: Daemon, plugin: str, method: str, **params: Any) -> Any:
    with Client(daemon.endpoint) as client:
        step = {"api": "call", "args": {"method": method, "params": params}, "raise": True}
        reply = client.invoke(plugin, "onActionExecute", A, {"action": "x", "context": {"steps": [step]}}, 1500)
        return reply["result"]["result"][0]


def failed(daemon: Daemon, plugin: str, method: str) -> tuple[str, Any]:
    with pytest.raises(CallError) as caught:
        ask(daemon, plugin, method)
    return caught.value.code, caught.value.reply.get("details")


def test_a_host_serves_an_approved_plugin_and_no_other(daemon: Daemon) -> None:
    code, details = failed(daemon, "boss", "admin.users.list")
    assert code == "NOT_PROVIDED" and details["method"] == "call"
    seen: list[Any] = []

    def listed(call: Any) -> Any:
        seen.append((call.method, call.params, call.plugin, call.user_id))
        return {"users": [1, 2]}

    ready, done = threading.Event(), threading.Event()

    def serve() -> None:
        with Client(daemon.endpoint) as host:
            host.provide({"admin.users.list": listed})
            ready.set()
            while not done.is_set():
                host.serve(0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(10)
    assert ask(daemon, "boss", "admin.users.list", page=1) == {"users": [1, 2]}
    assert seen == [("admin.users.list", {"page": 1}, "boss", A)]
    assert failed(daemon, "admin", "admin.users.list")[0] == "PERMISSION_DENIED"  # not approved
    assert failed(daemon, "boss", "admin.billing.pay")[0] == "PERMISSION_DENIED"  # this one is not either
    assert failed(daemon, "boss", "system.config.set")[0] == "PERMISSION_DENIED"  # not asked for
    assert len(seen) == 1
    done.set()
    thread.join(10)
    assert failed(daemon, "boss", "admin.users.list")[0] == "NOT_PROVIDED"


def test_provide_is_for_dealer(daemon: Daemon) -> None:
    import msgspec
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(daemon.endpoint)
        socket.send(msgspec.msgpack.encode({"type": "provide", "id": 1, "methods": ["admin.users.list"]}))
        assert socket.poll(5000)
        assert msgspec.msgpack.decode(socket.recv())["code"] == "PROTOCOL_ERROR"


def test_what_connections_provide_is_bounded_in_all_and_free_with_their_end() -> None:
    def names(peer: int, count: int = METHODS_PER_PEER_MAX) -> list[str]:
        return [f"admin.users.m{peer}-{number}" for number in range(count)]

    hosts = Hosts()
    methods = hosts.table
    peers = [hosts.peer(b"\0%d" % number) for number in range(METHODS_MAX // METHODS_PER_PEER_MAX + 1)]
    for number, peer in enumerate(peers[:-1]):
        assert methods.provide(peer, names(number)) == (names(number), [])
        with pytest.raises(WireError, match="one connection") as refused:
            methods.provide(peer, ["admin.users.more"])
        assert refused.value.code == "INVALID_INPUT"
    with pytest.raises(WireError) as refused:
        methods.provide(peers[-1], ["admin.users.more"])
    assert refused.value.code == "OVERLOADED"
    methods.peer_gone(peers[0])
    assert methods.provide(peers[-1], names(0, 3)) == (names(0, 3), [])
    for peer in peers:
        methods.peer_gone(peer)
    assert not methods._providers and not methods._of and not methods._count


HOST = """
import os, sys, time
from apex_exec.client import Client
def named(call):
    if call.params.get("hang"):
        print("hangs", flush=True)
        time.sleep(60)
    return {"by": sys.argv[2], "n": call.params["n"]}
with Client(sys.argv[1]) as host:
    print(host.provide({"admin.users.list": named}), flush=True)
    while True:
        host.serve(0.1)
"""


@contextlib.contextmanager
def a_host(daemon: Daemon, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that provides ``admin.users.list`` and answers with its name; it has said so."""
    with subprocess.Popen([sys.executable, "-c", HOST, daemon.endpoint, name], stdout=subprocess.PIPE,
                          text=True) as process:
        try:
            assert process.stdout is not None
            assert "provided" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def calls(daemon: Daemon, ended: threading.Event, found: list[Any]) -> None:
    """Asks again and again, one call after another: what each was answered."""
    with Client(daemon.endpoint) as client:
        number = 0
        while not ended.is_set():
            number += 1
            step = {"api": "call", "args": {"method": "admin.users.list", "params": {"n": number}}}
            reply = client.invoke("boss", "onActionExecute", A, {"action": "x", "context": {"steps": [step]}})
            (answer,) = reply["result"]["result"]
            assert answer.get("code") == "host_lost" or answer["n"] == number, answer
            found.append(answer.get("by") or answer["code"])


def test_a_rolling_restart_of_the_host_loses_no_call(daemon: Daemon) -> None:
    ended, found = threading.Event(), list[Any]()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(a_host(daemon, "first"))
        stack.enter_context(a_host(daemon, "second"))
        pids = daemon.pids("boss")
        thread = threading.Thread(target=calls, args=(daemon, ended, found))
        thread.start()
        try:
            wait_for(lambda: found.count("first") > 5, 20, "the first serves")
            pids = daemon.pids("boss")
            first.kill()
            wait_for(lambda: found.count("second") > 5, 20, "the second takes over")
            stack.close()  # nobody is left: calls wait
            count = len(found)
            time.sleep(0.3)
            assert len(found) <= count + 1
            with a_host(daemon, "third"):
                wait_for(lambda: found.count("third") > 5, 20, "the third is found by what waited")
                ended.set()
                thread.join(20)
        finally:
            ended.set()
            thread.join(20)
    assert not thread.is_alive() and set(found) <= {"first", "second", "third", "host_lost"}
    assert found.count("host_lost") <= 2, "only what was out at a host that was killed"
    assert daemon.pids("boss") == pids, "no worker was killed"


def test_what_was_out_at_a_killed_host_has_an_outcome_that_is_not_known(daemon: Daemon) -> None:
    step = {"api": "call", "args": {"method": "admin.users.list", "params": {"n": 1, "hang": True}}}
    with a_host(daemon, "dies") as host, Client(daemon.endpoint) as client:
        id_ = client.start({"type": "invoke", "plugin": "boss", "action": "onActionExecute", "userId": A,
                            "payload": {"action": "x", "context": {"steps": [step]}}})
        assert host.stdout is not None and host.stdout.readline() == "hangs\n"
        pids = daemon.pids("boss")
        host.kill()
        ((answer),) = client.wait(id_, 4000)["result"]["result"]
    assert answer["code"] == "host_lost" and answer["kind"] == "ApiError" and "not known" in answer["message"]
    assert daemon.pids("boss") == pids


def test_a_frozen_host_is_overtaken_by_the_one_that_stands_by(daemon: Daemon) -> None:
    with a_host(daemon, "frozen") as frozen, a_host(daemon, "stands by"):
        frozen.send_signal(signal.SIGSTOP)
        with Client(daemon.endpoint) as client:
            step = {"api": "call", "args": {"method": "admin.users.list", "params": {"n": 1}}}
            found = [client.invoke("boss", "onActionExecute", A, {"action": "x", "context": {"steps": [step]}},
                                   deadline_ms=1000)["result"]["result"][0] for _ in range(2)]
    assert found[0]["code"] == "deadline_exceeded" and found[1] == {"by": "stands by", "n": 1}


@pytest.mark.parametrize("body", [b"\xa3\xed\xa0\xbd", b"\x81\xa3\xed\xa0\xbd\xc0", b"\xd7\xff" + b"\xff" * 8])
def test_a_hosts_answer_that_no_plugin_could_read_is_the_hosts_error(body: bytes) -> None:
    hosts = Hosts()
    one = hosts.peer(b"1")
    hosts.table.provide(one, ["admin.users.list"])
    hosts.table.host_reply(one, reply(hosts.call("admin.users.list"), result=msgspec.Raw(body)))
    assert hosts.answers[-1][1] == "host_error"
