"""An API call that the plugin waits for no longer ends outside, too, and leaves its place to the next."""

from __future__ import annotations

from collections import deque
from typing import Any

from workers import wire
from workers.javascript.api_calls import AT_ONCE, ApiCalls


class Host:
    """The worker, as far as API calls need it."""

    def __init__(self) -> None:
        self.api_id = 0
        self.sent: list[Any] = []
        self.arrived: deque[Any] = deque()

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def next(self) -> Any:
        return self.arrived.popleft()

    def put_back(self, messages: deque[Any]) -> None:
        raise AssertionError(messages)


def test_a_call_that_ends_is_cancelled_or_never_sent_and_its_answer_is_nobodys() -> None:
    host, settled = Host(), []
    calls = ApiCalls(host, 5, lambda *given: settled.append(given), lambda: None)  # type: ignore[arg-type]  # a part of it
    for number in range(1, AT_ONCE + 4):
        calls.ask({"number": number, "method": "fetch", "params": {}}, "{}", False)
    assert [message.api_id for message in host.sent] == list(range(1, AT_ONCE + 1))
    calls.cancel(2.0)
    calls.cancel(float(AT_ONCE + 2))  # still waits here
    assert host.sent[AT_ONCE:] == [wire.ApiCancel(5, 2), wire.ApiCall(5, AT_ONCE + 1, "fetch", host.sent[-1].params)]
    host.arrived.extend([wire.ApiReply(2, True, wire.NIL), wire.ApiReply(1, True, wire.NIL)])
    calls.wait(-1)
    assert [given[0] for given in settled] == [1.0] and not host.arrived
    assert host.sent[-1].api_id == AT_ONCE + 2  # the last one, whose place came free
    calls.cancel(1.0)  # answered meanwhile
    assert len(host.sent) == AT_ONCE + 3
