"""Whoever starts the daemon, and wherever: it serves, or says in one line what it needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Client
from tests.support import need
from tests.support.daemon import ECHO, ROOT, USER, Daemon, toml, wait_for, write_plugin

ACTION = {"action": "x", "context": {"n": 1}}


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="apx"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def config_of(folder: Path, **changes: Any) -> Path:
    """A configuration of folders of its own, written."""
    path = folder / "c.toml"
    path.write_text(toml({"runtime_dir": folder / "run", "state_dir": folder / "state", "http.address": "127.0.0.1:0",
                          "audit.min_free_bytes": 0} | changes))
    return path


def verb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", *map(str, arguments)], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)


# ---------------------------------------------------------------------- modules that cannot be loaded
@pytest.mark.parametrize(("module", "says"), [
    ("sqlite", "did you mean sqlite3"), pytest.param("no.such", "no module 'no.such'", marks=pytest.mark.slow),
    pytest.param("", "no module ''", marks=pytest.mark.slow),
    pytest.param("os path", "no module", marks=pytest.mark.slow)])
def test_a_module_that_does_not_exist_is_found_by_config_check_doctor_and_serve(
        module: str, says: str, folder: Path) -> None:
    config = config_of(folder, **{"sandbox.extra_modules": [module]})
    for done in (verb("config", "check", config), verb("doctor", "--config", config),
                 verb("serve", "--config", config)):
        assert done.returncode != 0
        assert says in done.stderr and "sandbox.extra_modules" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_module_that_fails_when_it_is_loaded_is_found_by_doctor_and_serve(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "breaks_at_import.py").write_text("raise RuntimeError('out of\\x1b[31m order')\n")
    config = config_of(folder, **{"sandbox.extra_modules": ["breaks_at_import"]})
    env = {**os.environ, "PYTHONPATH": f"{folder / 'lib'}:{ROOT}"}
    for arguments in (["doctor", "--config"], ["serve", "--config"]):
        done = subprocess.run([sys.executable, "-m", "apex_exec", *arguments, str(config)], env=env, cwd=folder,
                              capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "RuntimeError: out of" in said and "extra_modules" in said, said
        assert "\x1b[31m" not in said and "Traceback" not in said


@pytest.mark.slow
def test_ssl_can_be_named_like_any_other_module(folder: Path) -> None:
    plugins = folder / "plugins"
    write_plugin(plugins, "tls", "import ssl\n\n@plugin.hook('onActionExecute')\ndef act(context, params):\n"
                                 "    return {'result': ssl.OP_ALL > 0, 'metadata': {}}\n")
    with (Daemon(plugins=plugins, config={"sandbox.extra_modules": ["ssl"]}) as daemon,
          Client(daemon.endpoint) as client):
        assert client.invoke("tls", "onActionExecute", USER, ACTION)["result"]["result"] is True


# ---------------------------------------------------------------------- a zygote that keeps dying
@pytest.mark.slow
def test_a_zygote_that_keeps_dying_is_tried_ever_more_seldom_and_its_reason_is_told(folder: Path) -> None:
    """It dies after its start, not at it: a module of its own stops being importable while the daemon runs."""
    lib, plugins = folder / "lib", folder / "plugins"
    lib.mkdir()
    (lib / "fragile.py").write_text("")
    write_plugin(plugins, "echo", ECHO)
    env = {"PYTHONPATH": f"{lib}:{ROOT}"}
    with Daemon(plugins=plugins, config={"sandbox.extra_modules": ["fragile"]}, env=env) as daemon:
        (lib / "fragile.py").write_text("raise OSError('the volume is gone')\n")
        daemon.zygote().kill()
        begin = time.monotonic()
        wait_for(lambda: daemon.log.count("the zygote died") >= 3, 20, "three deaths")
        assert "it was ended by SIGKILL" in daemon.log
        assert "it ended with status 1: OSError: the volume is gone" in daemon.log
        status, why = daemon.get("/readyz")
        assert status == 503 and "OSError: the volume is gone" in why
        time.sleep(max(0.0, begin + 6 - time.monotonic()))
        assert daemon.log.count("the zygote died") <= 8, "0.1 s doubled to 5 s"
        assert len(daemon.log.splitlines()) < 40
        (lib / "fragile.py").write_text("")
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 12, "a zygote again")
        with Client(daemon.endpoint) as client:
            assert client.invoke("echo", "onActionExecute", USER, ACTION)["result"]["result"] == {"n": 1}


# ---------------------------------------------------------------------- a container
def contained(folder: Path, config: Path, *options: str) -> list[str]:
    """``serve`` with a read-only root, no temporary folder, uid 1000 and no capabilities; ``folder`` is the volume."""
    need(shutil.which("bwrap") is not None, "bubblewrap is needed")
    return ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", str(folder), str(folder),
            "--unshare-user", "--unshare-pid", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--clearenv",
            "--setenv", "PATH", os.environ["PATH"], "--chdir", str(ROOT), *options, sys.executable, "-m", "apex_exec",
            "serve", "--config", str(config)]


@pytest.mark.parametrize("options", [
    pytest.param((), id="below-an-init", marks=pytest.mark.slow), pytest.param(("--as-pid-1",), id="as-pid-1")])
def test_a_pod_without_any_temporary_folder_serves_calls(options: tuple[str, ...], folder: Path) -> None:
    write_plugin(folder / "plugins", "echo", ECHO)
    config = config_of(folder, plugins_dir=folder / "plugins", **{"sandbox.min_level": "L0"})
    (folder / "run").mkdir(mode=0o700)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(contained(folder, config, *options), stdout=log, stderr=log)
    said = folder / "log"
    try:
        wait_for(lambda: "serving" in said.read_text() or process.poll() is not None, 30, "serving")
        assert "serving 1 plugins" in said.read_text()
        with Client(f"ipc://{folder}/run/host.sock") as client:
            assert client.invoke("echo", "onActionExecute", USER, ACTION)["result"]["result"] == {"n": 1}
        assert "Traceback" not in said.read_text() and "the zygote died" not in said.read_text()
    finally:
        for pid in _below(process.pid):
            os.kill(pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()


def _below(pid: int) -> list[int]:
    """The daemon itself, below bubblewrap's own processes."""
    import psutil

    found = [p.pid for p in psutil.Process(pid).children(recursive=True) if "serve" in p.cmdline()
             and p.cmdline()[0] != "bwrap"]
    return found[:1]
