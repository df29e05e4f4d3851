"""`plugin settings` and `plugin call` as an operator and an author type them, on an installed plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.testing import Daemon, write_bundle

CODE = '''
from workers import Plugin

plugin = Plugin(id="kept", version="1.0.0", permissions=[])


@plugin.hook("onActionExecute")
def run(context, params):
    return {"result": [context.settings["size"], "key" in context.settings], "metadata": {}}
'''
SETTINGS = {"properties": {"size": {"type": "integer", "default": 3}, "key": {"type": "string", "secret": True}}}
SECRET = "sk-test-0123456789"


def command(daemon: Daemon, *words: str, status: int = 0, given: str = "") -> str:
    done = subprocess.run([sys.executable, "-m", "apex_exec", *words, "--config", str(daemon.config_file)],
                          input=given, capture_output=True, text=True, timeout=110)
    assert done.returncode == status, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_installed_plugins_settings_from_the_first_value_to_its_removal(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "tests").mkdir(parents=True)
    (folder / "plugin.py").write_text(CODE)
    (folder / "manifest.json").write_text(json.dumps({
        "id": "kept", "name": "kept", "version": "1.0.0", "author": "tests", "permissions": [],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]}, "settings": SETTINGS}))
    with Daemon(config={"audit.min_free_bytes": 0}) as daemon:
        command(daemon, "plugin", "install", str(folder))
        command(daemon, "plugin", "enable", "kept")

        def result() -> object:
            return json.loads(command(daemon, "plugin", "call", "kept").partition("\n")[0])["result"]["result"]

        assert result() == [3, False]
        assert "size" in command(daemon, "plugin", "settings", "get", "kept")
        secret = command(daemon, "plugin", "settings", "set", "kept", "key=typed-in-the-open", status=2)
        assert "key=@FILE" in secret
        command(daemon, "plugin", "settings", "set", "kept", "size=5", "key=-", given=SECRET + "\n")
        assert result() == [5, True]
        shown = command(daemon, "plugin", "settings", "get", "kept")
        assert "(secret)" in shown and "everybody" in shown
        assert "Expected `int`" in command(daemon, "plugin", "settings", "set", "kept", 'size="five"', status=1)
        assert "did you mean size" in command(daemon, "plugin", "settings", "set", "kept", "siez=5", status=1)
        far = command(daemon, "plugin", "settings", "set", "kept", "key=-", status=2, given="x" * 10_000_000)
        assert "65536" in far
        assert "1 secrets are encrypted" in command(daemon, "secrets", "rotate")
        command(daemon, "plugin", "settings", "unset", "kept", "size")
        assert result() == [3, True]
        daemon.stop()
        daemon.start()
        assert result() == [3, True]  # the key and the rows outlast the daemon
        command(daemon, "plugin", "remove", "kept")
        assert "no plugin" in command(daemon, "plugin", "settings", "get", "kept", status=1)
        command(daemon, "plugin", "install", str(folder))
        command(daemon, "plugin", "enable", "kept")
        assert result() == [3, False]  # another plugin may get the id, and nothing of the old one's
        tail = command(daemon, "audit", "tail", "--json")
        assert "plugin.settings.set" in tail


@pytest.mark.slow
def test_a_folder_is_called_by_a_daemon_of_its_own(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "echo", 'from workers import Plugin\nplugin = Plugin(id="echo", version="1.0.0", '
                          'permissions=[])\n@plugin.hook("onActionExecute")\ndef run(params):\n    print("hello")\n'
                          '    return {"result": params["action"], "metadata": {}}\n')
    done = subprocess.run([sys.executable, "-m", "apex_exec", "plugin", "call", str(folder), "--payload",
                           '{"action": "mine"}'], capture_output=True, text=True, timeout=110)
    assert json.loads(done.stdout)["result"]["result"] == "mine" and "hello" in done.stderr, done.stderr
