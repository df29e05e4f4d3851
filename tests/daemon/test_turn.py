"""What one turn of the supervisor does first: what is ready to go leaves before more is taken in."""

from __future__ import annotations

import select
import tempfile
from pathlib import Path

import pytest

from apex_exec.core.limits import PoolLimits
from benchmarks.hot_path import Rig


def has_news(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_answers_and_the_calls_after_them_leave_before_more_is_taken_in(
        monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    folder = tempfile.TemporaryDirectory(prefix="apxt")  # a short path: it holds a socket
    request.addfinalizer(folder.cleanup)
    rig = Rig(Path(folder.name), audited=False)
    request.addfinalizer(rig.host.close)
    rig.start_worker()
    worker, host = rig.zygote.link, rig.host
    assert worker is not None
    rig.ask(PoolLimits().prefetch + 1)  # one more than the worker is handed at a time
    for _ in range(3):
        rig.turn()
    worker.recv(1 << 20)
    rig.answer(1)
    rig.ask(1)
    loop = rig.loop
    for fd, mask in loop._epoll.poll(1):
        loop._handlers[fd](mask)
    assert not has_news(host.fileno())
    peers = rig.peers
    receive, seen = peers.receive, []

    def watched() -> bool:
        seen.append((has_news(host.fileno()), has_news(worker.fileno()), rig.requests.taken))
        return receive()

    monkeypatch.setattr(peers, "receive", watched)
    before = rig.requests.taken
    rig.turn_of_loop.run()
    assert seen == [(True, True, before)]
    assert rig.requests.taken == before + 1, "and then it was taken in"
