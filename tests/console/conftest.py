"""The console of a module: each file's own ``daemon`` says what it is beside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.console import Console
from tests.support.daemon import Daemon


@pytest.fixture(scope="module")
def console(daemon: Daemon) -> Iterator[Console]:
    with Console(daemon) as running:
        yield running
