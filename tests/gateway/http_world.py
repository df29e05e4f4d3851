"""A server and a resolver of ours on loopback, and a fetcher: what ``fetch`` is tested against."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http import fetch as fetch_module
from apex_exec.gateway.http.fetch import Fetcher

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def zipped(text: bytes) -> bytes:
    """``text`` as gzip, without the time: all processes of a run must name a case alike."""
    return gzip.compress(text, mtime=0)


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


class Server:
    """Answers each path with bytes from ``routes`` (or a coroutine that writes them) and keeps what it was sent."""

    def __init__(self) -> None:
        self.routes: dict[str, Any] = {"/": OK}
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def start(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                self.requests.append(head + body)
                route = self.routes.get(head.split(b" ")[1].decode(), response(b"", status="404 Not Found"))
                if isinstance(route, bytes):
                    writer.write(route)
                    await writer.drain()
                else:
                    await route(writer)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


class World:
    """A server, a resolver with a table, a fetcher; all on one loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.server, self.other = Server(), Server()
        self.run(self.server.start())
        self.run(self.other.start())
        self.names: dict[str, Any] = {"good.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
        self.asked: list[str] = []
        self.hops = 0
        self.hops_max = 100
        self.allow = [f"good.test:{self.server.port}", f"other.test:{self.other.port}"]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        found = self.names.get(host)
        if found is None:
            return await fetch_module.system_resolve(host, port)
        return list(found() if callable(found) else found)

    def url(self, path: str = "/", host: str = "good.test") -> str:
        return f"http://{host}:{self.server.port}{path}"

    def fetch(self, url: str, *, allow: list[str] | None = None, named: tuple[str, ...] = ("good.test", "other.test"),
              private: bool = True, seconds: float = 10, internal: dict[str, list[str]] | None = None,
              ca_file: str = "", **more: Any) -> Any:
        async def hop() -> None:
            self.hops += 1
            if self.hops > self.hops_max:
                raise ApiFailure("rate_limited", "x", 5)

        async def work() -> Any:
            fetcher = Fetcher(self.allow if allow is None else allow, private, self.resolve, internal=internal,
                              ca_file=ca_file)
            try:
                async with asyncio.timeout(seconds):
                    return (await fetcher.fetch(Fetch(url, **more), named, hop))[0]
            finally:
                await fetcher.close()
        return self.run(work())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def code(self, url: str, **more: Any) -> str:
        with pytest.raises(ApiFailure) as failed:
            self.fetch(url, **more)
        return failed.value.code
