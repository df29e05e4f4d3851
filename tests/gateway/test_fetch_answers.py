"""What ``fetch`` gives back: a whole body or an error, as text or bytes, in its own time, and sent once."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.encodings import ZSTD_WINDOW_LOG_MAX, codings
from apex_exec.gateway.http.fetch import BODY_BYTES_MAX, Fetcher
from tests.gateway.http_world import OK, World, response
from tests.gateway.test_fetch import certified

LONG = b"a word and " * 500


def packed(coding: str, body: bytes, **more: Any) -> bytes:
    """``body`` in ``coding``. Skips the test if this interpreter cannot decode it."""
    if coding not in codings():
        pytest.skip(f"{coding} needs a package that is not installed here")
    if coding == "br":
        import brotli
        return bytes(brotli.compress(body, quality=1))
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd
    return bytes(zstd.compress(body, options=more or None))


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_other_encodings_are_asked_for_where_they_can_be_decoded_whole_or_not_at_all(world: World, coding: str) -> None:
    body = packed(coding, LONG)

    def answered(sent: bytes) -> Any:
        world.server.routes["/z"] = response(sent, f"Content-Encoding: {coding}", "Content-Type: text/plain")
        try:
            return world.fetch(world.url("/z"))["body"]
        except ApiFailure as failure:
            return failure.code

    assert answered(body) == LONG.decode() and answered(b"") == ""
    assert coding.encode() in world.server.requests[0].lower().partition(b"accept-encoding:")[2].partition(b"\r\n")[0]
    for cut in (1, len(body) // 2, len(body) - 1):
        assert answered(body[:cut]) == "fetch_failed", cut
    assert answered(body + b"more") == "fetch_failed" and answered(b"none of it") == "fetch_failed"
    assert answered(packed(coding, b"\0" * 50_000_000)) == "too_large"
    assert answered(packed(coding, b"\0" * (BODY_BYTES_MAX + 1))) == "too_large"
    assert answered(packed(coding, b"x" * BODY_BYTES_MAX)) == "x" * BODY_BYTES_MAX
    assert answered(body + body) == ((LONG * 2).decode() if coding == "zstd" else "fetch_failed")


def test_a_zstd_stream_has_no_larger_window_than_the_standard_lets_it(world: World) -> None:
    packed("zstd", b"")
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd
    made = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: ZSTD_WINDOW_LOG_MAX + 1})
    sent = made.compress(LONG) + made.flush()  # its size is not in its head, so that its window is
    world.server.routes["/z"] = response(sent, "Content-Encoding: zstd")
    assert world.code(world.url("/z")) == "fetch_failed"


@pytest.mark.parametrize(("kind", "sent", "read_as", "body", "raw"), [
    ("text/plain; charset=iso-8859-1", b"\xe9", "auto", "é", b"\xe9"),
    ("text/plain; charset=iso-8859-1", b"\xe9", "bytes", b"\xe9", None),
    ("text/plain; charset=iso-8859-1", b"\xe9", "text", "é", None),
    ("text/plain", "é".encode(), "auto", "é", None), ("text/plain", "é".encode(), "bytes", "é".encode(), None),
    ("text/plain", b"a\xe9", "auto", b"a\xe9", None), ("text/plain", b"a\xe9", "text", "a\ufffd", None),
    ("image/png", b"\x89PNG", "auto", b"\x89PNG", None), ("image/png", b"\x89PNG", "text", "\ufffdPNG", None),
    ("", b"{}", "auto", b"{}", None), ("", b"{}", "text", "{}", None),
    ("text/plain; charset=rot13", b"abc", "text", "abc", None),
    ("text/plain; charset=utf-16", b"\x00\xd8", "text", "\ufffd", None)])
def test_a_body_is_what_the_plugin_asks_for(world: World, kind: str, sent: bytes, read_as: str, body: Any,
                                            raw: bytes | None) -> None:
    world.server.routes["/"] = response(sent, *([f"Content-Type: {kind}"] if kind else []))
    reply = world.fetch(world.url(), read_as=read_as)
    assert (reply["body"], reply.get("raw")) == (body, raw)


def test_a_request_ends_with_its_own_time_and_the_next_one_works(world: World) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await asyncio.sleep(5)

    world.server.routes |= {"/silent": silent, "/half": half}
    for path in ("/silent", "/half"):
        begun = time.monotonic()
        with pytest.raises(ApiFailure) as failed:
            world.fetch(world.url(path), timeout_ms=200)
        assert failed.value.code == "fetch_timeout" and "within 200 ms" in failed.value.message
        assert time.monotonic() - begun < 4
    assert world.fetch(world.url(), timeout_ms=9000)["body"] == "ok"
    with pytest.raises(TimeoutError):  # the invocation's time is not the request's
        world.fetch(world.url("/silent"), seconds=0.3, timeout_ms=9000)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"])
def test_no_request_is_sent_twice_unless_the_plugin_says_so(world: World, method: str) -> None:
    """Each of these finds a connection that was kept, which the server ends when the request has arrived."""
    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
    world.server.routes["/cut"] = cut

    async def both(path: str, *, retry: bool) -> Any:
        async def hop() -> None:
            world.hops += 1
            if world.hops > world.hops_max:
                raise ApiFailure("rate_limited", "x", 5)
        fetcher = Fetcher(world.allow, True, world.resolve)
        try:
            await fetcher.fetch(Fetch(world.url()), ("good.test",), hop)  # leaves a connection that is kept
            return await fetcher.fetch(Fetch(world.url(path), method=method, retry=retry), ("good.test",), hop)
        finally:
            await fetcher.close()

    def tried(path: str, *, retry: bool) -> tuple[str, int, int]:
        world.server.requests.clear()
        world.hops = 0
        try:
            answer = str(world.run(both(path, retry=retry))[0]["status"])
        except ApiFailure as failure:
            answer = failure.message
        return answer, len(world.server.requests), world.hops

    answer, sent, hops = tried("/cut", retry=False)
    assert "not known" in answer and "with retry" in answer and (sent, hops) == (2, 0)
    answer, sent, hops = tried("/cut", retry=True)
    assert "not known" in answer and (sent, hops) == (3, 1)
    times = iter(range(100))

    async def cut_once(writer: asyncio.StreamWriter) -> None:
        if next(times) == 0:
            writer.transport.abort()
        else:
            writer.write(OK if method != "HEAD" else OK[:-2])
            await writer.drain()
    world.server.routes["/once"] = cut_once
    assert tried("/once", retry=True) == ("200", 3, 1)
    world.hops_max = 0
    assert tried("/cut", retry=True) == ("x", 2, 1)


def test_authorities_of_the_operators_own_count_beside_the_systems(world: World, tmp_path: Path) -> None:
    certificate = certified(tmp_path, "secure.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
            writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        return int(server.sockets[0].getsockname()[1])

    port = world.run(serve())
    world.names |= {"secure.test": ["127.0.0.1"], "wrong.test": ["127.0.0.1"]}
    more = {"allow": [f"secure.test:{port}", f"wrong.test:{port}"], "named": ("secure.test", "wrong.test")}
    assert world.fetch(f"https://secure.test:{port}/", ca_file=str(certificate), **more)["body"] == "ok"
    with pytest.raises(ApiFailure, match="self-signed certificate"):
        world.fetch(f"https://secure.test:{port}/", **more)
    with pytest.raises(ApiFailure, match="Hostname mismatch"):
        world.fetch(f"https://wrong.test:{port}/", ca_file=str(certificate), **more)
    system = ssl.create_default_context().cert_store_stats()["x509_ca"]
    from apex_exec.gateway.http.fetch import trusting
    assert trusting(str(certificate)).cert_store_stats()["x509_ca"] == system + 1
    with pytest.raises(ApiFailure, match=r"fetch\.ca_file, /nowhere, cannot be used"):
        trusting("/nowhere")
