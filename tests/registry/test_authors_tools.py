"""What an author types: the same verdict everywhere, and a failure that says which exception, file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.registry.bundle import pack
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


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Daemon(plugins=None) as daemon:
        yield Shell(tmp_path_factory.mktemp("work"), daemon)


@pytest.mark.parametrize("kilobytes", [250, pytest.param(1900, marks=pytest.mark.slow)])
def test_validate_loads_a_bundle_that_no_socket_buffer_holds_as_install_does(tmp_path: Path, kilobytes: int) -> None:
    made = files()
    made["data.txt"] = b"a" * (kilobytes << 10)
    told = Shell(tmp_path)("plugin", "validate", write_folder(tmp_path / "large", made))
    assert told.endswith(": valid\n")


def test_a_load_that_fails_says_which_exception_file_and_line_everywhere(shell: Shell) -> None:
    made = files(code=BAD_IMPORT, id="bad-import")
    folder = write_folder(shell.folder / "bad-import", made)
    place = "KeyError: 'gold' (at bad-import/plugin.py:5 in <module>)"
    assert place in shell("plugin", "validate", folder, status=1)
    assert place in shell.run("plugin", "install", folder).stderr
    (event,) = [json.loads(line) for line in shell("audit", "tail", "--plugin", "bad-import", "--json").splitlines()]
    assert place in event["metadata"]["why"] and event["action"] == "plugin.install"
    wait_for(lambda: place.partition(" (at")[0] in shell.run("plugin", "logs", "bad-import").stdout, 10, "the log")


def test_a_canary_that_fails_says_which_exception_file_and_line_everywhere(shell: Shell) -> None:
    (shell.folder / "a.apx").write_bytes(pack(bundle()))
    (shell.folder / "b.apx").write_bytes(pack(bundle(code=BAD_HOOK.format(version="1.1.0"), version="1.1.0")))
    shell("plugin", "install", "a.apx")
    shell("plugin", "enable", "sample")
    place = "KeyError: 'nothing of that name' (at sample/plugin.py:9 in load)"
    assert place in shell.run("plugin", "upgrade", "b.apx").stderr
    events = [json.loads(line) for line in shell("audit", "tail", "--plugin", "sample", "--json").splitlines()]
    (refused,) = [event for event in events if event["action"] == "plugin.upgrade"]
    assert place in refused["metadata"]["why"] and refused["result"] == "denied"
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
def test_what_is_wrong_with_the_codes_plugin_is_named(tmp_path: Path, code: str, says: str) -> None:
    assert says in Shell(tmp_path)("plugin", "validate", write_folder(tmp_path / "wrong", files(code=code)), status=1)
