"""One daemon and one door for the tests that leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ECHO, SLEEP, Daemon, write_plugin
from tests.support.door import Door

COUNT = '''
import os

@plugin.hook("onActionExecute")
def act(context, params):
    """Adds a line to a log that the test reads, and takes the time that it is told."""
    import time
    context.log.info("ran " + params["context"]["mark"])
    time.sleep(params["context"].get("seconds", 0))
    return {"result": params["context"]["mark"], "metadata": {"user": context.user_id}}
'''
FAILS = '''
@plugin.hook("onActionExecute")
def act(context, params):
    raise ValueError("no")
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo-it", ECHO)
    write_plugin(plugins, "sleeper", SLEEP)
    write_plugin(plugins, "counter", COUNT)
    write_plugin(plugins, "failing", FAILS)
    with Daemon(plugins=plugins) as running:
        running.start_registrar()
        yield running


@pytest.fixture(scope="module")
def door(daemon: Daemon) -> Iterator[Door]:
    with Door(daemon) as running:
        yield running


@pytest.fixture(scope="module")
def token(door: Door) -> str:
    return door.token()
