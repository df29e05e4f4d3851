"""The conformance kit: our daemon and both Python clients keep every case, and one with faults is found out.

The TypeScript client is in ``tests/host_ts/test_conformance.py``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from apex_exec.conformance import daemon_errors, daemon_messages, daemon_transport, host_cases
from apex_exec.conformance.cases import NotKept, Result, chosen, run
from apex_exec.conformance.host_under_test import HostUnderTest
from apex_exec.conformance.own_daemon import own_daemon
from apex_exec.conformance.peers import RawDaemon, RawHost
from apex_exec.conformance.plain_values import to_json
from apex_exec.conformance.vectors import vectors
from apex_exec.errors import Code
from apex_exec.wire.codec import decode_request
from apex_exec.wire.zmtp_router import RouterSession

DAEMON_CASES = [*daemon_transport.CASES, *daemon_messages.CASES, *daemon_errors.CASES]
QUICK = ["transport/", "ids/", "values/", "errors/invalid"]
QUICK_HOST = ["requests/", "replies/wrong", "replies/undecodable", "replies/junk", "replies/size"]


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with own_daemon() as running:
        yield running


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
