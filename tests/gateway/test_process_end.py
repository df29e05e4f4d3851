"""The gateway ends with its link, also if a call cannot be stopped and the supervisor, which would kill it, is gone."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from apex_exec.gateway.process import CLOSE_SECONDS

HANGS = """
import socket, sys, threading
from apex_exec.gateway import process

async def never(self):
    import asyncio
    await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

process.Router.close = never
link = socket.socket(fileno=int(sys.argv[1]))
storage = {"url": "sqlite:////nowhere/s.db", "user_bytes": 1, "plugin_bytes": 1}
process.main(link, {"tables": {}, "data_url": "", "prepared": False, "log_ahead": False, "storage": storage,
                    "origin": "o", "hosts": [], "allow_private": False, "internal": {}, "ca_file": "", "log": {}})
"""
NOTHING_HANGS = HANGS.replace("process.Router.close = never", "")


@pytest.mark.parametrize(("program", "seconds"), [
    pytest.param(NOTHING_HANGS, 1.0, id="idle"),
    pytest.param(HANGS, CLOSE_SECONDS, id="hangs", marks=pytest.mark.slow)])
def test_a_gateway_whose_link_has_ended_ends(program: str, seconds: float) -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sys.executable, "-c", program, str(theirs.fileno())],
                          pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        time.sleep(1.5)  # it serves
        assert process.poll() is None
        ours.close()
        try:
            process.wait(seconds + 5)
        finally:
            process.kill()
