"""Hostile callers: none crashes the door, none acts as another, and honest callers are served meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
import random
import socket
import time
from typing import Any

import psutil
import pytest

from tests.door import test_jwt_callers as tokens
from tests.support.daemon import USER, Daemon
from tests.support.door import Door

BODY = json.dumps({"plugin": "counter", "action": "onActionExecute",
                   "payload": {"action": "a", "context": {"mark": "smuggled"}}}).encode()


def head(door: Door, *lines: bytes, path: bytes = b"/v1/invoke", method: bytes = b"POST") -> bytes:
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: 127.0.0.1:%d" % door.port, *lines, b"", b""))


def smuggled(door: Door, token: str) -> list[bytes]:
    """Requests whose end two parsers may see in different places, each followed by a request of its own."""
    inner = head(door, b"Authorization: Bearer " + token.encode(), b"Content-Type: application/json",
                 b"Content-Length: %d" % len(BODY)) + BODY
    size = b"%d" % len(inner)
    both = b"0\r\n\r\n" + inner
    lines: list[tuple[bytes, ...]] = [
        (b"Content-Length: " + size, b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 4"),
        (b"Content-Length: 5", b"Content-Length: 6"), (b"Content-Length: 5, 6",), (b"Content-Length: +5",),
        (b"Content-Length: -1",), (b"Content-Length: 0x5",), (b"Content-Length: 5 5",), (b"Content-Length: 1e1",),
        (b"Content-Length: " + b"9" * 30,), (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding : chunked",), (b"Transfer-Encoding:\x0bchunked",), (b"Transfer-Encoding: chunked\x00",),
        (b"X: a\rTransfer-Encoding: chunked",), (b"X: a\nContent-Length: 3",), (b" Content-Length: 3",),
        (b"Content-Length: 3\r\n folded",), (b"X-A\x00: b",), (b"X A: b",), (b": b",), (b"\xff: b",)]
    return [head(door, *one) + both for one in lines]


def hostile(door: Door, token: str, wrong: list[str], chance: random.Random) -> bytes:
    """One hostile request, as bytes."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice(smuggled(door, token))
    if kind == 1:
        return head(door, b"X: " + b"a" * chance.choice((9_000, 20_000, 200_000)))
    if kind == 2:
        return head(door, *(b"X-%d: a" % number for number in range(chance.choice((70, 500)))))
    if kind == 3:
        body = chance.choice((b"{", b'{"a":' * 3000, b"[" * 60_000, b"\xff" * 50, b'{"plugin":{}}', b"NaN",
                              b'{"id":-1}',
                              json.dumps({"plugin": "x" * 5000, "action": "__proto__"}).encode()))
        return head(door, b"Authorization: Bearer " + token.encode(), b"Content-Type: application/json",
                    b"Content-Length: %d" % len(body), b"Connection: close") + body
    if kind == 4:
        return chance.randbytes(chance.randrange(1, 400)) + b"\r\n\r\n"
    if kind == 5:
        method = chance.choice((b"TRACE", b"CONNECT", b"PRI", b"get", b"A" * 100))
        path = chance.choice((b"*", b"//evil", b"http://evil/", b"/%00", b"/" + b"a" * 9000, b"/../../etc/passwd"))
        return head(door, b"Connection: close", method=method, path=path)
    said = chance.choice(wrong).encode("latin-1", "replace") if kind == 6 else chance.choice(
        (b"", b"Bearer", b"Basic YTpi", b"Bearer " + b"x" * 5000, b"Bearer a b", b"Bearer \xc3\xa4"))
    line = b"Authorization: Bearer " + said if kind == 6 else b"Authorization: " + said
    return head(door, line, b"Content-Type: application/json", b"Content-Length: %d" % len(BODY), b"Connection: close"
                ) + BODY


