"""The example hosts in other languages: each is built as its first lines say, takes the same ten steps with a real
daemon, and goes through that daemon's end and return. libzmq in the daemon's place reads their bytes, too."""

from __future__ import annotations

import os
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
COMPILED = {"host.c": "cc -o host host.c -lzmq -lmsgpackc",
            "host.go": "GO111MODULE=off GOPATH=/usr/share/gocode go build -o host host.go"}
"""How an example is compiled, as its own first lines say it."""
STRICT = {"host.c": ("cc", "cc -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"),
          "host.go": ("go build", "go build -race")}
"""What the test asks of the compiler beyond that: no warning, no wrong access to memory, no race while it runs."""
RUN = {"host.php": "php host.php"}
"""How an example that is not compiled is run, as its own first lines say it."""
STRICT_PHP = ["-d", "error_reporting=-1", "-d", "display_errors=stderr", "-d", "log_errors=0"]
NEEDED = {"host.c": ("cc", "/usr/include/msgpack.h"), "host.php": ("php",),
          "host.go": ("go", "cc", "/usr/share/gocode/src/github.com/vmihailenco/msgpack")}
"""Programs, and a file of each package that an example's first lines name."""
BUILD_SECONDS = 300
LATER = [pytest.mark.slow, pytest.mark.timeout(2 * BUILD_SECONDS)]
HOSTS = ["host.c", "host.php", pytest.param("host.go", marks=LATER)]
"""Go's compiler is a large package, and begins with the library that finds races."""
HEARTBEAT_MS = 100
SILENCE_MS = 1500
"""A peer that leaves heartbeats unanswered for this time is dropped by libzmq."""


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that each test kills and starts again."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder, Daemon(folder) as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is compiled."""
    return tmp_path_factory.mktemp("hosts")


def command(name: str, place: Path) -> list[str]:
    """The command that runs the example ``name``, compiled in ``place`` where its language wants that."""
    need(all(shutil.which(what) or Path(what).exists() for what in NEEDED[name]), f"what {name} says is installed")
    said = (FOLDER / name).read_text("utf-8").partition("*/")[0].split("\n")
    way = COMPILED.get(name) or RUN[name]
    assert any(line.lstrip("*\t ").startswith(way) for line in said), "the example says another command"
    if name in RUN:
        return [way.split()[0], *STRICT_PHP, str(FOLDER / name)]
    built = place / f"{name}.built"
    if not built.exists():
        shutil.copy(FOLDER / name, place)
        made = subprocess.run(["sh", "-c", way.replace(*STRICT[name])], cwd=place, capture_output=True, text=True,
                              timeout=BUILD_SECONDS, env={**os.environ, "GOCACHE": str(place / "cache")})
        assert made.returncode == 0, made.stderr
        (place / "host").rename(built)
    return [str(built)]


@pytest.mark.parametrize("name", HOSTS)
def test_an_example_host_takes_the_ten_steps_and_goes_through_the_end_and_return_of_its_daemon(
        name: str, mortal: Daemon, place: Path) -> None:
    with subprocess.Popen([*command(name, place), mortal.endpoint, "reconnect"], stdin=subprocess.PIPE,
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


@pytest.mark.parametrize("name", HOSTS)
def test_an_example_host_answers_the_heartbeats_of_libzmq_and_its_own_are_answered(
        name: str, place: Path, tmp_path: Path) -> None:
    """Else the connection would end in the silence after the question, and the answer would reach nobody."""
    endpoint = f"ipc://{tmp_path}/s"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.heartbeat_ivl, router.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        router.bind(endpoint)
        with subprocess.Popen([*command(name, place), endpoint], stdout=subprocess.PIPE, text=True) as host:
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
