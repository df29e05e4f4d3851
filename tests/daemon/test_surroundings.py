"""No matter who starts the daemon, and where: it serves, or says in one line what it needs."""

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
from apex_exec.config import load_settings
from apex_exec.testing.configuration import to_toml
from tests.support import need
from tests.support.daemon import ECHO, ROOT, USER, Daemon, wait_for, write_plugin

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
    path.write_text(to_toml({"runtime_dir": folder / "run", "state_dir": folder / "state",
                             "http.address": "127.0.0.1:0", "audit.min_free_bytes": 0} | changes))
    return path


def verb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", *map(str, arguments)], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)


# ---------------------------------------------------------------------- modules that cannot be loaded
@pytest.mark.parametrize(("module", "says"), [
    pytest.param("sqlite", "did you mean sqlite3", marks=pytest.mark.slow),
    pytest.param("no.such", "no module 'no.such'", marks=pytest.mark.slow),
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


@pytest.mark.parametrize(("changes", "says"), [
    ({"data.url": "mysql://u@h/d"}, "data.url: this is not a supported database URL"),
    *(pytest.param(changes, says, marks=pytest.mark.slow) for changes, says in (
        ({"market.url": "postgresql+asyncpg://u@h/d"}, "market.url: this is not a supported database URL"),
        ({"registry.url": "sqlite://"}, "registry.url: this is not a supported database URL"),
        ({"data.url": "postgres://u@h/d", "market.url": "postgresql+psycopg://u@h/d"}, "name the same database"),
        ({"data.tables.orders.owner": "rls", "data.tables.orders.columns": ["a"]}, "SQLite has no row-level security"),
        ({"data.tables.orders.owner": "u", "data.tables.orders.columns": ["a", "A"]}, "differ only in case"),
        ({"admin.endpoint": "tcp://127.0.0.1:1"}, "a local socket only"),
        ({"host.endpoint": "udp://x"}, "(with CURVE)"),
        ({"security.policy_file": "/nonexistent.toml"}, "/nonexistent.toml"),
        ({"plugins_dir": "/nonexistent"}, "plugins_dir: the folder /nonexistent"),
        ({"host.endpoint": "ipc:///tmp/" + "x" * 120}, "a socket path has at most"),
        ({"host.endpoint": "tcp://127.0.0.1:0"}, "curve_keys_dir")))])
def test_what_serve_refuses_config_check_refuses_in_the_same_words(changes: dict[str, Any], says: str,
                                                                   folder: Path) -> None:
    config = config_of(folder, **changes)
    check, serve = verb("config", "check", config), verb("serve", "--config", config)
    assert check.returncode != 0 and serve.returncode != 0
    assert says in check.stderr and check.stderr.count("\n") == 1, check.stderr
    assert says in serve.stderr, serve.stderr


def test_the_scheme_that_providers_of_postgresql_print_is_taken() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        settings = load_settings(None, {"data.url": f"{scheme}://role@h/d"})
        assert settings.database_url(settings.data.url) == "postgresql+psycopg://role@h/d"


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
    container = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", str(folder), str(folder),
                 "--unshare-user", "--unshare-pid", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--clearenv",
                 "--setenv", "PATH", os.environ["PATH"], "--chdir", str(ROOT), *options]
    tried = subprocess.run([*container, "true"], capture_output=True, text=True, timeout=30, check=False)
    need(tried.returncode == 0, f"bubblewrap makes no container here: {tried.stderr.strip()[:100]}")
    return [*container, sys.executable, "-m", "apex_exec", "serve", "--config", str(config)]


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


# ---------------------------------------------------------------------- who starts it
BLOCK = ("import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); "
         "os.execvp(sys.argv[1], sys.argv[1:])")
IGNORE = ("import os, signal, sys\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
          "os.execvp(sys.argv[1], sys.argv[1:])")
CLOSED = "import os, sys; [os.close(fd) for fd in ({})]; os.execvp(sys.argv[1], sys.argv[1:])"
UMASK = "import os, sys; os.umask({}); os.execvp(sys.argv[1], sys.argv[1:])"
PARENTS = {
    "signals-blocked": BLOCK, "signals-ignored": IGNORE, "stdin-closed": CLOSED.format("0,"),
    "umask-777": UMASK.format(0o777), "umask-0": UMASK.format(0),
}


@pytest.mark.parametrize("parent", [
    name if name == "signals-blocked" else pytest.param(name, marks=pytest.mark.slow) for name in PARENTS])
def test_any_parent_will_do(parent: str, folder: Path) -> None:
    plugins = folder / "plugins"
    write_plugin(plugins, "echo", ECHO)
    write_plugin(plugins, "exits", "import os\n\n@plugin.hook('onActionExecute')\ndef act(context, params):\n"
                                   "    os._exit(7)\n")
    with Daemon(plugins=plugins, wrapper=[sys.executable, "-c", PARENTS[parent]]) as daemon:
        with Client(daemon.endpoint) as client:
            for _ in range(2):
                begin = time.monotonic()
                with pytest.raises(Exception, match="exited with 7"):
                    client.invoke("exits", "onActionExecute", USER, ACTION)
                assert time.monotonic() - begin < 4
                assert client.invoke("echo", "onActionExecute", USER, ACTION)["result"]["result"] == {"n": 1}
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "reloaded" in daemon.log, 5, "the reload")
        assert daemon.state.stat().st_mode & 0o777 == 0o700
        assert daemon.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["1,", "2,", "0,1,2"])
