"""The links to side processes: typed messages that cost what lists do, whole from any thread, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import registrar_messages
from apex_exec.daemon.sides import check_messages
from apex_exec.gateway import messages as gateway
from apex_exec.ledger import messages as ledger
from apex_exec.ledger.records import AuditRecord
from apex_exec.observe import messages as observe
from apex_exec.wire.side_link import AsyncEnd, BlockingEnd, Incoming, frame_of

SPEC = PluginSpec("p", "1.0.0", "d", "plugin.py", ("onDataFetch",), users=frozenset(("u",)),
                  approval_expires={"a": 1.5})
EVERY = (
    ledger.Batch(7, [b"line", [1, "u"]], [[0, "key"]]), ledger.Ready(0), ledger.Committed(7), ledger.Failing("full"),
    ledger.Recovered(), ledger.Warned("nearly"), ledger.Stats(1, 2, 3),
    gateway.Call(1, "query", "p", "u", ("t",), (), 5, b"\x80", 0.1), gateway.Cancel(1), gateway.Pass(1, 20),
    gateway.Recorded(["r"]), gateway.Done(1, b"\xc0", {"rows": 1}), gateway.Failed(1, "timeout", "late", 5),
    gateway.TenantsAsked("u", 5), gateway.TenantsFound("u", ["t"], "late"), gateway.Hop(1), gateway.Spent("p", 9),
    gateway.Written("r", 1, "data.deletion", "u", "p", "delete", {"table": "t"}),
    observe.Beat(), observe.Series([("queued", ("p",), 1.0), ("delay", (), [0.5, 1, 0])]), observe.Forget("p"),
    observe.Health({"audit": ""}), check_messages.Check(1, "onDataFetch", b"\xc0", "", ["table"]),
    check_messages.Checked(1, "INVALID_OUTPUT", "no", {"path": "$"}, 5),
    registrar_messages.Op(1, "plugin.install", {"bundle": b"zip"}, 1000),
    registrar_messages.Answered(1, True, {"digest": "d"}), registrar_messages.NewSettings({"pool": {"in_flight": 1}}),
    registrar_messages.Done(1, ["x"]), registrar_messages.Refused(1, "REFUSED", "no", {"reason": "r"}),
    registrar_messages.Snapshot(registrar_messages.encoded([SPEC]), True),
    registrar_messages.Specs(registrar_messages.encoded([SPEC, SPEC])), registrar_messages.Removed("p"),
    registrar_messages.SettingsOf("p", [("user", "u", b"\x80")], True, "no key"),
    registrar_messages.SettingsTold(["p"]),
    registrar_messages.Ready(3), registrar_messages.Health("broken"), registrar_messages.LedgerHealth(""),
    registrar_messages.ChainHealth("late"),
    registrar_messages.Metric("rate_limited_total", ("p", "network"), 1.0),
    registrar_messages.Audit(AuditRecord(1, "admin.action", "uid:0", "p", "disabled", "success", {"uid": 0})),
    registrar_messages.Spent("p", 5), registrar_messages.Ask(1, "probe", {"files": {"plugin.py": b"x"}}))
MODULES = (ledger, gateway, observe, check_messages, registrar_messages)


def test_there_is_one_of_each_message_here() -> None:
    declared = {kind for module in MODULES for kind in vars(module).values()
                if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__}
    assert {type(message) for message in EVERY} == declared


@pytest.mark.parametrize("message", EVERY, ids=lambda message: f"{type(message).__module__}.{type(message).__name__}")
def test_a_message_arrives_as_it_was_and_is_no_longer_than_its_fields_in_a_list(message: msgspec.Struct) -> None:
    (arrived,) = Incoming([type(message)]).feed(frame_of(message))
    assert arrived == message
    plain = [message.__struct_config__.tag, *(getattr(message, name) for name in message.__struct_fields__)]
    assert len(frame_of(message)) == 4 + len(msgspec.msgpack.encode(plain))


@given(st.lists(st.sampled_from(EVERY[:7]), max_size=6), st.lists(st.integers(0, 300), max_size=8))
def test_messages_are_told_apart_wherever_the_stream_is_cut(sent: list[msgspec.Struct], cuts: list[int]) -> None:
    stream = b"".join(map(frame_of, sent))
    incoming, arrived, places = Incoming(map(type, EVERY[:7])), [], sorted({0, *(c % (len(stream) + 1) for c in cuts)})
    for start, end in zip(places, [*places[1:], len(stream)], strict=True):
        arrived += incoming.feed(stream[start:end])
    assert arrived == sent


@pytest.mark.parametrize("body", [b"\xc1", b"\x80", b"\x91\xa3hop", msgspec.msgpack.encode(["committed", "seven"])])
def test_what_is_not_in_the_table_is_not_taken(body: bytes) -> None:
    for types in ([ledger.Committed, ledger.Ready], []):
        with pytest.raises(msgspec.DecodeError):
            Incoming(types).feed(len(body).to_bytes(4, "big") + body)


def test_threads_send_whole_messages_and_the_end_of_the_link_is_told() -> None:
    near, far = socket.socketpair()
    end = BlockingEnd(far.fileno(), [gateway.Recorded])
    message = gateway.Recorded(["x" * 50_000])
    threads = [threading.Thread(target=lambda: [end.send(message) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    incoming, arrived = Incoming([gateway.Recorded]), []
    while len(arrived) < 80:
        arrived += incoming.feed(near.recv(30_000))
    assert arrived == [message] * 80
    near.sendall(frame_of(message))
    near.close()
    assert end.receive() == [message] and end.receive() is None
    end.send(message)  # nobody reads it, and nothing is raised
    for thread in threads:
        thread.join()
    far.close()


def test_an_end_on_an_event_loop_answers_more_than_the_link_takes_at_once() -> None:
    near, far = socket.socketpair()
    answer = gateway.Done(1, os.urandom(3_000_000), {})

    async def serve() -> None:
        ended = asyncio.Event()
        end = AsyncEnd(far.fileno(), asyncio.get_running_loop(), ended)
        end.serve({gateway.Cancel: lambda _: end.send(answer)})
        await ended.wait()

    arrived: list[Any] = []

    def ask() -> None:
        near.sendall(frame_of(gateway.Cancel(1)))
        incoming = Incoming([gateway.Done])
        while not arrived:
            arrived.extend(incoming.feed(near.recv(65_536)))
        near.close()

    asking = threading.Thread(target=ask)
    asking.start()
    asyncio.run(asyncio.wait_for(serve(), 10))
    asking.join()
    far.close()
    assert arrived == [answer]
