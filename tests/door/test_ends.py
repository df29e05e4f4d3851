"""What is under way when the door or the daemon ends: answered, or known to be unknown, and never run twice."""

from __future__ import annotations

import socket
import struct
import time

from tests.door.test_door import in_background
from tests.support.daemon import Daemon, wait_for
from tests.support.door import Door


def test_a_door_that_is_killed_leaves_keys_whose_outcome_is_unknown(daemon: Daemon) -> None:
    with Door(daemon) as door:
        token, mark = door.token(), f"killed-{time.monotonic_ns()}"
        context = {"mark": mark, "seconds": 3}
        done = door.act("counter", {"mark": f"{mark}-before"}, token, Idempotency_Key="before")
        thread, _ = in_background(lambda: _or_none(lambda: door.act("counter", context, token, Idempotency_Key=mark)))
        wait_for(lambda: f"ran {mark}\n" in daemon.log, 10, "the call")
        door.kill()
        thread.join()
        door.start_again()
        again = door.act("counter", context, token, Idempotency_Key=mark)
        assert (again.status, again.reason, again.body["retryable"]) == (409, "outcome_unknown", False)
        assert door.act("counter", {"mark": f"{mark}-before"}, token, Idempotency_Key="before").raw == done.raw
        time.sleep(0.5)
        assert daemon.log.count(f"ran {mark}\n") == 1 and daemon.log.count(f"ran {mark}-before\n") == 1


def test_a_drain_answers_what_is_under_way_and_takes_nothing_new(daemon: Daemon) -> None:
    with Door(daemon) as door:
        token, mark = door.token(), f"drained-{time.monotonic_ns()}"
        thread, found = in_background(lambda: door.act("counter", {"mark": mark, "seconds": 2}, token))
        wait_for(lambda: f"ran {mark}\n" in daemon.log, 10, "the call")
        assert door.stop() == 0
        thread.join()
        assert found[0].status == 200 and found[0].body["result"]["result"] == mark
        assert found[0].headers.get("connection") == "close"
        assert _or_none(lambda: door.ask("GET", "/livez")) is None


def test_while_the_daemon_restarts_the_door_says_so_and_goes_on(daemon: Daemon) -> None:
    with Door(daemon) as door:
        token = door.token()
        assert door.act("echo-it", {}, token).status == 200
        daemon.stop()
        try:
            wait_for(lambda: door.ask("GET", "/readyz").status == 503, 5, "the news")
            begun = time.monotonic()
            away = door.act("echo-it", {}, token)
            assert time.monotonic() - begun < 2
            assert (away.status, away.reason, away.body["retryable"]) == (503, "daemon_away", True)
            assert away.headers["retry-after"] == "1" and door.ask("GET", "/livez").status == 200
        finally:
            daemon.start()
        wait_for(lambda: door.act("echo-it", {}, token).status == 200, 20, "a call")


def test_callers_that_leave_in_the_middle_of_a_body_are_no_fault_of_the_door(daemon: Daemon) -> None:
    with Door(daemon) as door:
        head = (f"POST /v1/invoke HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token()}\r\n"
                "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{").encode()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", door.port)) as peer:
                peer.sendall(head)
                time.sleep(0.05)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
        assert door.ask("GET", "/livez").status == 200
        assert door.stop() == 0
        assert door.process.stderr is not None
        assert "Traceback" not in door.process.stderr.read()


def _or_none(work: object) -> object:
    try:
        return work()  # type: ignore[operator]  # a callable of any kind
    except OSError:
        return None
