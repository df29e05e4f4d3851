"""Callers with keys while daemon and door are killed under them: nothing is lost, run twice or given to another."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient
from tests.door.conftest import COUNT
from tests.support.certificates import certificate_for
from tests.support.daemon import Daemon, wait_for, write_plugin
from tests.support.door import Answer, Door

CALLERS = 4
PATIENCE_SECONDS = 120.0


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Daemon]:
    write_plugin(tmp_path, "counter", COUNT)
    with Daemon(plugins=tmp_path, config={"audit.durability": "strict", "limits.cpu_percent": 100,
                                          "breaker.ends": 1_000_000}) as running:
        running.start_registrar()
        yield running


def keep_asking(door: Door, token: str, mark: str, user: str) -> Answer:
    """One call with a key, sent again with the same key until its outcome is there."""
    body = {"plugin": "counter", "action": "onActionExecute", "userId": user, "deadlineMs": 20_000,
            "payload": {"action": "a", "context": {"mark": mark, "seconds": 0.005}}}
    due = time.monotonic() + PATIENCE_SECONDS
    last: object = None
    while time.monotonic() < due:
        try:
            last = answer = door.ask("POST", "/v1/invoke", body, token, Idempotency_Key=mark)
            if answer.status == 200 or answer.reason == "outcome_unknown":
                return answer
            # nothing has run, or it is not known yet whether anything has: the key tells, next time
            assert answer.status in (502, 503, 504), answer.raw
        except (OSError, http.client.HTTPException) as error:  # the door is away, or was killed under the request
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{mark} has no outcome, and last {last!r}")


def executions(daemon: Daemon) -> Counter[str]:
    """How often the ledger says that each user's hook was executed."""
    found: Counter[str] = Counter()
    after = 0
    with AdminClient(daemon.admin) as admin:
        while True:
            page = admin.request("audit.read", {
                "afterSeq": after, "limit": 200, "filter": {"type": "plugin.execution"}}, 60_000)
            found.update(row["userId"] for row in page["events"]
                         if row["metadata"].get("code") not in ("SHUTTING_DOWN", "DEADLINE_EXCEEDED", "OVERLOADED"))
            if page["next"] <= after:
                return found
            after = page["next"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_in_a_storm_of_kills_nothing_is_lost_run_twice_or_given_to_another(mortal: Daemon) -> None:
    over = threading.Event()
    outcomes: dict[str, Answer] = {}
    users: dict[str, str] = {}
    faults: list[BaseException] = []

    with Door(mortal) as door:
        token = door.token("storm", user=None, actAs=True)

        def call_on(caller: int) -> None:
            number = 0
            try:
                while not over.is_set():
                    mark = f"storm-{caller}-{number}"
                    users[mark] = str(uuid.uuid4())
                    outcomes[mark] = keep_asking(door, token, mark, users[mark])
                    number += 1
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=call_on, args=(caller,)) for caller in range(CALLERS)]
        for thread in threads:
            thread.start()
        for kill in ("daemon", "door", "daemon"):
            begun = len(outcomes)
            wait_for(lambda begun=begun: len(outcomes) > begun + 20 or faults, 60, "some answers")
            if kill == "door":
                door.kill()
                door.start_again()
            else:
                mortal.process.kill()
                mortal.process.wait()
                time.sleep(0.3)
                mortal.start()
        begun = len(outcomes)
        wait_for(lambda: len(outcomes) > begun + 20 or faults, 60, "some answers")
        over.set()
        for thread in threads:
            thread.join()
        assert not faults
        told: Any = {mark: answer.body.get("result") for mark, answer in outcomes.items() if answer.status == 200}
        assert all(result == {"result": mark, "metadata": {"user": users[mark]}} for mark, result in told.items())
        unknown = [mark for mark in outcomes if mark not in told]
        assert len(unknown) <= 3 * CALLERS, "each kill leaves at most what was under way"
        for mark in list(told)[:20]:  # the same answer as before, and no second run
            assert keep_asking(door, token, mark, users[mark]).raw == outcomes[mark].raw
        mortal.start_registrar()
        ran = executions(mortal)
        print(f"{len(told)} answered, {len(unknown)} unknown, {sum(ran.values())} executions")
        assert max(ran[user] for user in users.values()) == 1, "no call ran twice"
        assert not [mark for mark in told if ran[users[mark]] != 1], "what was answered is on record"


def test_with_tls_it_may_be_reached_from_elsewhere_and_speaks_nothing_else(daemon: Daemon, tmp_path: Path) -> None:
    certificate, private = certificate_for(tmp_path, "door.example")
    before = dict(daemon.config)
    try:
        with Door(daemon, {"tls_certificate": str(certificate), "tls_key": str(private)}, "0.0.0.0:0") as door:
            assert door.origin.startswith("https://0.0.0.0:")
            context = ssl.create_default_context(cafile=str(certificate))
            context.check_hostname = False  # it is asked by its address
            connection = http.client.HTTPSConnection("127.0.0.1", door.port, timeout=20, context=context)
            connection.request("GET", "/v1/plugins", headers={"Authorization": f"Bearer {door.token()}"})
            answer = connection.getresponse()
            assert answer.status == 200 and b"echo-it" in answer.read()
            connection.close()
            with pytest.raises(ssl.SSLCertVerificationError):
                stranger = http.client.HTTPSConnection("127.0.0.1", door.port, timeout=20)
                stranger.request("GET", "/livez")
            assert door.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")[:4] != b"HTTP", "nothing is said in the clear"
    finally:
        daemon.config.clear()
        daemon.configure(before)


@pytest.mark.slow
def test_a_caller_that_reads_no_answer_is_let_go(daemon: Daemon, door: Door, token: str) -> None:
    """Half a minute: what waits for it is held that long and no longer."""
    body = json.dumps({"plugin": "echo-it", "action": "onActionExecute", "payload": {
        "action": "a", "context": {"t": "x" * 900_000}}}).encode()
    request = (f"POST /v1/invoke HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json"
               f"\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", door.port))
        peer.settimeout(90)
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            while True:
                peer.sendall(request)
        assert 20 < time.monotonic() - begun < 80
    assert door.act("echo-it", {}, token).status == 200
