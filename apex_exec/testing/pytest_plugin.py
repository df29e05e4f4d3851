"""A fixture for those who use pytest: ``pytest_plugins = ["apex_exec.testing.pytest_plugin"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from apex_exec.testing.daemon import Daemon


@pytest.fixture(scope="module")
def apex_daemon() -> Iterator[Callable[..., Daemon]]:
    """A function that starts a daemon: ``apex_daemon("path/of/a/bundle", …, **options of Daemon)``.

    The daemons live until the tests of the module have run; a start takes about a second.
    """
    with ExitStack() as stack:
        def start(*bundles: Any, **options: Any) -> Daemon:
            daemon = Daemon(**options)
            for bundle in bundles:
                daemon.put_plugin(bundle)
            return stack.enter_context(daemon)

        yield start
