"""No frame, however wrong, ends a client's receive loop: it fails its own call, is counted, and all others go on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.client import AsyncClient, CallError, Client, protocol
from tests.support.daemon import USER
from tests.support.hostile_peer import WRONG_ANSWERS, Answering, HostilePeer

CALLS = 60


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="apx") as folder, HostilePeer(f"ipc://{folder}/s"):
        yield f"ipc://{folder}/s"


def outcome(reply: Any) -> Any:
    return reply["result"] if isinstance(reply, dict) else reply.code


def expect(found: list[Any]) -> None:
    """Each even call has its own answer; each odd one an error of its own, or what can be read of its answer."""
    for number, one in enumerate(found, 1):  # clients number their requests from 1
        if number % 2 == 0:
            assert one == {"n": number}, (number, one)
        else:
            assert one == "PROTOCOL_ERROR" or one != {"n": number}, (number, one)
    assert found.count("PROTOCOL_ERROR") >= CALLS // 4


def test_a_blocking_client_goes_on(endpoint: str) -> None:
    found = []
    with Client(endpoint) as client:
        for number in range(1, CALLS + 1):
            try:
                found.append(outcome(client.invoke("p", "onActionExecute", USER, {"n": number})))
            except CallError as error:
                found.append(outcome(error))
        assert client.unmatched >= CALLS // 2
    expect(found)


def test_an_async_client_goes_on_with_all_its_calls_at_once(endpoint: str) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(endpoint) as client:
            calls = [client.invoke("p", "onActionExecute", USER, {"n": number}) for number in range(1, CALLS + 1)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert client.unmatched >= CALLS // 2
            return [outcome(one) for one in found]

    expect(asyncio.run(run()))


@given(st.binary(max_size=60), st.integers(0, 2**63 - 1) | st.text(max_size=64))
def test_any_body_is_decoded_or_an_error_and_its_id_is_found_if_it_stands_in_front(tail: bytes, id_: int | str) -> None:
    head = b"\x83\xa4type\xa6result\xa2id" + msgspec.msgpack.encode(id_)
    assert protocol.decode(head)["id"] == id_
    assert isinstance(protocol.decode(tail), dict) and isinstance(protocol.decode(head + tail), dict)


@pytest.mark.parametrize("answer", WRONG_ANSWERS, ids=str)
def test_an_answer_to_something_else_is_no_success(answer: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        peer = Answering(f"ipc://{folder}/s", answer)

        async def asynchronous() -> None:
            async with AsyncClient(f"ipc://{folder}/s") as client:
                await client.invoke("p", "onActionExecute", USER, {})

        try:
            with Client(f"ipc://{folder}/s") as client, pytest.raises(CallError) as blocking:
                client.invoke("p", "onActionExecute", USER, {})
            with pytest.raises(CallError) as found:
                asyncio.run(asynchronous())
        finally:
            peer.close()
        for error in (blocking.value, found.value):
            assert (error.code, error.started, error.retryable) == ("PROTOCOL_ERROR", True, False)
