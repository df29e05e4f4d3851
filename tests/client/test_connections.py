"""What a client's connection goes through: CURVE on tcp, and a daemon that ends and comes back meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import (
    AdminClient,
    AsyncClient,
    CallError,
    Client,
    ConnectionLost,
    CurveKeys,
    HostCall,
    HostMethodError,
)
from apex_exec.errors import ApexError
from tests.daemon.test_runtime_folder import curve_folder
from tests.gateway.bundles import bundle
from tests.support import need
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

METHOD = "admin.users.list"
POLICY = 'allow = []\n[plugin.boss]\nallow = ["admin:users"]\n'
ECHOED = {"action": "x", "context": {"n": 1}}
ASKS = {"action": "x", "context": {"steps": [{"api": "call", "args": {"method": METHOD, "params": {"page": 1}},
                                              "raise": True}]}}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apx") as name:
        made = Path(name)
        write_plugin(made / "plugins", "echo", ECHO)
        bundle(made / "plugins", "boss", ["admin:users"])
        (made / "policy.toml").write_text(POLICY)
        yield made


class Place:
    """A daemon on one of the transports, and what a client of it needs."""

    def __init__(self, folder: Path, transport: str) -> None:
        config: dict[str, Any] = {"security.policy_file": str(folder / "policy.toml"), "limits.cpu_percent": 100}
        self.curve: CurveKeys | None = None
        self.keys = folder / "keys"
        if transport == "tcp":
            curve_folder(self.keys)
            config |= {"host.endpoint": f"tcp://127.0.0.1:{free_port()}", "host.curve_keys_dir": str(self.keys)}
            self.curve = CurveKeys.load(self.keys / "dashboard.key_secret", self.keys / "server.key")
        self.daemon = Daemon(folder / "d", folder / "plugins", config)

    def client(self) -> Client:
        return Client(self.daemon.endpoint, curve=self.curve)

    def restart(self) -> None:
        """As after a crash: the peers get no notice."""
        self.daemon.kill()
        self.daemon.start()


@pytest.mark.slow
def test_a_client_that_is_told_no_endpoint_looks_where_a_daemon_would_be_and_trusts_no_strangers_folder(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_exec.config.runtime_candidates", lambda: [folder / "nothing", folder / "d" / "run"])

    async def answers() -> None:
        async with AsyncClient() as client:
            await client.ping()

    with pytest.raises(ConnectionLost, match=r"looked for host\.sock in .*nothing") as caught:
        Client()
    assert caught.value.executed is False
    with Daemon(folder / "d", folder / "plugins") as daemon:
        with Client() as client, AdminClient() as admin:
            client.ping()
            assert admin.request("daemon.status")["pid"] == daemon.pid
        asyncio.run(answers())
        need(os.geteuid() == 0, "root, to give a folder to another user")
        os.chown(daemon.runtime, 65532, 65532)
        for make in (Client, AdminClient, lambda: asyncio.run(answers())):
            with pytest.raises(ConnectionLost, match=r"made by uid 65532, name the endpoint if you trust that user"):
                make()
        with Client(daemon.endpoint) as client:  # named is trusted
            client.ping()
        os.chown(daemon.runtime, 0, 0)


@pytest.mark.slow
def test_both_clients_are_served_on_tcp_by_their_keys_and_across_a_restart(folder: Path) -> None:
    place = Place(folder, "tcp")
    with place.daemon as daemon, place.client() as client:
        assert client.hello()["protocol"] == 1
        assert client.invoke("echo", "onActionExecute", USER, ECHOED)["result"]["result"] == {"n": 1}

        async def body() -> None:
            async with AsyncClient(daemon.endpoint, curve=place.curve) as waiting:
                replies = await asyncio.gather(*(waiting.invoke("echo", "onActionExecute", f"{n:08x}{USER[8:]}", ECHOED)
                                                 for n in range(100)))
                assert all(reply["result"]["result"] == {"n": 1} for reply in replies)
                place.restart()
                assert (await waiting.invoke("echo", "onActionExecute", USER, ECHOED))["result"]["result"] == {"n": 1}

        asyncio.run(asyncio.wait_for(body(), 60))
        assert client.invoke("echo", "onActionExecute", USER, ECHOED)["result"]["result"] == {"n": 1}


@pytest.mark.slow
def test_a_client_without_the_right_keys_is_told_that_nothing_answers_and_that_nothing_ran(folder: Path) -> None:
    place = Place(folder, "tcp")
    assert place.curve is not None
    stranger = CurveKeys.load(place.keys / "strangers" / "stranger.key_secret", place.keys / "server.key")
    wrong_server = place.curve._replace(server_public=stranger.public)
    with pytest.raises(ValueError, match=r"name the \.key_secret file"):
        CurveKeys.load(place.keys / "dashboard.key", place.keys / "server.key")
    with place.daemon as daemon:
        for keys in (None, stranger, wrong_server):
            with Client(daemon.endpoint, curve=keys) as client, pytest.raises(ConnectionLost) as caught:
                client.request({"type": "ping"}, 700)
            assert caught.value.executed is False, keys

            async def body(keys: CurveKeys | None = keys) -> None:
                async with AsyncClient(daemon.endpoint, curve=keys) as waiting:
                    with pytest.raises(ConnectionLost) as caught:
                        await waiting.request({"type": "ping"}, 700)
                    assert caught.value.executed is False, keys

            asyncio.run(asyncio.wait_for(body(), 30))
        with place.client() as client:
            client.ping()


@contextlib.contextmanager
def blocking_host(place: Place, answer: Callable[[HostCall], Any]) -> Iterator[None]:
    """Serves METHOD by a Client in a thread."""
    over, ready = threading.Event(), threading.Event()

    def serve() -> None:
        with place.client() as host:
            host.provide({METHOD: answer})
            ready.set()
            while not over.is_set():
                host.serve(0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        over.set()
        thread.join(20)


@contextlib.contextmanager
def async_host(place: Place, answer: Callable[[HostCall], Any]) -> Iterator[None]:
    """Serves METHOD by an AsyncClient, whose loop runs in a thread."""
    ready = threading.Event()
    ends: list[Callable[[], object]] = []

    async def slow(call: HostCall) -> Any:
        await asyncio.sleep(0)
        return answer(call)

    async def body() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(over.set))
        async with AsyncClient(place.daemon.endpoint, curve=place.curve) as host:
            await host.provide({METHOD: slow})
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        ends[0]()
        thread.join(20)


def provided_across_restarts(place: Place, host: contextlib.AbstractContextManager[None]) -> None:
    """What ``host`` provides is NOT_PROVIDED before it, answers within it, and answers again after each restart."""
    with place.client() as plugin_side:
        def ask() -> Any:
            return plugin_side.invoke("boss", "onActionExecute", USER, ASKS)["result"]["result"]

        def answers(number: int) -> bool:
            with contextlib.suppress(ApexError):  # the host may be the later of the two to connect again
                return bool(ask() == [{"users": number}])
            return False

        with pytest.raises(CallError) as caught:
            ask()
        assert caught.value.code == "NOT_PROVIDED"
        with host:
            assert ask() == [{"users": 1}]
            for number in (2, 3):
                place.restart()
                wait_for(lambda number=number: answers(number), 15, "the method's return")  # type: ignore[misc]  # bound at once


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("host", [blocking_host, async_host])
@pytest.mark.slow
def test_what_a_connection_provides_is_provided_again_after_a_restart(folder: Path, transport: str, host: Any) -> None:
    place = Place(folder, transport)
    seen: list[HostCall] = []

    def listed(call: HostCall) -> Any:
        seen.append(call)
        return {"users": len(seen)}

    with place.daemon:
        provided_across_restarts(place, host(place, listed))
    assert [(call.method, call.plugin, call.user_id, call.params) for call in seen] == [
        (METHOD, "boss", USER, {"page": 1})] * 3


def too_large(call: HostCall) -> Any:
    return "x" * (2 << 20)


def unsayable(call: HostCall) -> Any:
    raise HostMethodError("no", "a lone \ud800 surrogate")


@pytest.mark.parametrize("answer", [too_large, unsayable])
@pytest.mark.parametrize("host", [blocking_host, async_host])
@pytest.mark.slow_after(1)
def test_a_host_method_whose_answer_cannot_be_sent_fails_at_once(folder: Path, host: Any, answer: Any) -> None:
    place = Place(folder, "ipc")
    with place.daemon, host(place, answer), place.client() as client:
        begun = time.monotonic()
        with pytest.raises(CallError) as caught:
            client.invoke("boss", "onActionExecute", USER, ASKS)
        assert "host_error: the host method's result cannot be sent" in caught.value.message
        assert time.monotonic() - begun < 3, "before the deadline"
