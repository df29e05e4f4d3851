"""The Python clients against a real daemon: typed errors, many calls in flight, cancels, ends of connections."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import (
    AdminClient,
    AsyncClient,
    Busy,
    CallError,
    Cancelled,
    Client,
    ConnectionLost,
    InvalidRequest,
    LimitExceeded,
    NotServed,
    PluginFailed,
)
from apex_exec.client.errors import FAMILIES, error_of
from apex_exec.errors import Code, is_retryable
from tests.host_ts.echo_plugins import write_all
from tests.support.daemon import Daemon, wait_for

USER = "11111111-2222-4333-8444-555555555555"
PATIENT = {"breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.01,
           "limits.cpu_percent": 100}


def user(number: int) -> str:
    return f"{number:08x}{USER[8:]}"


def act(action: str, **context: Any) -> dict[str, Any]:
    return {"action": action, "context": context}


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        yield write_all(Path(folder) / "plugins")


@pytest.fixture(scope="module")
def daemon(plugins: Path) -> Iterator[Daemon]:
    with Daemon(plugins=plugins, config=PATIENT) as running:
        yield running


def in_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def test_every_code_of_the_wire_has_its_family() -> None:
    assert set(FAMILIES) == set(Code)
    for code in Code:
        reply = {"code": code, "message": "m", "started": False, "retryable": is_retryable(code, False)}
        assert type(error_of(reply)) is FAMILIES[code]
        assert FAMILIES[code] is not Busy or error_of(reply).retryable
    assert type(error_of({"code": "A_LATER_CODE", "message": "m"})) is CallError


def test_errors_are_typed_by_what_a_host_can_do_about_them(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.invoke("echo-b", "onActionExecute", USER, act("echo"))  # warm: no cold start in the 500 ms below
        for kind, code, arguments in [
            (NotServed, "PLUGIN_NOT_FOUND", ("nobody", "onActionExecute", USER, act("echo"))),
            (NotServed, "HOOK_NOT_DECLARED", ("unloadable", "onDataFetch", USER, {})),
            (InvalidRequest, "INVALID_INPUT", ("echo-a", "onActionExecute", "no-uuid", act("echo"))),
            (InvalidRequest, "PAYLOAD_TOO_LARGE", ("echo-a", "onActionExecute", USER, act("echo", x="y" * 2_000_000))),
            (InvalidRequest, "INVALID_INPUT", ("echo-a", "onActionExecute", USER, act("echo", x=object()))),
            (PluginFailed, "PLUGIN_ERROR", ("echo-a", "onActionExecute", USER, act("raise", nonce="n"))),
            (PluginFailed, "WORKER_CRASHED", ("echo-a", "onActionExecute", USER, act("exit"))),
            (LimitExceeded, "TIMEOUT", ("echo-b", "onActionExecute", USER, act("hang"), 500)),
        ]:
            with pytest.raises(kind) as caught:
                client.invoke(*arguments)  # type: ignore[arg-type]  # a row's types are its own
            assert caught.value.code == code and "\n" not in str(caught.value)
        assert client.invoke("echo-b", "onActionExecute", USER, act("echo", n=1))["result"]["result"] == {"n": 1}


def test_the_blocking_client_pipelines_and_takes_replies_in_any_order(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        welcome = client.hello()
        assert client.max_message_bytes == welcome["limits"]["maxMessageBytes"]
        ids = [client.start({"type": "invoke", "plugin": f"echo-{'abcd'[n % 4]}", "action": "onActionExecute",
                             "userId": user(n), "payload": act("echo", n=n)}) for n in range(200)]
        order = list(enumerate(ids))
        random.Random(3).shuffle(order)
        for n, id_ in order:
            assert client.wait(id_, 5000)["result"]["result"] == {"n": n}
        with pytest.raises(ValueError, match="no request"):
            client.wait(ids[0], 10)
        hanging = client.start({"type": "invoke", "plugin": "echo-b", "action": "onActionExecute", "userId": USER,
                                "payload": act("hang")})
        client.cancel(hanging)
        with pytest.raises(Cancelled):
            client.wait(hanging, 2000)


def test_a_second_thread_in_a_blocking_client_is_told_so(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        def hold() -> None:
            with pytest.raises(LimitExceeded):
                client.invoke("echo-c", "onActionExecute", USER, act("hang"), deadline_ms=2000)

        thread = threading.Thread(target=hold)
        thread.start()
        wait_for(lambda: daemon.plugin("echo-c")["inFlight"] == 1, 10, "the call")
        with pytest.raises(RuntimeError, match="one thread"):
            client.ping()
        thread.join()
        client.ping()  # handing it over is fine


def test_a_thousand_calls_in_flight_each_get_their_own_reply(daemon: Daemon) -> None:
    async def body() -> None:
        async with AsyncClient(daemon.endpoint) as client:
            async def one(n: int) -> None:
                plugin, fill = f"echo-{'abcd'[n % 4]}", "x" * (n % 50 * 700)
                reply = await client.invoke(plugin, "onActionExecute", user(n), act("echo", n=n, fill=fill))
                assert reply["result"]["result"] == {"n": n, "fill": fill} and reply["plugin"] == plugin
                assert reply["result"]["metadata"]["user"] == user(n)

            await asyncio.gather(*(one(n) for n in range(1000)))

    in_loop(body)


def test_cancelling_the_task_cancels_the_hook(daemon: Daemon) -> None:
    async def body() -> None:
        async with AsyncClient(daemon.endpoint) as client:
            await client.invoke("echo-d", "onActionExecute", USER, act("echo"))
            task = asyncio.create_task(client.invoke("echo-d", "onActionExecute", USER, act("hang")))
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):  # the same by a timeout of the caller's own
                await asyncio.wait_for(client.invoke("echo-d", "onActionExecute", USER, act("hang")), 0.3)
            await client.invoke("echo-d", "onActionExecute", USER, act("echo"))
            assert time.monotonic() - begun < 4, "the hook went on for its 5 s"

    in_loop(body)


def test_nobody_there_is_connection_lost_and_nothing_was_executed(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/none") as client, pytest.raises(ConnectionLost) as caught:
        client.request({"type": "ping"}, 100)
    assert caught.value.executed is False and caught.value.retryable

    async def body() -> None:
        async with AsyncClient(f"ipc://{tmp_path}/none") as client:
            with pytest.raises(ConnectionLost) as caught:
                await client.invoke("a", "b", USER, {}, deadline_ms=50)
            assert caught.value.executed is False
            client.close()
            with pytest.raises(ConnectionLost):
                await client.ping()

    in_loop(body)


@pytest.mark.slow
def test_kill_9_of_the_daemon_settles_every_call_and_the_next_daemon_is_found(plugins: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        first = Daemon(folder, plugins=plugins, config=PATIENT)

        async def body() -> None:
            async with AsyncClient(first.endpoint) as client:
                await client.hello()
                calls = [asyncio.create_task(client.invoke(f"echo-{'abcd'[n % 4]}", "onActionExecute", user(n),
                                                           act("hang"), deadline_ms=4000)) for n in range(100)]
                await client.ping()
                first.process.kill()
                begun = time.monotonic()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - begun < 3, "they waited for their deadlines"
                assert all(isinstance(o, ConnectionLost) and o.executed is None for o in outcomes)
                first.process.wait()
                with Daemon(folder, plugins=plugins, config=PATIENT):
                    reply = await client.invoke("echo-a", "onActionExecute", USER, act("echo", back=1))
                    assert reply["result"]["result"] == {"back": 1}

        in_loop(body)


@pytest.mark.slow
def test_kill_9_while_the_blocking_client_waits(plugins: Path) -> None:
    with Daemon(plugins=plugins, config=PATIENT) as daemon, Client(daemon.endpoint) as client:
        ids = [client.start({"type": "invoke", "plugin": "echo-a", "action": "onActionExecute", "userId": user(n),
                             "payload": act("hang")}) for n in range(100)]
        client.ping()
        threading.Timer(0.2, daemon.process.kill).start()
        begun = time.monotonic()
        for id_ in ids:
            with pytest.raises(ConnectionLost):
                client.wait(id_, 5500)
        assert time.monotonic() - begun < 4, "they waited for their deadlines"
        daemon.process.wait()


def test_an_exception_of_a_signal_handler_cancels_the_call_and_leaves_nothing_behind(daemon: Daemon) -> None:
    """A worker pool's soft time limit is one, as Ctrl-C is: the blocking client is used again afterwards."""
    class SoftLimit(Exception):
        pass

    def handler(*_: object) -> None:
        raise SoftLimit

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with Client(daemon.endpoint) as client:
            client.invoke("echo-c", "onActionExecute", USER, act("echo"))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(SoftLimit):
                client.invoke("echo-c", "onActionExecute", USER, act("hang"), deadline_ms=5000)
            begun = time.monotonic()
            client.invoke("echo-c", "onActionExecute", USER, act("echo"), deadline_ms=5000)
            assert time.monotonic() - begun < 3, "the hook that nobody waits for goes on"
            assert client.pending == 0 and client.unmatched >= 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_closed_client_has_its_hooks_cancelled(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as watcher:
        with Client(daemon.endpoint) as client:
            client.start({"type": "invoke", "plugin": "echo-c", "action": "onActionExecute", "userId": USER,
                          "payload": act("hang")})
            client.ping()
        begun = time.monotonic()
        wait_for(lambda: watcher.invoke("echo-c", "onActionExecute", USER, act("echo"))["result"], 5)
        assert time.monotonic() - begun < 4, "the hook went on for its 5 s"


def test_the_id_stands_first_so_that_whatever_is_refused_has_an_answer() -> None:
    """A daemon looks for the id of what it cannot decode among the first values only."""
    nested: object = 1
    for depth in range(300):
        nested = [nested] if depth % 2 else {"a": nested}
    with Daemon() as daemon, AdminClient(daemon.admin) as client, pytest.raises(CallError) as refused:
        client.request("plugin.register", {"bundle": b"PK", "manifest": {"limits": nested}}, 10_000)
    assert refused.value.code == "PAYLOAD_TOO_LARGE"
