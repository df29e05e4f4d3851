"""How many workers have a call: what the loop goes by when it looks awake. Of what workers say, nothing else counts."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import Limits, PluginSpec
from apex_exec.executor.loop import Loop
from apex_exec.executor.worker_link import WorkerLink
from apex_exec.executor.worker_table import WorkerTable
from workers import wire as inner

SPEC = PluginSpec("aaa", "1.0.0", "d", "p.py", (), limits=Limits())


class Table(WorkerTable):
    """The real table over links whose workers are played; no zygote, and nobody listens."""

    def __init__(self) -> None:
        nobody: Any = SimpleNamespace(unask=lambda _: False, worker_gone=lambda _: None, lost=lambda _: None)
        anything: Any = SimpleNamespace()
        super().__init__(Loop(), start_zygote=anything, zygote=anything, sandboxing=nobody, source=anything, spares=0,
                         step=lambda *_: None, metrics=anything, logs=anything)
        self.zygote = nobody

    def add(self, worker: int) -> WorkerLink:
        link = WorkerLink(worker, SPEC, 0)
        self._enter(link)
        self._forked[worker] = link
        self._loop.add(link.fileno(), lambda _: None)
        return link

    def call(self, worker: int, seq: int) -> None:
        self.send_call(act.SendCall(worker, seq, ev.InvokeRequested(seq, "aaa", "onDataFetch", "u", Raw(b"\x80"), 9)))

    def answer(self, worker: int, seq: int) -> None:
        self._take(self._links[worker], inner.Reply(seq, Raw(b"\xc0"), 0), 0)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setattr("apex_exec.executor.worker_table.ZygoteKeeper", lambda *_, **__: None)
    made = Table()
    yield made
    for link in list(made._links.values()):
        made._release(link)
    assert made.working == 0


def test_a_worker_counts_from_its_first_call_to_its_last_answer(table: Table) -> None:
    for worker in (1, 2):
        table.add(worker)
        table.call(worker, 0)
        table.call(worker, 1)
    assert table.working == 2
    table.answer(1, 0)
    assert table.working == 2
    table.answer(1, 1)
    assert table.working == 1


def test_one_that_dies_with_calls_counts_no_more_and_an_idle_one_never_did(table: Table) -> None:
    busy, idle = table.add(1), table.add(2)
    table.call(1, 0)
    table._release(idle)
    assert table.working == 1
    table._release(busy)
    assert table.working == 0


def test_answers_that_nobody_asked_for_do_not_move_the_count_of_others(table: Table) -> None:
    table.add(1)
    table.add(2)
    table.call(2, 0)
    for seq in range(3):
        table.answer(1, seq)  # a violation, which ends it; until then it is no worker the less
    assert table.working == 1
    table.call(1, 3)
    assert table.working <= 2
    table._release(table._links[1])
    assert table.working == 1
