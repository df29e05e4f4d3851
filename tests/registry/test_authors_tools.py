"""What an author types: the same verdict everywhere, and a failure that says which exception, file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.registry.bundles.bundle import pack
from tests.registry.test_cli import CALL, Shell
from tests.support.bundles import bundle, files, write_folder
from tests.support.daemon import Daemon, wait_for

BAD_IMPORT = '"""Bad."""\nfrom workers import Plugin\n\nprices = {}\nprice = prices["gold"]\n'
BAD_HOOK = '''"""Bad."""
from workers import Plugin

plugin = Plugin(id="sample", version="{version}", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
def load(params):
    return params["nothing of that name"]
'''
CODE_THAT_THE_SCAN_REFUSES = BAD_HOOK.format(version="1.0.0") + (
    '\n\ndef never() -> None:\n    import os\n    os.system("id")\n')


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Daemon(plugins=None) as daemon:
        yield Shell(tmp_path_factory.mktemp("work"), daemon)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [250, 1900])
def test_validate_loads_a_bundle_that_no_socket_buffer_holds_as_install_does(tmp_path: Path, kilobytes: int) -> None:
    made = files()
    made["data.txt"] = b"a" * (kilobytes << 10)
    told = Shell(tmp_path)("plugin", "validate", write_folder(tmp_path / "large", made))
    assert told.endswith(": valid\n")


@pytest.mark.slow
def test_a_load_that_fails_says_which_exception_file_and_line_everywhere(shell: Shell) -> None:
    made = files(code=BAD_IMPORT, id="bad-import")
    folder = write_folder(shell.folder / "bad-import", made)
    place = "KeyError: 'gold' (at bad-import/plugin.py:5 in <module>)"
    assert place in shell("plugin", "validate", folder, status=1)
    assert place in shell.run("plugin", "install", folder).stderr
    (event,) = [json.loads(line) for line in shell("audit", "tail", "--plugin", "bad-import", "--json").splitlines()]
    assert place in event["metadata"]["reason"] and event["action"] == "plugin.install"
    wait_for(lambda: place.partition(" (at")[0] in shell.run("plugin", "logs", "bad-import").stdout, 10, "the log")


@pytest.mark.slow
def test_a_canary_that_fails_says_which_exception_file_and_line_everywhere(shell: Shell) -> None:
    (shell.folder / "a.apx").write_bytes(pack(bundle()))
    (shell.folder / "b.apx").write_bytes(pack(bundle(code=BAD_HOOK.format(version="1.1.0"), version="1.1.0")))
    shell("plugin", "install", "a.apx")
    shell("plugin", "enable", "sample")
    place = "KeyError: 'nothing of that name' (at sample/plugin.py:9 in load)"
    assert place in shell.run("plugin", "upgrade", "b.apx").stderr
    events = [json.loads(line) for line in shell("audit", "tail", "--plugin", "sample", "--json").splitlines()]
    (refused,) = [event for event in events if event["action"] == "plugin.upgrade"]
    assert place in refused["metadata"]["reason"] and refused["result"] == "denied"
    wait_for(lambda: "KeyError: 'nothing of that name'" in shell.run("plugin", "logs", "sample").stdout, 10, "the log")
    assert '"Hello"' in shell("invoke", "sample", *CALL), "the old version goes on"
    (kept,) = [v for v in json.loads(shell("plugin", "show", "sample", "--json"))["versions"]
               if v["version"] == "1.1.0"]
    assert place in kept["reason"]


@pytest.mark.parametrize(("code", "says"), [
    ('from workers import Plugin\nplugin = Plugin(id="other-id", version="1.0.0", permissions=[])\n',
     "the code says that the plugin's id is 'other-id', the manifest 'sample'"),
    ('plugin = {"id": "sample", "version": "1.0.0", "hooks": {"onDashboardLoad": 7}}\n',
     "the hook 'onDashboardLoad' is 7, not a function"),
    ('plugin = {"id": "sample", "version": "1.0.0", "hooks": ["onDashboardLoad"]}\n',
     "`hooks` is a list, not a dict of functions by hook"),
], ids=["id", "hook", "hooks"])
@pytest.mark.slow
def test_what_is_wrong_with_the_codes_plugin_is_named(tmp_path: Path, code: str, says: str) -> None:
    assert says in Shell(tmp_path)("plugin", "validate", write_folder(tmp_path / "wrong", files(code=code)), status=1)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["install", "upgrade"])
def test_a_bare_name_is_a_plugins_id_whatever_folder_of_that_name_lies_here(shell: Shell, verb: str) -> None:
    write_folder(shell.folder / "bare", files(id="bare"))
    refused = shell.run("plugin", verb, "bare")
    assert refused.returncode == 1 and "write ./bare" in refused.stderr, refused.stderr
    assert "bare" not in {row["id"] for row in json.loads(shell("plugin", "list", "--json"))}
    if verb == "upgrade":
        (shell.folder / "bare" / "plugin.py").write_bytes(files(id="bare")["plugin.py"])
        assert "bare 1.0.0: installed" in shell("plugin", "install", "./bare")


@pytest.mark.slow
def test_the_verdict_of_validate_is_the_one_that_install_comes_to_where_the_scan_only_warns(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "odd", files(code=CODE_THAT_THE_SCAN_REFUSES))
    (tmp_path / "c.toml").write_text('security.scan = "warn"\n')
    assert "not valid" in Shell(tmp_path)("plugin", "validate", folder, status=1)
    assert "not valid" not in Shell(tmp_path)("plugin", "validate", folder, "--config", "c.toml")


def test_a_folder_that_is_not_there_is_said_to_be_that(tmp_path: Path) -> None:
    told = Shell(tmp_path).run("plugin", "validate", "nodir", "--runtime-dir", tmp_path)
    assert told.returncode == 1 and "there is no folder or file 'nodir' here" in told.stderr


@pytest.mark.slow
def test_a_limit_above_the_platforms_is_said_to_have_no_effect(tmp_path: Path) -> None:
    wanted = {"memoryMb": 500, "timeoutMs": 100, "cpuPercent": 50}
    folder = write_folder(tmp_path / "large", files(limits=wanted))
    told = Shell(tmp_path)("plugin", "validate", folder)
    assert "$.limits.memoryMb: 500 is above this platform's limit; 50 applies" in told and told.endswith(": valid\n")
    assert "$.limits.cpuPercent: 50 is above this platform's limit; 10 applies" in told and "timeoutMs" not in told
    found = json.loads(Shell(tmp_path)("plugin", "validate", folder, "--json"))
    assert len(found["notes"]) == 2 and found["ok"]


SPEAKING = '''"""Speaks."""
import logging
import time

from workers import Plugin

plugin = Plugin(id="sample", version="1.0.0", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
def load(context, params):
    """Says what it does."""
    print("printed")
    context.log.info("logged %s", params["dashboardId"])
    if params["dashboardId"] == "slow":
        time.sleep(3600)
    return {"customWidgets": []}
'''
ITS_TESTS = '''"""Tests."""
import logging
import sys

import pytest
from plugin import plugin
from workers.fake import FakePlatform


@pytest.fixture
def noisy():
    logging.getLogger("x").warning("of a fixture")
    return "main"


def call(which):
    return FakePlatform(plugin).call("onDashboardLoad", {"dashboardId": which})


def test_capsys(capsys):
    call("main")
    print("to stderr", file=sys.stderr)
    assert capsys.readouterr() == ("printed\\n", "to stderr\\n")
    assert capsys.readouterr().out == ""
    with capsys.disabled():
        print("to the author")
    assert capsys.readouterr().out == ""


def test_caplog(caplog, noisy):
    call(noisy)
    assert caplog.messages == ["logged main"] and caplog.record_tuples == [("plugin", logging.INFO, "logged main")]
    assert [r.getMessage() for r in caplog.get_records("setup")] == ["of a fixture"]
    caplog.clear()
    with caplog.at_level(logging.CRITICAL, logger="plugin"):
        call("main")
    assert not caplog.text
'''


RACY = '''"""Keeps a user where all calls see it."""
from workers import Plugin

plugin = Plugin(id="sample", version="1.0.0", permissions=["ui:render"])
state = {}


@plugin.hook("onDashboardLoad")
async def load(context, params):
    """Says whose call it takes this for."""
    state["user"] = context.user_id
    await context.api.render_widget("Text")
    return {"customWidgets": [], "mine": state["user"] == context.user_id}
'''
FINDS_RACES = """import pytest
from plugin import plugin
from workers.fake import FakePlatform