def attack(daemon: Daemon, door: Door, requests: int, threads: int) -> None:
    wrong = [one.replace("\n", "") for one in tokens.wrong_tokens().values()]
    token = door.token("honest", requestsPerMinute=10_000_000)
    assert door.act("echo-it", {"n": 0}, token).status == 200
    process = psutil.Process(door.process.pid)
    before = process.memory_info().rss

    def run(seed: int) -> int:
        chance = random.Random(seed)
        for _ in range(requests // threads):
            found = door.raw(hostile(door, token, wrong, chance), timeout=3)
            assert b"smuggled" not in found and found.count(b"Server: apex-exec\r\n") <= 1, found[:400]
            assert not found or found.split(b" ", 2)[1] in (
                b"400", b"401", b"403", b"404", b"405", b"413", b"415", b"417", b"429", b"431", b"503"), found[:200]
        return requests // threads

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run, seed) for seed in range(threads)]
        number = 0
        while not all(one.done() for one in running):
            number += 1
            answer = door.act("echo-it", {"n": number}, token)
            assert answer.status == 200 and answer.body["result"]["result"] == {"n": number}
        assert sum(one.result() for one in running) == requests // threads * threads
    assert door.process.poll() is None and "ran smuggled" not in daemon.log
    assert process.memory_info().rss - before < 64 * 2**20
    assert len(process.net_connections()) < 20


