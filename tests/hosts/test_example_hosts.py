"""The example hosts in other languages: each is built as its first lines say, takes the same ten steps with a real
daemon, and goes through that daemon's end and return."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import apex_exec
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
BUILDS = {"host.c": ["cc", "-o", "host", "host.c", "-lzmq", "-lmsgpackc"]}
"""How an example is compiled, as its own first lines say it."""
STRICT = {"host.c": ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
"""What the test asks of the compiler beyond that: no warning, and no wrong access to memory while it runs."""
NEEDED = {"host.c": Path("/usr/include/msgpack.h")}
"""A file of the packages that the example's first lines name."""


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    """A daemon that each test kills and starts again."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder, Daemon(folder) as running:
        yield running


def built(name: str, folder: Path) -> list[str]:
    """The command that runs the example ``name``, compiled into ``folder`` where its language wants that."""
    said = (FOLDER / name).read_text("utf-8").partition("*/")[0]
    build = BUILDS[name]
    need(shutil.which(build[0]) and NEEDED[name].exists(), f"what the first lines of {name} install")
    assert " ".join(build) in said, "the example says another command"
    shutil.copy(FOLDER / name, folder)
    made = subprocess.run([*build, *STRICT[name]], cwd=folder, capture_output=True, text=True, timeout=100)
    assert made.returncode == 0, made.stderr
    return [str(folder / "host")]


@pytest.mark.parametrize("name", BUILDS)
def test_an_example_host_takes_the_ten_steps_and_goes_through_the_end_and_return_of_its_daemon(
        name: str, mortal: Daemon, tmp_path: Path) -> None:
    with subprocess.Popen([*built(name, tmp_path), mortal.endpoint, "reconnect"], stdin=subprocess.PIPE,
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
