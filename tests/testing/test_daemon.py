"""``apex_exec.testing``: the daemon in a temporary folder that authors and hosts write their tests with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apex_exec.client import CallError, HostCall
from apex_exec.testing import Daemon, DaemonFailed, write_bundle
from apex_exec.testing.configuration import to_flags, to_toml, without_overrides
from tests.support.daemon import ROOT, wait_for

GREET = '''
from workers import Plugin

plugin = Plugin(id="greeter", version="1.0.0", permissions=[])


@plugin.hook("onActionExecute")
def greet(context, params):
    return {"result": "TEXT", "metadata": {}}
'''
ASK = '''
from workers import Plugin

plugin = Plugin(id="asker", version="1.0.0", permissions=["admin:users"])


@plugin.hook("onActionExecute")
def ask(context, params):
    return {"result": context.api.call("admin.users.greet", {"name": "Ada"}), "metadata": {}}
'''
ACTION = {"action": "greet", "context": {}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text('[plugin.asker]\nallow = ["admin:users"]\n')
    with Daemon(config={"security.policy_file": policy}) as running:
        yield running


def greeter(folder: Path, text: str) -> Path:
    return write_bundle(folder, "greeter", GREET.replace("TEXT", text))


def test_a_plugin_is_put_called_replaced_and_removed_while_the_daemon_runs(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.put_plugin(greeter(tmp_path, "hello")) == "greeter"
    assert daemon.invoke("greeter", "onActionExecute", ACTION)["result"] == "hello"
    (outcome,) = daemon.dispatch("onActionExecute", ACTION)["outcomes"]
    assert outcome["plugin"] == "greeter" and outcome["ok"]
    daemon.put_plugin(greeter(tmp_path, "good day"))
    assert daemon.invoke("greeter", "onActionExecute", ACTION)["result"] == "good day"
    assert daemon.status("greeter")["pids"]
    daemon.remove_plugin("greeter")
    with pytest.raises(CallError, match="PLUGIN_NOT_FOUND"):
        daemon.invoke("greeter", "onActionExecute", ACTION)


def test_a_plugin_calls_a_method_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    daemon.put_plugin(write_bundle(tmp_path, "asker", ASK, permissions=["admin:users"]))

    def greeting(call: HostCall) -> str:
        return f"hello {call.params['name']}"

    daemon.provide({"admin.users.greet": greeting})
    assert daemon.invoke("asker", "onActionExecute", ACTION)["result"] == "hello Ada"


def test_it_answers_over_http_and_on_the_admin_endpoint(daemon: Daemon) -> None:
    assert daemon.get("/readyz")[0] == 200 and daemon.get("/nothing")[0] == 404
    assert daemon.metric("isolation_level_nothing") == 0.0 and "apex_exec_" in daemon.metrics()
    assert daemon.operate("daemon.status")["draining"] is False


@pytest.mark.slow
def test_kill_9_and_a_start_on_the_same_folder_and_a_stop_that_leaves_nothing(tmp_path: Path) -> None:
    with Daemon() as daemon:
        daemon.put_plugin(greeter(tmp_path, "hello"))
        daemon.invoke("greeter", "onActionExecute", ACTION)
        daemon.kill()
        assert not daemon.is_running()
        daemon.start()
        assert daemon.invoke("greeter", "onActionExecute", ACTION)["result"] == "hello"
        family = psutil.Process(daemon.pid).children(recursive=True)
        assert daemon.stop() == 0 == daemon.stop()
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 5)
    assert not daemon.folder.exists()


def test_a_start_that_fails_says_why_with_the_log_and_leaves_no_folder() -> None:
    daemon = Daemon(config={"limits.cpu_percent": -1})
    with pytest.raises(DaemonFailed, match=r"ended with status 2 before it was ready(?s:.*)limits\.cpu_percent"):
        daemon.__enter__()
    assert not daemon.folder.exists() and not daemon.is_running()


def test_a_body_that_fails_gets_the_end_of_the_log_as_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as failed, Daemon() as daemon:
        wait_for(lambda: "serving" in daemon.log, 5)
        raise ZeroDivisionError
    assert "metrics on http://" in failed.value.__notes__[0]


def test_an_end_out_of_order_is_a_failure_of_the_test() -> None:
    with pytest.raises(DaemonFailed, match="ended with status -6"), Daemon() as daemon:
        daemon.signal(signal.SIGABRT)
        daemon.process.wait(10)


def test_nothing_is_used_before_the_start() -> None:
    daemon = Daemon()
    with pytest.raises(RuntimeError, match="has not been started"):
        daemon.stop()
    assert daemon.log == ""
    daemon.folder.joinpath("config.toml").unlink()
    daemon.folder.joinpath("plugins").rmdir()
    daemon.folder.rmdir()


def test_a_plugin_id_that_is_a_path_writes_nowhere(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "d")
    for id_ in ("", "../out", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="not a plugin id"):
            daemon.put_files(id_, {"plugin.py": b""})
    assert not list(daemon.plugins_dir.iterdir())


def test_a_configuration_of_the_callers_own_counts_and_the_harness_wins_over_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('runtime_dir = "/nowhere"\n[limits]\ntimeout_ms = 1234\ncpu_percent = 20\n')
    with Daemon(config_file=mine, config={"limits.cpu_percent": 30}) as daemon:
        assert str(daemon.folder) in daemon.endpoint
        limits = daemon.client.hello()["limits"]
        assert limits["timeoutMs"] == 1234
    assert mine.read_text().startswith('runtime_dir = "/nowhere"')


def test_configurations_are_written_as_toml_and_as_flags() -> None:
    config = {"limits.cpu_percent": 5, "fetch.allow": ["a.example"], "admin.roles": {"uid:1": ["viewer"]},
              "fetch.allow_private": True, "state_dir": Path("/x y")}
    assert to_toml(config) == ('limits.cpu_percent = 5\nfetch.allow = ["a.example"]\n'
                               'admin.roles = {"uid:1" = ["viewer"]}\nfetch.allow_private = true\nstate_dir = "/x y"\n')
    assert to_flags(config)[1::2] == ["limits.cpu_percent=5", 'fetch.allow=["a.example"]',
                                      'admin.roles={"uid:1": ["viewer"]}', "fetch.allow_private=true", "state_dir=/x y"]
    kept = {"APEX_EXEC_LOG__LEVEL": "debug", "HOME": "/"}
    assert without_overrides({"APEX_EXEC_LIMITS__CPU_PERCENT": "9", **kept}, config) == kept


CONFTEST = 'pytest_plugins = ["apex_exec.testing.pytest_plugin"]\n'
AUTHORS_TEST = '''
def test_it_greets(apex_daemon):
    daemon = apex_daemon("greeter", config={"limits.cpu_percent": 50})
    assert daemon.invoke("greeter", "onActionExecute", {"action": "x", "context": {}})["result"] == "hello"
'''


def test_the_fixture_works_in_a_project_of_an_authors_own(tmp_path: Path) -> None:
    greeter(tmp_path, "hello")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_greeter.py").write_text(AUTHORS_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""})
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_works_without_pytest(tmp_path: Path) -> None:
    program = ("import sys; sys.modules['pytest'] = None\nfrom apex_exec.testing import Daemon\n"
               "with Daemon() as daemon:\n    print(daemon.client.hello()['server'])\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("apex-exec"), done


class _Silent(Daemon):
    """A daemon that never says that it is ready."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    def check_starting(self, due: float) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_before_the_daemon_is_ready_leaves_neither_process_nor_folder() -> None:
    daemon = _Silent()
    with pytest.raises(KeyboardInterrupt), daemon:
        pass
    assert not daemon.is_running() and not daemon.folder.exists()


def test_a_wrong_configuration_file_leaves_no_folder(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[audit]\nurl = 7\n")
    code = f"from apex_exec.testing import Daemon; Daemon(config_file={str(wrong)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
                          env={**os.environ, "TMPDIR": str(tmp_path)})
    assert "ConfigError" in done.stderr and list(tmp_path.iterdir()) == [wrong]


def test_a_long_temporary_folder_is_no_place_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("l" * 60) / ("m" * 60)
    long.mkdir(parents=True)
    code = "from apex_exec.testing import Daemon\nwith Daemon() as daemon: print(daemon.client.plugins())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
                          env={**os.environ, "TMPDIR": str(long)})
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