@pytest.fixture(scope="module")
def guarded(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A door that takes JSON Web Tokens."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "jwks.json").write_bytes(tokens.key_set())
    (folder / "secret").write_bytes(tokens.SECRET)
    with Door(daemon, {"jwt_algorithms": ["RS256", "ES256", "EdDSA", "HS256"], "jwt_jwks": str(folder / "jwks.json"),
                       "jwt_secret_file": str(folder / "secret"), "jwt_issuer": "https://us", "jwt_audience": "apex",
                       "connections": 200}) as running:
        yield running


def test_a_user_with_a_jwt_acts_as_itself_alone(guarded: Door) -> None:
    good = tokens.token("EdDSA")
    body = {"plugin": "counter", "action": "onActionExecute", "payload": {"action": "a", "context": {"mark": "jwt"}}}
    answer = guarded.ask("POST", "/v1/invoke", body, good)
    assert answer.body["result"]["metadata"]["user"] == USER
    refused = guarded.ask("POST", "/v1/invoke", {**body, "userId": USER[:-1] + "2"}, good)
    assert (refused.status, refused.reason) == (403, "another_user")
    wrong = guarded.ask("POST", "/v1/invoke", body, tokens.token("EdDSA", aud="other"))
    assert wrong.status == 401 and wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_four_hundred_hostile_requests(daemon: Daemon, guarded: Door) -> None:
    attack(daemon, guarded, 400, 8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_hostile_requests(daemon: Daemon, guarded: Door) -> None:
    attack(daemon, guarded, 20_000, 16)


def test_a_head_without_an_end_is_not_kept(guarded: Door) -> None:
    endless = (b"X-%d: " % number + b"a" * 7000 + b"\r\n" for number in range(60))
    assert guarded.raw(b"GET /livez HTTP/1.1\r\nHost: a\r\n", *endless, timeout=5) == b""


def crowd(door: Door, count: int) -> tuple[int, int]:
    """Opens ``count`` connections that send half a head; how many are held and how many were asked to come again."""
    peers, turned_away = [], 0
    try:
        for _ in range(count):
            peer = socket.create_connection(("127.0.0.1", door.port), 10)
            peer.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: a")
            peers.append(peer)
        time.sleep(0.5)
        for peer in peers:
            peer.setblocking(False)
            try:
                turned_away += peer.recv(100).startswith(b"HTTP/1.1 503")
            except OSError:
                pass  # it is held
    finally:
        for peer in peers:
            peer.close()
    return count - turned_away, turned_away


def test_connections_are_bounded_and_come_again(guarded: Door) -> None:
    held, turned_away = crowd(guarded, 260)
    assert held <= 200 and turned_away >= 60
    token = tokens.token("EdDSA")
    answers = []
    for _ in range(50):
        answers.append(guarded.act("echo-it", {}, token).status)
        if answers[-1] == 200:
            break
        time.sleep(0.1)
    assert answers[-1] == 200, answers


@pytest.mark.slow
def test_ten_thousand_connections(daemon: Daemon) -> None:
    with Door(daemon, {"connections": 10_050}) as door:
        token = door.token()
        before = psutil.Process(door.process.pid).memory_info().rss
        peers = []
        try:
            for _ in range(10_000):
                peer = socket.create_connection(("127.0.0.1", door.port), 30)
                peer.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: a")
                peers.append(peer)
            assert door.act("echo-it", {}, token).status == 200
            assert psutil.Process(door.process.pid).memory_info().rss - before < 400 * 2**20
            time.sleep(25)  # nobody sends the rest of its head
            assert len(psutil.Process(door.process.pid).net_connections()) < 10
        finally:
            for peer in peers:
                peer.close()


def test_a_caller_that_takes_every_place_leaves_some_for_others(daemon: Daemon) -> None:
    with Door(daemon, {"in_flight": 16}) as door:
        greedy, honest = door.token("greedy"), door.token("honest")
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            running = [pool.submit(door.act, "sleeper", {"seconds": 3}, greedy) for _ in range(16)]
            time.sleep(1)
            answer = door.act("echo-it", {}, honest)
            assert answer.status == 200, answer
            codes = [one.result() for one in running]
        assert sum(one.status == 503 and one.reason == "door_full" for one in codes) == 8
    daemon.write_config({"door.in_flight": 1000})


def test_a_caller_of_large_bodies_pays_for_the_doors_time(daemon: Daemon) -> None:
    """Sixty thousand integers in words take as long to read as forty ordinary requests."""
    body = {"plugin": "echo-it", "action": "onActionExecute", "payload": {
        "action": "a", "context": {"odd": [{"$int": "1"}] * 60_000}}}
    with Door(daemon) as door:
        heavy, light = door.token("heavy", requestsPerMinute=60), door.token("light", requestsPerMinute=60)
        assert door.ask("POST", "/v1/invoke", body, heavy).status == 200
        refused = door.act("echo-it", {}, heavy)
        assert (refused.status, refused.reason) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) > 1
        assert [door.act("echo-it", {}, light).status for _ in range(3)] == [200] * 3, "ordinary ones pay for all"


@pytest.mark.parametrize(("lines", "status"), [
    ((b"X-Forwarded-Proto: https",), 401), ((b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"), 403),
    ((b"X-Forwarded-Proto: https, http",), 403), ((), 403)])
def test_a_line_of_the_callers_own_is_not_the_proxys_word(daemon: Daemon, lines: tuple[bytes, ...], status: int
                                                           ) -> None:
    """Some proxies add a line of their own to the one that the caller has sent."""
    with Door(daemon, {"trusted_proxy": "127.0.0.1"}) as door:
        ask = head(door, *lines, b"Connection: close", path=b"/v1/plugins", method=b"GET")
        assert door.raw(ask).split(b" ", 2)[1] == b"%d" % status
    daemon.write_config({"door.trusted_proxy": ""})


def test_wrong_tokens_count_for_the_address_that_the_proxy_names(daemon: Daemon) -> None:
    with Door(daemon, {"trusted_proxy": "127.0.0.1"}) as door:
        said = set()
        for number in range(130):
            ask = head(door, b"X-Forwarded-Proto: https", b"X-Forwarded-For: 192.0.2.%d" % number,
                       b"X-Forwarded-For: 198.51.100.1", b"Connection: close", path=b"/v1/plugins", method=b"GET")
            said.add(door.raw(ask).split(b" ", 2)[1])
        assert said == {b"401", b"429"}, "an address for each try is an address that the caller made up"
    daemon.write_config({"door.trusted_proxy": ""})


def test_a_key_set_that_cannot_be_had_is_no_refusal_and_no_entry(daemon: Daemon) -> None:
    with socket.socket() as listener:  # it takes connections and says nothing
        listener.bind(("127.0.0.1", 0))
        with Door(daemon, {"jwt_algorithms": ["ES256"], "jwt_issuer": "https://us", "jwt_audience": "apex",
                           "jwt_jwks": f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"}) as door:
            answer = door.act("echo-it", {}, tokens.token("ES256"))
            assert (answer.status, answer.reason) == (503, "keys_unknown")
            assert answer.headers["retry-after"] == "10" and answer.body["retryable"] is True