def test_closed_standard_streams_are_no_reason_not_to_serve(closed: str, folder: Path) -> None:
    config = config_of(folder)
    process = subprocess.Popen([sys.executable, "-c", CLOSED.format(closed), sys.executable, "-m", "apex_exec", "serve",
                                "--config", str(config)], cwd=ROOT)
    try:
        wait_for(lambda: (folder / "run" / "host.sock").exists() or process.poll() is not None, 30, "the socket")
        with Client(f"ipc://{folder}/run/host.sock") as client:
            client.ping()
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("lacks", ["proc", pytest.param("dev-null", marks=pytest.mark.slow)])
def test_without_proc_or_dev_null_it_works_or_says_so_in_one_line(lacks: str, folder: Path) -> None:
    need(shutil.which("bwrap") is not None, "bubblewrap is needed")
    config = config_of(folder)
    (folder / "run").mkdir(mode=0o700)
    mounts = ["--bind", "/dev", "/dev", "--tmpfs", "/proc"] if lacks == "proc" else [
        "--tmpfs", "/dev", "--proc", "/proc"]
    command = ["bwrap", "--bind", "/", "/", *mounts, "--unshare-pid", "--chdir", str(ROOT), "--as-pid-1",
               "--die-with-parent", sys.executable, "-m", "apex_exec", "serve", "--config", str(config)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: "serving" in (folder / "log").read_text() or process.poll() is not None, 30, "either")
        said = (folder / "log").read_text()
        assert "Traceback" not in said
        if process.poll() is not None:
            assert lacks == "proc" and "/proc is not mounted" in said
            assert sum("apex-exec:" in line for line in said.splitlines()) == 1
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------- a client after a fork
def test_a_client_that_was_made_before_a_fork_says_so(folder: Path) -> None:
    plugins = folder / "plugins"
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins) as daemon:
        code = f"""
import asyncio, os
from apex_exec.client import AsyncClient, Client
call = ("echo", "onActionExecute", {USER!r}, {ACTION!r})
def in_child(work):
    if (pid := os.fork()) == 0:
        try:
            work()
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
client = Client({daemon.endpoint!r})
client.invoke(*call)
in_child(lambda: client.invoke(*call))
in_child(lambda: (client.close(), client.ping()))
client.invoke(*call)
async def main():
    async with AsyncClient({daemon.endpoint!r}) as client:
        await client.invoke(*call)
        def work():
            coroutine = client.invoke(*call)
            coroutine.send(None)
        in_child(work)
        in_child(lambda: (client.close(), client.ping().send(None)))
        await client.invoke(*call)
asyncio.run(main())
print("held")
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=40)
        assert done.stdout == "held\n", done.stderr
