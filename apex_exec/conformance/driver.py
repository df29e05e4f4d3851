"""Drives a Python client for the cases of the host's side.

    python -m apex_exec.conformance.driver sync|async ENDPOINT

A driver of any language is a program that is given the endpoint as its last argument, reads a line of JSON with
operations, begins all of them together, and prints a line of JSON with what came of each. The README has the format.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from apex_exec.client import AsyncClient, CallError, Client, ConnectionLost
from apex_exec.client.protocol import HostCall, HostMethodError
from apex_exec.conformance.plain_values import from_json, to_json

GRACE_MS = 500
REQUEST_MS = 5000


def _method(call: HostCall) -> Any:
    """What every provided method does: returns its parameters, or fails as they say."""
    if "fail" in call.params:
        raise HostMethodError(call.params["fail"], "as it was asked to")
    if "bug" in call.params:
        raise ValueError(call.params["bug"])
    return call.params


def _message(operation: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The request of an operation, and how long its answer may take."""
    fields = {key: value for key, value in operation.items() if key not in ("op", "abortAfterMs") and value is not None}
    kind = operation["op"]
    deadline_ms = fields.get("deadlineMs")
    return {"type": kind, **fields}, REQUEST_MS if deadline_ms is None else deadline_ms + GRACE_MS


def _failed(error: Exception) -> dict[str, Any]:
    if isinstance(error, CallError):
        return {"error": {"code": error.code, "started": error.started, "retryable": error.retryable, "executed": None}}
    if isinstance(error, ConnectionLost):
        return {"error": {"code": error.code, "started": None, "retryable": error.retryable,
                          "executed": error.executed}}
    return {"error": {"code": type(error).__name__, "message": str(error)}}


def _blocking(endpoint: str) -> None:
    with Client(endpoint) as client:
        for line in sys.stdin:
            settlers = [_begin(client, operation) for operation in from_json(json.loads(line))["ops"]]
            _say([settle() for settle in settlers])


def _begin(client: Client, operation: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Starts one operation; what is returned waits for it."""
    kind = operation["op"]
    try:
        if kind in ("hello", "provide", "wait"):
            replied = _at_once(client, operation)
            return lambda: {"reply": replied}
        message, timeout_ms = _message(operation)
        id_ = client.start(message, timeout_ms)
    except (CallError, ConnectionLost) as error:
        failed = _failed(error)
        return lambda: failed

    def settle() -> dict[str, Any]:
        try:
            if "abortAfterMs" in operation:
                client.serve(operation["abortAfterMs"] / 1000)
                client.cancel(id_)
            return {"reply": client.wait(id_, timeout_ms)}
        except (CallError, ConnectionLost) as error:
            return _failed(error)

    return settle


def _at_once(client: Client, operation: dict[str, Any]) -> Any:
    if operation["op"] == "hello":
        return client.hello()
    if operation["op"] == "wait":
        return client.serve(operation["ms"] / 1000)
    return client.provide(dict.fromkeys(operation["methods"], _method))


async def _looping(endpoint: str) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncClient(endpoint) as client:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            _say(list(await asyncio.gather(*(_one(client, operation)
                                             for operation in from_json(json.loads(line))["ops"]))))


async def _one(client: AsyncClient, operation: dict[str, Any]) -> dict[str, Any]:
    kind = operation["op"]
    try:
        if kind == "hello":
            return {"reply": await client.hello()}
        if kind == "provide":
            return {"reply": await client.provide(dict.fromkeys(operation["methods"], _method))}
        if kind == "wait":
            await asyncio.sleep(operation["ms"] / 1000)
            return {"reply": None}
        message, timeout_ms = _message(operation)
        call = asyncio.ensure_future(client.request(message, timeout_ms))
        if "abortAfterMs" in operation:
            await asyncio.wait([call], timeout=operation["abortAfterMs"] / 1000)
            call.cancel()
        return {"reply": await call}
    except asyncio.CancelledError:  # the client has sent the cancel; asyncio's convention is not to wait for its answer
        return {"error": {"code": "CANCELLED", "started": None, "retryable": False, "executed": None}}
    except (CallError, ConnectionLost) as error:
        return _failed(error)


def _say(done: list[dict[str, Any]]) -> None:
    print(json.dumps({"done": to_json(done)}), flush=True)


def main(arguments: list[str]) -> None:
    """Runs until stdin ends."""
    kind, endpoint = arguments
    if kind == "sync":
        _blocking(endpoint)
    else:
        asyncio.run(_looping(endpoint))


if __name__ == "__main__":
    main(sys.argv[1:])
