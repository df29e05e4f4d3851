"""The example hosts in other languages: each is built as its first lines say, takes the same ten steps with a real
daemon, and goes through that daemon's end and return. libzmq in the daemon's place reads their bytes, too."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

import apex_exec
from apex_exec.conformance.host_cases import welcome
from tests.support import need
from tests.support.daemon import Daemon

pytestmark = pytest.mark.system
FOLDER = Path(apex_exec.__file__).parent / "examples" / "hosts"
STEPS = """\
1 hello: protocol 1, bodies of up to 1048576 bytes
2 plugins: hello-world serves onDashboardLoad
3 dashboard: HelloWorld
4 data: sales by year
5 action: every value came back as it left
6 login: done
7 errors: PLUGIN_NOT_FOUND unstarted, INVALID_OUTPUT after it began, a body that is too large is not sent
8 cancel: CANCELLED
9 large: 8 answers of a megabyte, each to its call
10 dispatch: hello-world/hello-widget; liar failed with INVALID_OUTPUT
"""
COMPILED = {"host.c": ["cc", "-o", "host", "host.c", "-lzmq", "-lmsgpackc"]}
"""How an example is compiled, as its own first lines say it."""
STRICT = {"host.c": ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
"""What the test asks of the compiler beyond that: no warning, and no wrong access to memory while it runs."""
RUN = {"host.php": ["php", "host.php"]}
"""How an example that is not compiled is run, as its own first lines say it."""
STRICT_PHP = ["-d", "error_reporting=-1", "-d", "display_errors=stderr", "-d", "log_errors=0"]
NEEDED = {"host.c": Path("/usr/include/msgpack.h")}
"""A file of the packages that the example's first lines name, beside the program."""


HEARTBEAT_MS = 100
SILENCE_MS = 1500
"""A peer that leaves heartbeats unanswered for this time is dropped by libzmq."""


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that each test kills and starts again."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder, Daemon(folder) as running:
        yield running


def command(name: str, folder: Path) -> list[str]:
    """The command that runs the example ``name``, compiled into ``folder`` where its language wants that."""
    said = (FOLDER / name).read_text("utf-8").partition("*/")[0]
    way = COMPILED.get(name) or RUN[name]
    need(shutil.which(way[0]) and NEEDED.get(name, FOLDER).exists(), f"what the first lines of {name} install")
    assert f"  {' '.join(way)}" in said, "the example says another command"
    if name in RUN:
        return [way[0], *STRICT_PHP, str(FOLDER / name)]
    shutil.copy(FOLDER / name, folder)
    made = subprocess.run([*way, *STRICT[name]], cwd=folder, capture_output=True, text=True, timeout=100)
    assert made.returncode == 0, made.stderr
    return [str(folder / "host")]


@pytest.mark.parametrize("name", [*COMPILED, *RUN])
def test_an_example_host_takes_the_ten_steps_and_goes_through_the_end_and_return_of_its_daemon(
        name: str, mortal: Daemon, tmp_path: Path) -> None:
    with subprocess.Popen([*command(name, tmp_path), mortal.endpoint, "reconnect"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        assert host.stdin is not None and host.stdout is not None and host.stderr is not None
        try:
            seen = [host.stdout.readline() for _ in STEPS.splitlines()]
            assert "".join(seen) == STEPS, host.communicate()
            mortal.process.send_signal(signal.SIGSTOP)  # so that the question is on its way, and is not answered
            host.stdin.write("\n")
            host.stdin.flush()
            assert host.stdout.readline() == "asked\n"
            mortal.kill()
            assert host.stdout.readline() == "lost: whether it ran is not known\n"
            assert host.stdout.readline() == "away: the next one is not sent\n"
            mortal.start()
            out, err = host.communicate(timeout=30)
            assert (host.returncode, out, err) == (0, "again: pong\n", "")
        finally:
            host.kill()


@pytest.mark.parametrize("name", [*COMPILED, *RUN])
def test_an_example_host_answers_the_heartbeats_of_libzmq_and_its_own_are_answered(name: str, tmp_path: Path) -> None:
    """Else the connection would end in the silence after the question, and the answer would reach nobody."""
    endpoint = f"ipc://{tmp_path}/s"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.heartbeat_ivl, router.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        router.bind(endpoint)
        with subprocess.Popen([*command(name, tmp_path), endpoint], stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout is not None
            try:
                assert router.poll(20_000)
                peer, delimiter, body = router.recv_multipart()
                asked = msgspec.msgpack.decode(body)
                assert (delimiter, asked["type"], asked["protocol"]) == (b"", "hello", [1])
                time.sleep(2 * SILENCE_MS / 1000)
                answer = {"id": asked["id"], **welcome(maxMessageBytes=2000)}
                router.send_multipart([peer, b"", msgspec.msgpack.encode(answer)])
                assert host.stdout.readline() == "1 hello: protocol 1, bodies of up to 2000 bytes\n"
                assert router.poll(20_000)
                _dealer, body = router.recv_multipart()
                assert msgspec.msgpack.decode(body)["type"] == "plugins"
            finally:
                host.kill()
