"""``fetch`` against real servers of ours on loopback: what may be reached, what may be sent, what may come back.

Names are resolved by a table of the test's; loopback is admitted by ``allow_private`` and in no other way. A server
that must not be reached says so by the number of its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.costs import COST, Cost, stepped
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.addresses import refusal
from apex_exec.gateway.http.fetch import BODY_BYTES_MAX, READING_NS_MAX, REDIRECTS_MAX, Fetcher
from apex_exec.gateway.http.urls import is_listed
from tests.gateway.http_world import OK, World, response, zipped


def test_a_response_in_chunks_of_one_byte_has_an_end_and_an_owner(world: World) -> None:
    """A megabyte of them takes the gateway two seconds to read; one of ordinary chunks takes milliseconds."""
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n")
        for _ in range(120):
            writer.write(b"1\r\nx\r\n" * 8000)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    world.server.routes["/drip"] = drip
    world.server.routes["/whole"] = response(b"x" * (BODY_BYTES_MAX - 1), "Content-Type: text/plain")
    cost = Cost()

    async def fetch(path: str) -> Any:
        COST.set(cost)
        fetcher = Fetcher(world.allow, True, world.resolve)
        try:
            return await stepped(fetcher.fetch(Fetch(world.url(path)), ("good.test",), _no_hop))
        finally:
            await fetcher.close()

    with pytest.raises(ApiFailure) as failed:
        world.run(fetch("/drip"))
    assert failed.value.code == "too_large"
    assert READING_NS_MAX < cost.cpu_ns < 8 * READING_NS_MAX
    cost.cpu_ns = 0
    reply, _ = world.run(fetch("/whole"))
    assert len(reply["body"]) == BODY_BYTES_MAX - 1 and 0 < cost.cpu_ns < READING_NS_MAX


async def _no_hop() -> None:
    raise ApiFailure("rate_limited", "x", 5)


def test_a_step_that_raises_or_is_cancelled_is_the_works_own() -> None:
    async def work(seen: list[str]) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "never"

    async def play() -> list[str]:
        seen: list[str] = []
        task = asyncio.ensure_future(_awaits(work(seen)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(1):
            assert await stepped(asyncio.sleep(0, "slept")) == "slept"
        return seen

    assert asyncio.run(play()) == ["cancelled"]


async def _awaits(work: Coroutine[Any, Any, str]) -> str:
    return await stepped(work)


def test_a_response_is_status_headers_and_body(world: World) -> None:
    world.server.routes["/json"] = response(b'{"a": 1}', "Content-Type: application/json", "X-A: 1", "X-A: 2",
                                            status="201 Created")
    assert world.fetch(world.url("/json", )) == {"status": 201, "body": '{"a": 1}', "headers": {
        "content-length": "8", "content-type": "application/json", "x-a": "1, 2"}}
    world.server.routes["/bytes"] = response(b"\xff\x00", "Content-Type: image/png")
    assert world.fetch(world.url("/bytes"))["body"] == b"\xff\x00"
    assert world.fetch(world.url("/nothing"))["status"] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "get"])
def test_methods_headers_and_bodies_arrive(world: World, method: str) -> None:
    if method == "HEAD":
        world.server.routes["/"] = OK[:-2]
    reply = world.fetch(world.url("/"), method=method, headers={"X-Key": "k", "Authorization": "Bearer t"},
                        body=None if method in ("GET", "HEAD", "get") else {"a": [1]})
    assert reply["status"] == 200
    sent = world.server.requests[0]
    assert sent.startswith(method.upper().encode() + b" / HTTP/1.1\r\n")
    assert f"Host: good.test:{world.server.port}".encode() in sent and b"X-Key: k" in sent and b"Bearer t" in sent
    assert b"Cookie" not in sent
    if b"Content-Length" in sent:
        assert sent.endswith(b'{"a": [1]}') and b"Content-Type: application/json" in sent


PRIVATE = """127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
100.127.255.255 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255 192.88.99.1 ::1 :: ::7f00:1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8
::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2002:7f00:1:: 2002:808:808:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
fe80::1 fe80::1%eth0 fe80::1%1 fec0::1 fc00::1 fd12:3456::1 ff02::1 100::1 2001:db8::1 3fff::1 5f00::1 4000::1 e000::1
""".split()
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.167.0.1", "223.255.255.1",
          "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(world: World, address: str) -> None:
    assert refusal(address) != ""
    world.names["good.test"] = [address]
    assert world.code(world.url(), private=False) == "address_not_allowed"
    world.names["good.test"] = ["8.8.8.8", address]  # one bad address among good ones
    assert world.code(world.url(), private=False) == "address_not_allowed"
    if not address.startswith("127.") and address != "::1":
        assert refusal(address, allow_loopback=True) != ""
    assert world.server.connections == 0


@pytest.mark.parametrize("address", [one for one in PRIVATE if "%" not in one])
def test_such_an_address_in_place_of_a_name_is_refused_too(world: World, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{world.server.port}/"
    every = [f"{address}:{world.server.port}", f"[{address}]:{world.server.port}"]
    import ipaddress
    canonical = str(ipaddress.ip_address(address))
    every += [f"{canonical}:{world.server.port}", f"[{canonical}]:{world.server.port}"]
    code = world.code(url, private=False, allow=every, named=(address, canonical, f"[{address}]"))
    assert code in ("address_not_allowed", "host_not_allowed") and world.server.connections == 0
    assert code == "address_not_allowed" or address != canonical


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_admitted(address: str) -> None:
    assert refusal(address) == ""


@pytest.mark.parametrize("host", [
    "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "0x7f.1",
    "127.00.00.01",
    "0", "00000000", "0x0", "3232235521", "0xa9fea9fe", "169.254.43518"])
def test_numbers_that_a_resolver_takes_for_addresses_are_refused(world: World, host: str) -> None:
    every = [f"{host}:{world.server.port}"]
    for private in (False,):
        code = world.code(f"http://{host}:{world.server.port}/", allow=every, named=(host,), private=private)
        assert code in ("address_not_allowed", "host_not_allowed", "fetch_failed", "url_invalid")
    assert world.server.connections == 0


TRICKS = [
    "http://good.test@127.0.0.1/", "http://127.0.0.1@good.test/", "http://user:pw@good.test/", "http://@good.test/",
    "http://good.test\\@127.0.0.1/", "http:\\\\good.test/", "http://good.test\\.evil.test/",
    "http://good.test#@127.0.0.1/",
    "http://127.0.0.1#@good.test/", "http://127.0.0.1?@good.test/", "http://127.0.0.1/@good.test",
    "http://good.test.evil.test/", "http://evilgood.test/", "http://good.test./", "http://good.test.:80/",
    "http://GOOD.TEST.evil/", "http://ｇｏｏｄ.test/", "http://good。test/", "http://good.tеst/", "http://ⓖⓞⓞⓓ.test/",
    "http://１２７.0.0.1/", "http://good.test\u3002/", "http://exämple.test/", "http://good%2etest/",
    "http://%67ood.test/",
    "http://127%2e0%2e0%2e1/", "http://good.test%00.evil/", "http://good.test%20/", "http://good.test /",
    " http://good.test/",
    "http://good.test/\r\nHost: evil", "http://good.test/\nX: y", "http://good.test/\t", "http://good.test/\0",
    "http://good.test/ a",
    "http://good.test\r\n/", "http:///good.test/", "http:/good.test/", "http:good.test", "//good.test/",
    "good.test", "/",
    "", "http://", "http://:80/", "http://?", "http://#", "file:///etc/passwd", "FILE:///etc/passwd",
    "ftp://good.test/",
    "gopher://good.test/", "dict://good.test/", "data:text/plain,x", "javascript:1", "jar:http://good.test!/",
    "ws://good.test/",
    "unix:///run/docker.sock", "http+unix://%2frun%2fdocker.sock/", "http://[::1%25eth0]/", "http://[fe80::1%25lo]/",
    "http://[::1/", "http://::1/", "http://[good.test]/", "http://good.test:0/", "http://good.test:65536/",
    "http://good.test:-1/",
    "http://good.test:99999999999/", "http://good.test:8080x/", "http://good.test:22/", "http://localhost/",
    "http://a.localhost/",
    "http://-good.test/", "http://good-.test/", "http://good..test/", "http://.good.test/", "http://*.test/",
    "http://good_test/",
    "http://" + "a" * 64 + ".test/", "http://" + "a." * 130 + "test/", "http://good.test/" + "x" * 9000,
    "http://[::ffff:127.0.0.1]/",
    "http://good.test:80:80/", "http://good.test;evil/", "http://good.test,evil/", "http://(good.test)/",
    "http://good.test'/"]


@pytest.mark.parametrize("url", TRICKS)
def test_a_url_that_parsers_might_read_differently_reaches_nobody(world: World, url: str) -> None:
    allow = ["good.test", f"good.test:{world.server.port}"]
    world.names["good.test"] = ["10.0.0.1"]  # what is read as good.test after all still goes nowhere
    code = world.code(url, allow=allow, named=("good.test",))
    assert code in ("url_invalid", "host_not_allowed", "too_large") or (
        code == "address_not_allowed" and url.startswith("http://good.test#"))
    assert world.server.connections == 0 and set(world.asked) <= {"good.test"}


@pytest.mark.parametrize(("method", "headers"), [
    ("CONNECT", {}), ("TRACE", {}), ("OPTIONS", {}), ("GET /x HTTP/1.1\r\nX:", {}), ("G ET", {}), ("", {}),
    ("GET\r\n", {}),
    ("GET", {"Host": "evil"}), ("GET", {"host": "evil"}), ("GET", {"Connection": "x"}),
    ("GET", {"Transfer-Encoding": "chunked"}),
    ("GET", {"Content-Length": "5"}), ("GET", {"TE": "x"}), ("GET", {"Upgrade": "h2c"}),
    ("GET", {"Proxy-Authorization": "x"}),
    ("GET", {"X-Real-IP": "1.2.3.4"}), ("GET", {"True-Client-Ip": "1.2.3.4"}), ("GET", {"CF-Connecting-IP": "::1"}),
    ("GET", {"Proxy-X": "x"}), ("GET", {"X-Forwarded-For": "1"}), ("GET", {"Expect": "100-continue"}),
    ("GET", {"A\r\nB": "x"}),
    ("GET", {"A": "x\r\nHost: evil"}), ("GET", {"A": "x\ny"}), ("GET", {"A": "x\0"}), ("GET", {"A b": "x"}),
    ("GET", {"": "x"}),
    ("GET", {"A:": "x"}), ("GET", {"Ä": "x"}), ("GET", {"A": "é"}), ("GET", {"A": "x" * 17000}),
    ("GET", {"Accept-Encoding": "br"})])
def test_methods_and_headers_that_are_not_the_plugins_are_refused(world: World, method: str,
                                                                  headers: dict[str, str]) -> None:
    assert world.code(world.url(), method=method, headers=headers) in ("url_invalid", "too_large")
    assert world.server.connections == 0


def test_both_lists_must_name_the_host_and_the_operators_the_port(world: World) -> None:
    port = world.server.port
    assert world.fetch(world.url())["body"] == "ok"
    assert world.code(world.url(), named=("else.test",)) == "host_not_allowed"
    assert world.code(world.url(), named=()) == "host_not_allowed"
    assert world.code(world.url(), allow=[]) == "host_not_allowed"
    assert world.code(world.url(), allow=["good.test"]) == "host_not_allowed"
    assert world.code(world.url(), allow=[f"good.test:{port + 1}"]) == "host_not_allowed"
    assert world.server.connections == 1
    listed = lambda host, *patterns: is_listed(host, 443, "https", patterns, any_port=False)  # noqa: E731 - one expression, for this test alone
    assert listed("a.example.org", "*.example.org") and listed("a.b.example.org", "*.Example.org")
    assert not listed("example.org", "*.example.org") and not listed("evilexample.org", "*.example.org")
    assert not listed("a.example.org.evil", "*.example.org") and not listed(".example.org", "*.example.org")


def test_the_address_that_was_checked_is_the_one_connected_to(world: World) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]])
    world.names["good.test"] = lambda: next(answers)
    assert world.fetch(world.url())["body"] == "ok" and world.asked == ["good.test"]  # asked once: no second answer
    assert world.code(world.url()) == "address_not_allowed"


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(b"", f"Location: {location}", status=status)


@pytest.mark.parametrize(("location", "code"), [
    ("http://127.0.0.1/", "host_not_allowed"), ("http://evil.test/", "host_not_allowed"), ("file:///etc/passwd",
    "url_invalid"),
    ("ftp://good.test/", "url_invalid"), ("//evil.test/", "host_not_allowed"), ("http://good.test@evil.test/",
    "url_invalid"),
    ("http://bad.test/", "address_not_allowed"), ("\\\\evil.test", "url_invalid"), ("http://[::1]/",
    "host_not_allowed"),
    ("javascript:alert(1)", "url_invalid"), ("http://good.test:22/", "host_not_allowed"),
    ("/a b", "url_invalid"), ("http://2130706433/", "host_not_allowed"), ("data:,x", "url_invalid")])
def test_a_redirect_is_checked_anew(world: World, location: str, code: str) -> None:
    world.server.routes["/"] = redirect(location)
    world.names["bad.test"] = ["10.0.0.1"]
    assert world.code(world.url(), allow=[*world.allow, "bad.test"], named=("good.test", "bad.test")) == code
    assert world.server.connections == 1


def test_redirects_are_followed_counted_and_end(world: World) -> None:
    other = f"http://other.test:{world.other.port}/end"
    world.other.routes["/end"] = OK
    world.server.routes.update({"/": redirect("/two", "307 Temporary Redirect"), "/two": redirect(other,
    "303 See Other"),
                                "/loop": redirect("/loop")})
    reply = world.fetch(world.url(), method="POST", body="secret", headers={"Authorization": "t", "X-Keep": "k"})
    assert reply["body"] == "ok" and world.hops == 2
    assert world.server.requests[1].startswith(b"POST /two") and world.server.requests[1].endswith(b"secret")
    end = world.other.requests[0]
    assert end.startswith(b"GET /end") and b"Authorization" not in end and b"X-Keep: k" in end and b"secret" not in end
    assert b"content-" not in end.lower()
    world.hops = 0
    assert world.code(world.url("/loop")) == "redirect_limit" and world.hops == REDIRECTS_MAX
    world.hops, world.hops_max = 0, 2
    assert world.code(world.url("/loop")) == "rate_limited"


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def endless_header(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(10_000):
        writer.write(b"y" * 10_000)
        await writer.drain()


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"2710\r\n" + b"y" * 10_000 + b"\r\n")
        await writer.drain()


async def slow_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def informational(writer: asyncio.StreamWriter) -> None:
    for _ in range(1000):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


BOMB = gzip.compress(b"\0" * 50_000_000)
NESTED = response(gzip.compress(BOMB), "Content-Encoding: gzip, gzip")


@pytest.mark.parametrize(("route", "codes"), [
    (endless_headers, {"too_large", "fetch_failed"}), (endless_header, {"too_large", "fetch_failed"}),
    (endless_body, {"too_large"}), (response(BOMB, "Content-Encoding: gzip"), {"too_large"}),
    (NESTED, {"fetch_failed"}),
    (response(zlib.compress(b"\0" * 50_000_000), "Content-Encoding: deflate"), {"too_large"}),
    (response(b"x" * (BODY_BYTES_MAX + 1)), {"too_large"}), (response(b"no gzip",
    "Content-Encoding: gzip"), {"fetch_failed"}),
    (response(gzip.compress(b"") * 50_000, "Content-Encoding: gzip"), {"too_large"}),
    (response(b"x", "Content-Encoding: lz"), {"fetch_failed"}), (OK.replace(b"th: 2", b"th: 99"), {"fetch_failed"}),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", {"fetch_failed"}), (b"garbage\r\n\r\n", {"fetch_failed"}),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", {"fetch_failed"}),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", {"fetch_failed"}),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", {"fetch_failed"}), (b"", {"fetch_failed"}),
    (b"HTTP/9.9 999 X\r\n\r\n", {"fetch_failed"}), (b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n", {"fetch_failed"})])
def test_a_peer_that_misbehaves_costs_its_own_call(world: World, route: Any, codes: set[str]) -> None:
    async def once(writer: asyncio.StreamWriter) -> None:
        if isinstance(route, bytes):
            writer.write(route)
            await writer.drain()
        else:
            await route(writer)
    world.server.routes["/bad"] = once
    assert world.code(world.url("/bad")) in codes
    assert world.fetch(world.url())["body"] == "ok"


@pytest.mark.parametrize("route", [slow_body, informational, silent])
def test_the_time_is_that_of_the_whole_call(world: World, route: Any) -> None:
    world.server.routes["/slow"] = route
    with pytest.raises(TimeoutError):
        world.fetch(world.url("/slow"), seconds=0.5)


@pytest.mark.parametrize(("encoding", "body"), [
    ("gzip", zipped(b"hello")), ("deflate", zlib.compress(b"hello")),
    ("deflate", zlib.compress(b"hello")[2:-4]),
    ("GZIP", zipped(b"hello")), ("identity", b"hello")])
def test_a_compressed_body_arrives_decoded(world: World, encoding: str, body: bytes) -> None:
    world.server.routes["/z"] = response(body, f"Content-Encoding: {encoding}", "Content-Type: text/plain")
    assert world.fetch(world.url("/z"))["body"] == "hello"


def test_no_proxy_no_cookie_and_nobody_else_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{world.other.port}")
    world.server.routes["/"] = response(b"ok", "Set-Cookie: a=b; Domain=test", "Content-Type: text/plain")
    assert world.fetch(world.url())["body"] == "ok" and world.other.connections == 0
    world.fetch(world.url())
    assert b"Cookie" not in world.server.requests[-1]
    assert world.code(f"http://other.test:{world.other.port}/", allow=[]) == "host_not_allowed"


def test_a_name_below_localhost_is_the_loopback_and_needs_the_setting(world: World) -> None:
    allow = [f"app.localhost:{world.server.port}"]
    url = f"http://app.localhost:{world.server.port}/"
    assert world.fetch(url, allow=allow, named=("app.localhost",))["body"] == "ok"
    assert world.code(url, allow=allow, named=("app.localhost",), private=False) == "address_not_allowed"


@pytest.mark.parametrize(("encoding", "body", "text"), [
    ("gzip", zipped(b"[1,") + zipped(b"2]"), "[1,2]"),
    ("gzip", zipped(b"[1,") + zipped(b"") + zipped(b"2]") + b"\0" * 512, "[1,2]"),
    ("x-gzip", b"".join(zipped(b"%d " % number) for number in range(3000)),
     "".join(f"{number} " for number in range(3000))),
    ("none", b"hello", "hello"), ("aws-chunked", b"hello", "hello"),
    ("aws-chunked, gzip", zipped(b"hello"), "hello"), ("gzip", b"", ""), ("deflate", b"", "")])
def test_a_compressed_body_arrives_whole(world: World, encoding: str, body: bytes, text: str) -> None:
    world.server.routes["/z"] = response(body, f"Content-Encoding: {encoding}", "Content-Type: text/plain")
    assert world.fetch(world.url("/z"))["body"] == text

    async def in_pieces(writer: asyncio.StreamWriter) -> None:  # one byte, then what is left in odd pieces
        writer.write(response(body, f"Content-Encoding: {encoding}", "Content-Type: text/plain")[:-len(body) or None])
        for piece in (body[:1], body[1:2], body[2:3], body[3:25], body[25:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
    world.server.routes["/pieces"] = in_pieces
    assert world.fetch(world.url("/pieces"))["body"] == text


@pytest.mark.parametrize("body", [zlib.compress(b"hello"), zlib.compress(b"hello")[2:-4]])
def test_both_kinds_of_deflate_may_come_a_byte_at_a_time(world: World, body: bytes) -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Type: text/plain\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)
    world.server.routes["/z"] = in_pieces
    assert world.fetch(world.url("/z"))["body"] == "hello"


@pytest.mark.parametrize(("encoding", "body"), [
    ("gzip", zipped(b"x" * 1000)[:-20]), ("gzip", zipped(b"hello")[:-8]),
    ("gzip", zipped(b"hello")[:-1]), ("gzip", zipped(b"hello")[:5]),
    ("gzip", zipped(b"hello") + zipped(b"more")[:-3]), ("gzip", zipped(b"hello") + b"more"),
    ("gzip", zipped(b"hello") + b"\0\0more"),
    ("deflate", zlib.compress(b"hello")[:-2]), ("deflate", zlib.compress(b"hello")[2:-6]),
    ("deflate", zlib.compress(b"hello")[:1]), ("deflate", zlib.compress(b"hello") + b"more")])
def test_a_compressed_body_that_is_cut_or_has_more_behind_it_is_an_error_and_no_short_answer(
        world: World, encoding: str, body: bytes) -> None:
    world.server.routes["/z"] = response(body, f"Content-Encoding: {encoding}", "Content-Type: text/plain")
    assert world.code(world.url("/z")) == "fetch_failed"


def test_headers_in_another_alphabet_arrive_as_text(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
    world.server.routes["/"] = head + "X-Latin: café\r\n".encode("latin-1") + "X-Utf: café\r\n".encode() + b"\r\nok"
    reply = world.fetch(world.url())
    assert (reply["headers"]["x-latin"], reply["headers"]["x-utf"]) == ("café", "café")
    msgspec.msgpack.encode(reply)
    for spelled in ("latin-1", "utf-8"):
        world.server.routes["/away"] = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /" + "é".encode(
            spelled) + b"\r\n\r\n"
        path = "/%C3%A9" if spelled == "utf-8" else "/%E9"
        world.server.routes[path] = OK
        assert world.fetch(world.url("/away"))["body"] == "ok", spelled


@pytest.mark.parametrize(("kind", "body", "expected"), [
    ("text/plain; charset=iso-8859-1", b"\xe9", "é"),
    ("text/plain; charset=iso-8859-1", "Ã©".encode("latin-1"), "Ã©"),  # which is UTF-8 by chance
    ('text/html; x=y; charset="Windows-1252"; z', b"\x80", "€"),
    ("text/plain; charset=Shift_JIS", "日本".encode("shift_jis"), "日本"),
    ("text/plain; charset=utf-16", "日本".encode("utf-16"), "日本"),
    ("application/json; charset=utf-8", "é".encode(), "é"),
    ("text/plain", "é".encode(), "é"), ("text/plain", b"\xe9", b"\xe9"),
    ("text/plain; charset=us-ascii", b"\xe9", b"\xe9"), ("text/plain; charset=utf-16", b"\x00\xd8", b"\x00\xd8"),
    ("text/plain; charset=rot13", b"abc", b"abc"), ("text/plain; charset=zlib", b"abc", b"abc"),
    ("text/plain; charset=utf-7", b"+AGE-", b"+AGE-"), ("text/plain; charset=\xff", b"abc", b"abc")])
def test_a_text_is_read_by_the_charset_that_it_names(world: World, kind: str, body: bytes, expected: Any) -> None:
    world.server.routes["/"] = (f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                                .encode("latin-1") + body)
    assert world.fetch(world.url())["body"] == expected


def test_a_text_of_another_charset_has_the_same_bound(world: World) -> None:
    for length, fits in ((BODY_BYTES_MAX // 2, True), (BODY_BYTES_MAX // 2 + 1, False)):
        world.server.routes["/"] = response("é".encode("latin-1") * length, "Content-Type: text/plain; charset=latin1")
        if fits:
            assert len(world.fetch(world.url())["body"]) == length
        else:
            assert world.code(world.url()) == "too_large"


@pytest.mark.parametrize("body", [float("nan"), {"a": [float("inf")]}, {"a": -float("inf")}])
def test_a_number_that_json_does_not_have_is_refused_before_it_is_sent(world: World, body: Any) -> None:
    assert world.code(world.url(), method="POST", body=body) == "invalid_params"
    assert world.server.connections == 0


def certified(folder: Path, host: str, *, days: int = 30) -> Path:
    """A certificate of its own making, with its key, in one file. Expired if ``days`` is below zero."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[-64:])])
    now = datetime.now(UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()))
    path = folder / f"{host}{days}.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return path


