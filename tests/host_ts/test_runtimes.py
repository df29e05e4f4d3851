"""One host program on every JavaScript runtime, with the package as npm installs it: each sees the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host_ts.conftest import PATIENT
from tests.support.daemon import USER, Daemon
from tests.support.hostile_peer import HostilePeer
from tests.support.runtimes import RUNTIMES, runtime

PROGRAM = Path(__file__).parent / "runtimes" / "everything.mjs"
POLICY = 'allow = ["ui:render"]\n[plugin.boss]\nallow = ["admin:users", "network:fetch", "ui:render"]\n'


@pytest.fixture(scope="module")
def mortal(plugins: Path) -> Iterator[Daemon]:
    """A daemon that each test kills and starts again."""
    with tempfile.TemporaryDirectory(prefix="apx") as folder:
        policy = Path(folder) / "policy.toml"
        policy.write_text(POLICY)
        with Daemon(folder, plugins=plugins, config={**PATIENT, "security.policy_file": str(policy)}) as running:
            running.start_registrar()
            yield running


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_package_does_the_same_on_every_runtime(name: str, project: Path, mortal: Daemon) -> None:
    command = [runtime(name), *RUNTIMES[name]]
    shutil.copy(PROGRAM, project)
    nonsense = f"ipc://{mortal.folder}/nonsense"
    with HostilePeer(nonsense), subprocess.Popen(
            [*command, PROGRAM.name, mortal.endpoint, mortal.admin, nonsense], cwd=project, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        try:
            seen = _talk(host, mortal)
        finally:
            host.kill()
    assert seen == EXPECTED


def _talk(host: subprocess.Popen[str], daemon: Daemon) -> dict[str, Any]:
    """Kills the daemon when the host says that calls are pending, and starts it again when it has noticed."""
    assert host.stdin is not None and host.stdout is not None and host.stderr is not None
    for word in ("pending\n", "away\n"):
        said = host.stdout.readline()
        assert said == word, said + host.stderr.read()
        if word == "pending\n":
            daemon.process.kill()
            daemon.process.wait()
        else:
            daemon.start()
        host.stdin.write("go on\n")
        host.stdin.flush()
    out, err = host.communicate(timeout=60)
    assert host.returncode == 0, err
    assert not err.strip(), err
    found: dict[str, Any] = json.loads(out)
    return found


EXPECTED: dict[str, Any] = {
    "welcome": [1, True, 1_048_576],
    "hooks": ["d", "q", None, 5, False],
    "values": {"text": "é😀", "float": 1.5, "int": 2**53 - 1, "list": [1, [None]],
               "bytes": [True, "Uint8Array", 0, 255], "moment": "2026-01-31T12:00:00.123Z"},
    "sizes": [0, 1, 255, 256, 65_535, 65_536, 900_000],
    "many": True,
    "errors": [["CallError NotServed", "PLUGIN_NOT_FOUND", False], ["CallError PluginFailed", "PLUGIN_ERROR", True],
               ["CallError InvalidRequest", "INVALID_INPUT", False],
               ["CallError InvalidRequest", "PAYLOAD_TOO_LARGE", False],
               ["CallError LimitExceeded", "TIMEOUT", True], ["CallError Cancelled", "CANCELLED", True],
               ["CallError Cancelled", "CANCELLED", False]],
    "soon": True,
    "provided": {"params": {"page": 1}, "plugin": "boss", "userId": USER},
    "refused": ["CallError PluginFailed", "PLUGIN_ERROR", True, "host_error", True],
    "audit": [5, True, True],
    "nonsense": True,
    "lost": 20,
    "unsent": ["CONNECTION_LOST", False, True],
    "again": {"back": True},
    "providedAgain": "boss",
    "events": ["connect", "disconnect", "connect"],
    "closed": False,
}
