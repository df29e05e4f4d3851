"""The command line of a plugin's life: what an author and an operator type, on a real daemon."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.bundles.scaffold import write_scaffold
from tests.support.bundles import bundle, files, write_folder
from tests.support.daemon import ROOT, USER, Daemon, wait_for

CALL = ("onDashboardLoad", "--user", USER, "--payload", '{"dashboardId": "main"}')


class Shell:
    """``apex-exec`` in a folder, for one daemon."""

    def __init__(self, folder: Path, daemon: Daemon | None = None) -> None:
        self.folder = folder
        self._daemon = daemon

    def __call__(self, *arguments: object, status: int = 0) -> str:
        done = self.run(*arguments)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **{
            name: value for name, value in os.environ.items() if name == "APEX_EXEC_SANDBOX__MIN_LEVEL"}}
        if self._daemon is not None:
            environment |= {"APEX_EXEC_RUNTIME_DIR": str(self._daemon.runtime),
                            "APEX_EXEC_STATE_DIR": str(self._daemon.state)}
        return subprocess.run([sys.executable, "-m", "apex_exec", *map(str, arguments)], cwd=self.folder,
                              env=environment, capture_output=True, text=True, timeout=120)

    def value(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with Daemon(plugins=None, config={"security.require_signature": "author"}) as daemon:
        yield Shell(tmp_path, daemon)


@pytest.mark.slow
def test_five_commands_lead_from_nothing_to_a_signed_installed_enabled_answering_plugin(shell: Shell) -> None:
    shell("keys", "new", "acme")  # once for an author and an operator
    shell("keys", "register", "acme")
    shell("plugin", "new", "my-plugin", "--author", "ACME Corp")
    shell("plugin", "pack", "my-plugin")
    shell("plugin", "sign", "my-plugin-0.1.0.apx", "--key", "acme")
    shell("plugin", "install", "my-plugin-0.1.0.apx")
    shell("plugin", "enable", "my-plugin")
    answer = json.loads(shell("invoke", "my-plugin", *CALL))
    assert answer["result"]["customWidgets"][0]["props"] == {"text": "Hello from My Plugin!"}
    assert "verified" in shell("plugin", "verify", "my-plugin")


@pytest.mark.slow
def test_an_unsigned_bundle_is_refused_with_what_to_do_and_every_verb_is_idempotent(shell: Shell) -> None:
    (shell.folder / "a.apx").write_bytes(pack(bundle()))
    refused = shell.run("plugin", "install", "a.apx")
    assert refused.returncode == 1 and "plugin sign" in refused.stderr and refused.stdout == ""
    shell("keys", "new", "acme")
    for _ in range(2):
        shell("keys", "register", "acme")
        shell("plugin", "sign", "a.apx", "--key", "acme")
        shell("plugin", "install", "a.apx")
        shell("plugin", "enable", "sample", "--user", USER)
    assert shell.value("plugin", "list")[0]["users"] == [USER]
    assert shell.value("plugin", "show", "sample")["state"] == "enabled"
    (shell.folder / "b.apx").write_bytes(pack(bundle("new", version="1.1.0")))
    shell("plugin", "sign", "b.apx", "--key", "acme")
    assert shell.value("plugin", "upgrade", "b.apx")["version"] == "1.1.0"
    assert shell.value("plugin", "rollback", "sample")["version"] == "1.0.0"
    assert "stopped: sample" in shell("keys", "revoke", "acme", "--reason", "lost")
    assert shell.run("invoke", "sample", *CALL).returncode == 1
    for _ in range(2):
        shell("plugin", "remove", "sample")
    assert shell.value("plugin", "list") == []


@pytest.mark.slow
def test_an_admin_permission_is_approved_with_a_key_and_denied_to_its_author(shell: Shell) -> None:
    code = ('from workers import Plugin\nplugin = Plugin(id="sample", version="1.0.0", permissions=["admin:users"])\n'
            '@plugin.hook("onDashboardLoad")\ndef load(context):\n    context.api.call("admin.users.list")\n')
    (shell.folder / "a.apx").write_bytes(pack(bundle(code=code, permissions=["admin:users"])))
    for name in ("acme", "bob"):
        shell("keys", "new", name)
    shell("keys", "register", "acme", "--owner", "ACME Corp")
    shell("keys", "register", "bob", "--role", "approver")
    shell("plugin", "sign", "a.apx", "--key", "acme")
    assert "plugin approve sample admin:users" in shell("plugin", "install", "a.apx")
    assert shell.run("plugin", "enable", "sample").returncode == 1
    shell("plugin", "approve", "sample", "admin:users", "--key", "acme", "--reason", "me", status=1)
    said = shell("plugin", "approve", "sample", "admin:users", "--key", "bob", "--reason", "ok")
    assert "sample is installed" in said
    shell("plugin", "enable", "sample")
    assert json.loads(shell("invoke", "sample", *CALL, status=1))["code"] == "NOT_PROVIDED"  # and no denial
    shell("plugin", "revoke", "sample", "admin:users", "--key", "bob", "--reason", "over")
    assert json.loads(shell("invoke", "sample", *CALL, status=1))["code"] == "PERMISSION_DENIED"


@pytest.mark.slow
def test_the_scaffold_passes_validate_and_test_without_a_daemon_and_its_code_runs_in_the_jail(alone: Shell) -> None:
    alone("plugin", "new", "my-plugin")
    assert "valid" in alone("plugin", "validate", "my-plugin")
    assert "1 passed" in alone("plugin", "test", "my-plugin")
    alone("plugin", "new", "my-plugin", status=1)
    alone("plugin", "new", "My_Plugin", status=1)


@pytest.mark.parametrize("tool", [
    ("pytest", "-q", "-p", "no:cacheprovider"),
    ("ruff", "check", "--no-cache", "--isolated", "--select", "E,F,B,ANN,UP"),
    pytest.param(("mypy", "--strict", "--cache-dir=/dev/null", "plugin.py"), marks=pytest.mark.slow)])
def test_the_scaffold_is_clean_for_an_editors_own_tools(tool: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_scaffold(tmp_path, "my-plugin", "me")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-P", "-m", *tool], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_what_authors_and_hosts_import_says_that_it_is_typed() -> None:
    for package in ("workers", "apex_exec"):
        assert resources.files(package).joinpath("py.typed").is_file(), package


@pytest.mark.slow
def test_validate_says_everything_at_once_in_text_json_and_sarif_and_ends_with_one(alone: Shell) -> None:
    folder = write_folder(alone.folder / "bad", files(id="NO", version="1", permissions=["data:reed"]))
    text = alone("plugin", "validate", folder, status=1)
    assert all(word in text for word in ("$.id", "$.version", "did you mean data:read?"))
    problems = json.loads(alone("plugin", "validate", folder, "--json", status=1))["problems"]
    assert {p["path"] for p in problems} == {"$.id", "$.version", "$.permissions[0]"}
    evil = write_folder(alone.folder / "evil", files(code="import os\nos.system('id')\n"))
    assert json.loads(alone("plugin", "validate", evil, "--sarif", status=1))["version"] == "2.1.0"
    found = json.loads(alone("plugin", "validate", evil, "--json", status=1))
    assert found["scan"]["errors"] == 1 and found["problems"][0]["code"] == "load_failed"
    assert not found["ok"] and "%" not in alone("plugin", "validate", evil, status=1)
    marker = alone.folder / "ran"
    trap = write_folder(alone.folder / "trap", files(code=f"open({str(marker)!r}, 'w').write('x')\n"))
    alone("plugin", "validate", trap, status=1)
    assert not marker.exists()  # it was loaded in the jail, where there are no files


@pytest.mark.slow
def test_a_plugins_tests_run_in_the_jail_and_a_failing_or_missing_one_is_a_no(alone: Shell) -> None:
    made = files()
    made["tests/test_plugin.py"] = b"def test_files() -> None:\n    open('/etc/passwd')\n"
    assert "1 failed" in alone("plugin", "test", write_folder(alone.folder / "a", made), status=1)
    del made["tests/test_plugin.py"]
    assert "no test" in alone("plugin", "test", write_folder(alone.folder / "b", made), status=1)


@pytest.mark.slow
def test_what_is_no_bundle_is_one_line_and_status_one(alone: Shell) -> None:
    (alone.folder / "x.apx").write_bytes(b"PK\x03\x04 not really")
    for arguments in (("plugin", "pack", "nowhere"), ("plugin", "sign", "x.apx", "--key", "none"),
                      ("plugin", "validate", "x.apx"), ("plugin", "validate", "nowhere/at/all")):
        done = alone.run(*arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_logs_shows_what_a_plugin_wrote_and_cleans_it(shell: Shell) -> None:
    code = ('from workers import Plugin\nplugin = Plugin(id="sample", version="1.0.0", permissions=["ui:render"])\n'
            '@plugin.hook("onDashboardLoad")\ndef load():\n    print("hello \\x1b[2J log")\n'
            '    return {"customWidgets": []}\n')
    (shell.folder / "a.apx").write_bytes(pack(bundle(code=code)))
    shell("plugin", "logs", "sample", status=1)
    shell("keys", "new", "acme")
    shell("keys", "register", "acme")
    shell("plugin", "sign", "a.apx", "--key", "acme")
    shell("plugin", "install", "a.apx")
    shell("plugin", "enable", "sample")
    shell("invoke", "sample", *CALL)
    wait_for(lambda: "hello" in shell.run("plugin", "logs", "sample").stdout, 10, "the line in the log")
    assert "\x1b" not in shell("plugin", "logs", "sample")


@pytest.mark.slow
def test_dev_reloads_a_save_and_keeps_the_last_good_one_whatever_is_wrong_with_the_next(alone: Shell) -> None:
    alone("plugin", "new", "my-plugin")
    folder, sockets = alone.folder / "my-plugin", alone.folder / "r"
    command = [sys.executable, "-u", "-m", "apex_exec", "plugin", "dev", str(folder), "--runtime-dir", str(sockets)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_for((sockets / "host.sock").exists, 30, "the daemon")

            def answer() -> str:
                done = alone.run("invoke", "my-plugin", *CALL, "--runtime-dir", sockets)
                return done.stdout + done.stderr

            assert "Hello from" in answer()
            code = (folder / "plugin.py").read_text()
            (folder / "plugin.py").write_text(code.replace("Hello from", "Saved by"))
            wait_for(lambda: "Saved by" in answer(), 20, "the reload")
            good = (folder / "plugin.py").read_text()
            for name, bad in (("plugin.py", good + "def broken(:\n"), ("plugin.py", good + "import nowhere\n"),
                              ("plugin.py", good.replace("onDashboardLoad", "onDataFetch")), ("manifest.json", "{")):
                kept = (folder / name).read_text()
                (folder / name).write_text(bad)
                time.sleep(5)
                assert "Saved by" in answer(), bad
                (folder / name).write_text(kept)
            raising = good.replace("    widget = ", "    print('it is called')\n    {}['nowhere']\n    widget = ")
            (folder / "plugin.py").write_text(raising)
            wait_for(lambda: "PLUGIN_ERROR" in answer(), 20, "the hook that raises")
        finally:
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=30)[0]
    assert output.count("not reloaded") == 4 and process.returncode == 0, output
    assert "SyntaxError" in output and "nowhere is not in" in output and "onDataFetch" in output, output
    assert "[my-plugin] it is called\n" in output and '    File "my-plugin/plugin.py", line' not in output
    assert '\n  File "my-plugin/plugin.py", line' in output and "KeyError: 'nowhere'" in output, output
    (call,) = re.findall(r"^  (.* invoke my-plugin onDashboardLoad .*)$", output, re.MULTILINE)
    assert shlex.split(call)[-3] == '{"dashboardId": "trial"}'


@pytest.mark.slow
def test_dev_prints_a_command_that_answers_as_it_stands(alone: Shell) -> None:
    alone("plugin", "new", "my-plugin")
    command = [sys.executable, "-u", "-m", "apex_exec", "plugin", "dev", str(alone.folder / "my-plugin")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            while " invoke " not in (line := process.stdout.readline()):
                assert line, "dev ended"
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=ROOT, timeout=60)
            assert done.returncode == 0 and "Hello from" in done.stdout, done
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
