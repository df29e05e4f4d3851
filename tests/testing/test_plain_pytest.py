"""Plain pytest in a plugin's folder, and the same tests in the jail: both hold FakePlatform to the platform's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.pytest_plugin import import_folders
from apex_exec.registry.bundles.scaffold import write_scaffold

CODE = '''
from workers import ApiError, Plugin

plugin = Plugin(id="kept", version="0.1.0", permissions=["ui:render", "events:emit", "data:read"])


@plugin.hook("onActionExecute")
async def act(context, params):
    wanted = params["action"]
    if wanted == "wrong":
        return {"reslt": 1}
    if wanted == "set":
        return {"result": {1, 2}, "metadata": {}}
    try:
        if wanted == "event":
            await context.api.emit("no/such name!", {})
        elif wanted == "component":
            await context.api.render_widget("bad component", {})
        elif wanted == "query":
            await context.api.query(17)
        elif wanted == "many":
            for _ in range(2000):
                await context.api.emit("seen", {})
    except ApiError as error:
        return {"result": error.code, "metadata": {}}
    return {"result": context.settings.get("region"), "metadata": {}}
'''
TESTS = '''
import pytest
from plugin import plugin
from workers.fake import FakePlatform, Refused


def run(action, **more):
    return FakePlatform(plugin, settings={"region": "eu"}).call("onActionExecute", {"action": action, "context": {}})


@pytest.mark.parametrize("action", ["wrong", "set"])
def test_a_result_that_no_host_would_get_is_refused(action):
    with pytest.raises(Refused) as refused:
        run(action)
    assert refused.value.code == "INVALID_OUTPUT"


def test_a_payload_that_no_plugin_would_get_is_refused():
    with pytest.raises(Refused) as refused:
        FakePlatform(plugin).call("onActionExecute", {"context": {}})
    assert refused.value.code == "INVALID_INPUT"


@pytest.mark.parametrize("action, code", [("event", "invalid_params"), ("component", "invalid_params"),
                                          ("query", "invalid_params"), ("many", "effect_limit")])
def test_calls_that_the_platform_refuses_are_refused(action, code):
    assert run(action)["result"] == code


async def test_a_coroutine_is_a_test():
    platform = FakePlatform(plugin, settings={"region": "eu"})
    answer = await platform.call_async("onActionExecute", {"action": "x", "context": {}})
    assert answer["result"] == "eu"


async def test_a_coroutine_that_fails_fails():
    assert False
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_scaffold(tmp_path_factory.mktemp("plugins"), "kept", "tests", "onActionExecute")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["permissions"] = ["ui:render", "events:emit", "data:read"]
    (made / "manifest.json").write_text(json.dumps(manifest))
    (made / "plugin.py").write_text(CODE)
    (made / "tests" / "test_plugin.py").write_text(TESTS)
    (made / "pytest.ini").unlink()
    return made


def test_plain_pytest_refuses_what_the_platform_refuses(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "apex_exec.pytest_plugin", "-p", "no:xdist",
                           "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True, timeout=110)
    assert "8 passed" in done.stdout and "1 failed" in done.stdout, done.stdout + done.stderr
    assert "test_a_coroutine_that_fails_fails" in done.stdout


def test_the_jail_does_so_too(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "apex_exec", "plugin", "test", str(folder)], capture_output=True,
                          text=True, timeout=110)
    assert "8 passed, 1 failed" in done.stdout, done.stdout + done.stderr


def test_vendored_packages_can_be_imported_behind_the_plugins_own_modules(tmp_path: Path) -> None:
    assert import_folders(tmp_path) == [str(tmp_path)]
    (tmp_path / "vendor").mkdir()
    assert import_folders(tmp_path) == [str(tmp_path), str(tmp_path / "vendor")]