@pytest.mark.parametrize("seed", range(5))
def test_it_takes_one_user_for_another(seed):
    results = FakePlatform(plugin).run_together([("onDashboardLoad", {"dashboardId": "main"})] * 8, seed=seed)
    assert not all(result["mine"] for result in results)
"""


@pytest.mark.slow
def test_plugin_test_runs_hooks_together_in_the_jail_and_finds_a_race(tmp_path: Path) -> None:
    made = files(code=RACY)
    made["tests/test_plugin.py"] = FINDS_RACES.encode()
    told = Shell(tmp_path)("plugin", "test", write_folder(tmp_path / "racy", made))
    assert "5 passed, 0 failed" in told, told


@pytest.mark.slow
def test_plugin_test_has_capsys_and_caplog_and_shows_coverage(tmp_path: Path) -> None:
    made = files(code=SPEAKING)
    made["tests/test_plugin.py"] = ITS_TESTS.encode()
    folder = write_folder(tmp_path / "speaking", made)
    told = Shell(tmp_path)("plugin", "test", folder)
    assert "2 passed, 0 failed" in told and "to the author" in told, told
    assert "coverage 84.61 %: 10 of 11 lines, 1 of 2 branches" in told and "plugin.py: not run: 16" in told, told
    shown = json.loads(Shell(tmp_path)("plugin", "test", folder, "--json"))["coverage"]
    assert (shown["percent"], shown["missing"]) == (84.61, [{"path": "plugin.py", "lines": [16]}])


@pytest.mark.parametrize(("tests", "where"), [
    ("def test_quick():\n    pass\n\ndef test_slow():\n    from plugin import load, plugin\n"
     "    from workers.fake import FakePlatform\n"
     "    FakePlatform(plugin).call('onDashboardLoad', {'dashboardId': 'slow'})\n",
     "in sample/tests/test_plugin.py::test_slow: the tests ran longer than 2 s"),
    pytest.param("import time\ntime.sleep(3600)\n", "before the first test began: the tests ran longer than 2 s",
                 marks=pytest.mark.slow),
], ids=["test", "import"])
@pytest.mark.slow
def test_plugin_test_names_the_test_that_hangs(tmp_path: Path, tests: str, where: str) -> None:
    made = files(code=SPEAKING)
    made["tests/test_plugin.py"] = tests.encode()
    told = Shell(tmp_path)("plugin", "test", write_folder(tmp_path / "s", made), "--seconds", "2", status=1)
    assert where in told, told
    assert ("1 passed, 0 failed" in told) == ("test_slow" in where)


@pytest.mark.slow
def test_a_plugin_that_does_not_load_when_it_is_called_says_why_in_the_answer_and_in_the_ledger(tmp_path: Path) -> None:
    write_folder(tmp_path / "plugins" / "bad-import", files(code=BAD_IMPORT, id="bad-import"))
    place = "KeyError: 'gold' (at bad-import/plugin.py:5 in <module>)"
    with Daemon(plugins=tmp_path / "plugins") as daemon:
        shell = Shell(tmp_path, daemon)
        answer = json.loads(shell("invoke", "bad-import", *CALL, status=1))
        assert answer["code"] == "BOOT_FAILED" and place in answer["message"]
        wait_for(lambda: place in shell("audit", "tail", "--plugin", "bad-import", "--type", "security.anomaly"), 10,
                 "the event")
