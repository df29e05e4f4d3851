"""The conformance kit: our daemon and both Python clients keep every case, and one with faults is found out.

The TypeScript client is in ``tests/host_ts/test_conformance.py``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zmq

from apex_exec.client import CurveKeys
from apex_exec.conformance import daemon_curve, daemon_errors, daemon_messages, daemon_transport, host_cases
from apex_exec.conformance.cases import Case, NotKept, Result, chosen, run
from apex_exec.conformance.curve_host import CurveHost
from apex_exec.conformance.host_under_test import HostUnderTest
from apex_exec.conformance.own_daemon import own_daemon
from apex_exec.conformance.peers import RawDaemon, RawHost
from apex_exec.conformance.plain_values import to_json
from apex_exec.conformance.vectors import vectors
from apex_exec.errors import Code
from apex_exec.wire.codec import decode_request
from apex_exec.wire.zmtp_router import RouterSession
from tests.client.test_connections import free_port
from tests.daemon.test_runtime_folder import curve_folder

DAEMON_CASES: list[Case[Any]] = [*daemon_transport.CASES, *daemon_messages.CASES, *daemon_errors.CASES]
QUICK = ["transport/", "ids/", "values/", "errors/invalid"]
QUICK_HOST = ["requests/", "replies/wrong", "replies/undecodable", "replies/junk", "replies/size"]


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with own_daemon() as running:
        yield Path(running.removeprefix("ipc://"))


def not_kept(results: Iterator[Result]) -> list[Result]:
    return [result for result in results if result.outcome != "kept"]


def test_names_are_unique_and_every_code_has_a_case_or_a_reason() -> None:
    for cases in (DAEMON_CASES, host_cases.CASES):
        names = [case.name for case in cases]
        assert len(set(names)) == len(names) and all(case.promise.endswith(".") for case in cases)
    modules = daemon_transport, daemon_messages, daemon_errors
    source = "".join(Path(str(module.__file__)).read_text() for module in modules)
    tried = {code for code in Code if f'"{code}"' in source or f"Code.{code.name}," in source}
    assert tried | set(daemon_errors.UNTRIED) == set(Code)
    assert not tried & set(daemon_errors.UNTRIED)


def test_our_daemon_keeps_the_quick_cases(path: Path) -> None:
    assert not_kept(run(chosen(DAEMON_CASES, QUICK), lambda: RawHost(path))) == []


@pytest.mark.slow
def test_our_daemon_keeps_every_case(path: Path) -> None:
    assert not_kept(run(DAEMON_CASES, lambda: RawHost(path))) == []


CURVE_CASES: list[Case[Any]] = [*daemon_curve.CASES, *daemon_messages.CASES, *daemon_errors.CASES]


class Tcp(NamedTuple):
    """A daemon on tcp, and the files of its key and of a host that it knows."""

    endpoint: str
    own: Path
    server: Path


@pytest.fixture(scope="module")
def tcp() -> Iterator[Tcp]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        keys = curve_folder(Path(folder) / "keys")
        config = {"host.endpoint": f"tcp://127.0.0.1:{free_port()}", "host.curve_keys_dir": str(keys)}
        with own_daemon(config) as running:
            yield Tcp(running, keys / "dashboard.key_secret", keys / "server.key")


def test_on_tcp_our_daemon_keeps_the_quick_cases(tcp: Tcp) -> None:
    keys = CurveKeys.load(tcp.own, tcp.server)
    quick = chosen(CURVE_CASES, ["curve/known", "curve/unknown", "curve/bounds", "ids/bad", "errors/invalid"])
    assert not_kept(run(quick, lambda: CurveHost(tcp.endpoint, keys))) == []


@pytest.mark.slow
def test_on_tcp_our_daemon_keeps_every_case(tcp: Tcp) -> None:
    keys = CurveKeys.load(tcp.own, tcp.server)
    assert not_kept(run(CURVE_CASES, lambda: CurveHost(tcp.endpoint, keys))) == []


@pytest.mark.slow
def test_a_daemon_on_tcp_that_lets_every_key_in_is_found_out() -> None:
    server_public, server_secret = zmq.curve_keypair()
    over = threading.Event()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger, router.curve_server, router.curve_secretkey = 0, True, server_secret
        endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"

        def serve() -> None:
            while not over.is_set():
                if router.poll(50):
                    *before, body = router.recv_multipart()
                    pong = {"type": "pong", "id": msgspec.msgpack.decode(body)["id"]}
                    router.send_multipart([*before, msgspec.msgpack.encode(pong)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            keys = CurveKeys(server_public, *zmq.curve_keypair())
            results = {one.name: one.outcome for one in run(daemon_curve.CASES, lambda: CurveHost(endpoint, keys))}
        finally:
            over.set()
            thread.join()
    assert results == {
        "curve/known": "kept", "curve/unknown": "broken", "curve/wrong-server": "kept", "curve/without": "kept",
        "curve/routing-id": "broken", "curve/req": "kept", "curve/bounds": "broken", "curve/audit": "broken"}


@pytest.mark.slow
def test_on_the_command_line_tcp_wants_keys_that_the_daemon_knows(tcp: Tcp) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "apex_exec", "conformance", "--endpoint", tcp.endpoint, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    own, server = ["--curve-key", str(tcp.own)], ["--curve-server", str(tcp.server)]
    assert said(*own, *server, "--only", "curve/known") == (0, "1 kept, 0 broken, 0 not tried\n")
    stranger = ["--curve-key", str(tcp.server.parent / "strangers" / "stranger.key_secret")]
    for arguments, status, word in ((own, 2, "needs --curve-key and --curve-server"),
                                    ([*own, "--curve-server", "/nowhere"], 2, "/nowhere"),
                                    ([*stranger, *server], 3, "answers a host with these keys")):
        returned, text = said(*arguments)
        assert returned == status and word in text and text.count("\n") == 1, text


def driver(kind: str) -> list[str]:
    return [sys.executable, "-m", "apex_exec.conformance.driver", kind]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_python_clients_keep_the_quick_cases(kind: str) -> None:
    with HostUnderTest(driver(kind)) as host:
        assert not_kept(run(chosen(host_cases.CASES, QUICK_HOST), host.case)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_python_clients_keep_every_case(kind: str) -> None:
    with HostUnderTest(driver(kind)) as host:
        assert not_kept(run(host_cases.CASES, host.case)) == []


def test_a_daemon_that_answers_everything_with_pong_is_found_out_and_without_plugins_some_is_not_tried(
        tmp_path: Path) -> None:
    over = threading.Event()
    daemon = RawDaemon(tmp_path / "s")

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(NotKept):
                asked = daemon.next(seconds=0.1)
                kind = asked.message["type"]
                asked.answer(**({"type": "plugins", "plugins": []} if kind == "plugins" else {"type": "pong"}))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        wanted = ["transport/many", "transport/envelope-15", "messages/hello", "ids/bad-negative",
                  "errors/unknown-type", "messages/action"]
        results = {one.name: one.outcome for one in run(chosen(DAEMON_CASES, wanted), lambda: RawHost(daemon.path))}
    finally:
        over.set()
        thread.join()
        daemon.end()
    assert results.pop("transport/many-at-once") == "kept" and results.pop("messages/action") == "not tried"
    assert set(results.values()) == {"broken"} and len(results) == 5


def test_a_host_with_faults_is_found_out(tmp_path: Path) -> None:
    """It takes whatever comes next for its reply, and every reply for a success."""
    program = tmp_path / "host.py"
    program.write_text(textwrap.dedent('''
        import json, sys
        import msgspec, zmq
        from apex_exec.conformance.plain_values import from_json, to_json
        socket = zmq.Context().socket(zmq.DEALER)
        socket.connect(sys.argv[-1])
        for line in sys.stdin:
            operations = from_json(json.loads(line))["ops"]
            for operation in operations:
                socket.send(msgspec.msgpack.encode({"id": 1, "type": operation.pop("op"), **operation}))
            replies = [msgspec.msgpack.decode(socket.recv()) for _ in operations]
            print(json.dumps({"done": to_json([{"reply": reply} for reply in replies])}), flush=True)
    '''))
    wanted = ["requests/ping", "replies/values", "replies/wrong-answer-0", "replies/error-timeout"]
    with HostUnderTest([sys.executable, str(program)]) as host:
        results = {one.name: one.outcome for one in run(chosen(host_cases.CASES, wanted), host.case)}
    assert {name for name, outcome in results.items() if outcome == "kept"} == {"requests/ping", "replies/values"}


def test_a_host_that_ends_breaks_its_cases_and_not_the_run() -> None:
    with HostUnderTest([sys.executable, "-c", "pass"]) as host:
        results = list(run(chosen(host_cases.CASES, ["requests/"]), host.case))
    assert {result.outcome for result in results} == {"broken"}


# ------------------------------------------------------------------ vectors
def test_vectors_are_read_by_the_codecs_as_what_they_say() -> None:
    made = json.loads(json.dumps(vectors()))
    for row in made["bodies"]:
        body = bytes.fromhex(row["hex"])
        assert to_json(msgspec.msgpack.decode(body)) == row["message"], row["name"]
        if row["from"] == "host":
            assert decode_request(body, 4096)
    stream = {row["name"]: bytes.fromhex(row["hex"]) for row in made["stream"]}
    session = RouterSession(message_bytes_max=4096, frames_max=15)
    got = session.feed(stream["greeting"] + stream["ready-dealer"] + b"".join(
        data for name, data in stream.items() if name.startswith("message-")))
    assert [frames for frames, _ in got] == [[], [], [], [b""]] and len(got[2][1]) > 255
    session.answers.clear()
    session.feed(stream["ping"])
    assert bytes(session.answers) == stream["pong"]


def test_what_vectors_say_is_refused_is_refused_by_a_daemon(path: Path) -> None:
    for row in vectors()["refused"]:
        with RawHost(path, greets=False) as host:
            host.send_raw(bytes.fromhex(row["hex"]))
            if row["then"] in list(Code):
                assert host.receive()["code"] == row["then"], row["name"]
            else:
                assert host.is_closed_within(), row["name"]


# ------------------------------------------------------------------ on the command line
def test_on_the_command_line_a_broken_case_is_told_and_is_the_status(path: Path) -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "apex_exec", "conformance", *arguments], capture_output=True,
                              text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    status, out, _ = said("--endpoint", f"ipc://{path}", "--only", "ids/bad", "--json")
    assert status == 0
    assert json.loads(out)["counts"] == {"kept": 8, "broken": 0, "notTried": 0}
    status, out, _ = said("host", "--only", "requests/ping", "--", sys.executable, "-c", "pass")
    assert status == 1
    assert out.startswith("broken: requests/ping: ") and out.endswith("0 kept, 1 broken, 0 not tried\n")
    unknown = "no-such-program"
    for arguments, wanted, word in ((["--endpoint", f"ipc://{path}.not"], 3, "no daemon answers"),
                                    (["host", "--", unknown], 2, f"the program {unknown} was not found")):
        status, out, err = said(*arguments)
        assert status == wanted and word in err and err.count("\n") == 1, err
