"""A silent database costs a call no more than a bound: a commit may have taken effect, a rollback is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from apex_exec.catalogue.methods import Insert
from apex_exec.gateway import postgres_ends as under_test
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.postgres import CONNECTIONS_MAX
from apex_exec.gateway.postgres import Postgres as Backend
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sql.writes import compile_write
from tests.gateway.conftest import NAMED, SECONDS, TABLES, A, postgres_data
from tests.support.postgres import Postgres

BOUND_SECONDS = 0.4


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_commit_without_an_answer_is_waited_for_that_long_and_no_longer(
        monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    monkeypatch.setattr(under_test, "COMMIT_SECONDS", BOUND_SECONDS)
    ended: list[str] = []

    async def silent() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("it waits no longer")

    async def hang_up() -> None:
        ended.append("its connection is closed")

    async def write() -> None:
        task = asyncio.ensure_future(under_test.settled(silent(), hang_up))
        await asyncio.sleep(0.05)
        if cancelled:
            task.cancel()
        await task

    begun = time.monotonic()
    with pytest.raises(ApiFailure) as failed:
        asyncio.run(write())
    assert failed.value.code == "data_unavailable" and "may have taken effect" in failed.value.message
    assert BOUND_SECONDS <= time.monotonic() - begun < BOUND_SECONDS + 2
    assert ended == ["its connection is closed", "it waits no longer"]


class DeafAfter:
    """A way to the server on which nothing comes back once ``word`` has gone there."""

    def __init__(self, folder: Path, server: Path, word: bytes) -> None:
        self._server, self._word = server, word
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._server / ".s.PGSQL.5432"))
                deaf = threading.Event()
                threading.Thread(target=self._pass, args=(near, far, deaf, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, deaf, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, deaf: threading.Event, out: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if out and self._word in data:
                    deaf.set()
                if out or not deaf.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("seconds", [0.2, 2], ids=["its call's time is over", "its call has time left"])
def test_a_write_whose_commit_is_not_answered_ends_in_time_and_says_so(
        postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(under_test, "COMMIT_SECONDS", BOUND_SECONDS)
    data = postgres_data(postgres, "commits")
    data.write(Insert("notes", {"id": 900, "text": "the outbox is there"}))
    way = DeafAfter(tmp_path, postgres.folder, b"COMMIT")
    backend = Backend(f"postgresql+psycopg://plugins@/commits?host={tmp_path}", read_tables(TABLES), "test")
    backend._has_outbox = True  # else its own look for the outbox is the commit that is not answered
    try:
        write = compile_write(Insert("notes", {"id": 901, "text": "x"}), data.tables, NAMED, A)
        record = Outbox.record(write, A, "p")
        begun = time.monotonic()
        with pytest.raises(ApiFailure) as failed:
            data.run(backend.write(write, record, A, time.monotonic_ns() + int(seconds * SECONDS)))
        assert failed.value.code == "data_unavailable" and "may have taken effect" in failed.value.message
        assert time.monotonic() - begun < BOUND_SECONDS + 2
        assert len(data.query("SELECT id FROM notes WHERE id = 901")) == 1, "here it had"
    finally:
        way.close()
        data.run(backend.close())
        data.close()


def test_a_rollback_that_is_not_answered_costs_neither_the_call_its_answer_nor_the_pool_its_connection(
        postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "ROLLBACK_SECONDS", BOUND_SECONDS)
    data = postgres_data(postgres, "rollbacks")
    way = DeafAfter(tmp_path, postgres.folder, b"ROLLBACK")
    backend = Backend(f"postgresql+psycopg://plugins@/rollbacks?host={tmp_path}", read_tables(TABLES), "t")
    backend._has_outbox = True
    write = compile_write(Insert("notes", {"id": 1, "text": "B has this id"}), data.tables, NAMED, A)
    try:
        data.write(Insert("notes", {"id": 900, "text": "the outbox is there"}))
        for _ in range(CONNECTIONS_MAX + 2):
            begun = time.monotonic()
            with pytest.raises(ApiFailure) as failed:
                data.run(backend.write(write, Outbox.record(write, A, "p"), A, time.monotonic_ns() + 2 * SECONDS))
            assert failed.value.code == "constraint"
            assert time.monotonic() - begun < BOUND_SECONDS + 1.5
    finally:
        way.close()
        data.run(backend.close())
        data.close()
