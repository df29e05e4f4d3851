"""A wheel that does not fit, or none: JavaScript is not available, everything says so, and Python goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.client import CallError
from tests.support.daemon import ECHO, Daemon, write_plugin
from tests.support.host import Host
from tests.support.javascript import write_document

ABSENT = 'raise ImportError("there is no such wheel")\n'
STRANGE = """
import importlib.util, sys
found = next(path for path in sys.path if path and "site-packages" in path)
spec = importlib.util.spec_from_file_location("_quickjs", next(__import__("pathlib").Path(found).glob("_quickjs*.so")))
mine = sys.modules["_quickjs"]
real = importlib.util.module_from_spec(spec)
sys.modules["_quickjs"] = mine
__file__ = real.__file__
JSException, StackOverflow = real.JSException, real.StackOverflow
class Context(list):
    pass
"""
"""A Context with another layout: the engine's pointers do not lie behind its head."""


@pytest.mark.parametrize(("module", "why"), [
    (ABSENT, "there is no such wheel"), (STRANGE, "not the one that this daemon knows")])
@pytest.mark.slow
def test_without_a_wheel_that_fits_python_goes_on_and_everything_says_so(tmp_path: Path, module: str, why: str) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "_quickjs.py").write_text(module)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "first")}
    target = write_document(tmp_path / "plugins")
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    with Daemon(plugins=tmp_path / "plugins", env={"PYTHONPATH": env["PYTHONPATH"]}) as daemon:
        assert daemon.invoke("echo", "onActionExecute", {"action": "x", "context": {"n": 1}})["result"] == {"n": 1}
        with Host(daemon.endpoint) as host:
            assert host.ask({"type": "hello", "protocol": [1]})["runtimes"] == ["python"]
        with pytest.raises(CallError) as caught:
            daemon.invoke("hello-world", "onDashboardLoad", {"dashboardId": "m"})
        assert caught.value.code == "BOOT_FAILED" and "javascript is not available" in str(caught.value.reply)
        assert "plugins in javascript are not available" in daemon.log and why in daemon.log
    told = json.loads(_cli(env, "doctor", "--json").stdout)
    assert told["runtimes"]["python"] == "" and why in told["runtimes"]["javascript"]
    done = _cli(env, "plugin", "validate", str(target))
    assert done.returncode == 1 and why in done.stdout + done.stderr


def _cli(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", *arguments], env=env, capture_output=True, text=True,
                          timeout=120)