LONG = f"{'a' * 60}.{'b' * 60}.{'c' * 60}.test"

FETCH_ONCE = """
import asyncio, sys
from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.fetch import Fetcher

async def resolve(host, port):
    return ["127.0.0.1"]

async def main():
    fetcher = Fetcher([f"{sys.argv[2]}:{sys.argv[1]}"], True, resolve)
    try:
        print((await fetcher.fetch(Fetch(f"https://{sys.argv[2]}:{sys.argv[1]}/"), (sys.argv[2],), None))[0]["body"])
    except ApiFailure as failure:
        print(failure.code, failure.message)
    finally:
        await fetcher.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(("host", "days", "trusted", "said"), [
    (LONG, 30, True, "ok"), (LONG, 30, False, "self-signed certificate"),
    ("else.test", 30, True, "Hostname mismatch"), (LONG, -1, True, "certificate has expired")])
def test_why_a_certificate_is_not_accepted_is_said_and_an_authority_of_ones_own_can_be_named(
        tmp_path: Path, host: str, days: int, trusted: bool, said: str) -> None:
    certificate = certified(tmp_path, host, days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as peer:
                peer.recv(65536)
                peer.sendall(OK)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    environment = {name: value for name, value in os.environ.items() if name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    if trusted:
        environment["SSL_CERT_FILE"] = str(certificate)
    done = subprocess.run([sys.executable, "-c", FETCH_ONCE, str(listener.getsockname()[1]), LONG], env=environment,
                          capture_output=True, text=True, timeout=60, check=False)
    listener.close()
    thread.join(10)
    assert said in done.stdout, done.stdout + done.stderr
    assert said == "ok" or ("fetch_failed" in done.stdout and LONG in done.stdout)
