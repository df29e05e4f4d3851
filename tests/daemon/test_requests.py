"""Every request gets its one reply, even where the daemon fails at what a worker said."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from apex_exec.core.actions import Verdict
from apex_exec.core.breaker import BreakerPolicy
from apex_exec.core.pool import Pool, PoolLimits
from apex_exec.daemon import requests as under_test
from apex_exec.daemon.connections import Peer
from apex_exec.daemon.requests import Pending, Requests
from apex_exec.observe.metrics import Metrics
from workers import wire as inner


def test_a_result_that_the_daemon_fails_at_still_has_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    bugs: list[str] = []
    requests = Requests(
        Pool(PoolLimits(), BreakerPolicy(), random.random), step=lambda _event, _now: None,
        reply=lambda _peer, _frames, body: sent.append(msgspec.msgpack.decode(body)),
        welcome=lambda _id: None,  # type: ignore[arg-type,return-value]  # nobody says hello
        metrics=Metrics(), per_host=1, usage=lambda _plugin, _call: (0.0, 0),
        bug=lambda what, _error: bugs.append(what))
    peer = Peer(b"\0host", 3)
    peer.pending[7] = 1
    requests._calls[1] = Pending(peer, [], 7)

    def fails(*_: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(under_test, "settle", fails)
    requests.verdict(Verdict(1, "p", "onActionExecute", "u", "", "", inner.Reply(0, msgspec.Raw(b"\xc0"), 0), {}, True,
                             0, 0, False))
    assert len(sent) == len(bugs) == 1
    assert sent[0]["id"] == 7 and sent[0]["code"] == "INTERNAL" and sent[0]["started"] is True
    assert not peer.pending and not requests._calls
