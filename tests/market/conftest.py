"""Each store test runs twice: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

_names = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/market.db"
    return str(request.getfixturevalue("postgres").url(f"market_{next(_names)}"))
