"""The storage in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apex_exec.storage.entries import Waiting
from apex_exec.storage.store import Store

MakeStore = Callable[..., Store]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on either."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/storage.db"
    return str(request.getfixturevalue("postgres").url(f"storage{abs(hash(str(tmp_path)))}"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """With room for 1,000 bytes a user and 2,500 a plugin."""
    made = Store(url, 1000, 2500)
    yield made
    made.close()


def record(number: int = 0) -> Waiting:
    """The audit record of a write."""
    return Waiting(f"storage:{number}", 1, "data.modification", "u", "p", "storage.set", {})
