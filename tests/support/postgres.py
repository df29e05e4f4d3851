"""The tests' PostgreSQL server: ``apex_exec.testing.postgres``, one a session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.testing.postgres import OWNER, Postgres, missing
from tests.support import need

__all__ = ["OWNER", "Postgres", "own_postgres", "postgres"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server, started on first use."""
    pytest.importorskip("psycopg")
    need(not missing(), missing())
    with tempfile.TemporaryDirectory(prefix="apxpg") as folder:
        server = Postgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that a test may kill: what is committed survives that."""
    pytest.importorskip("psycopg")
    need(not missing(), missing())
    with tempfile.TemporaryDirectory(prefix="apxpg") as folder:
        server = Postgres(Path(folder), durable=True)
        yield server
        server.stop()
