"""The fake platforms of both languages keep what they are given, as the real storage does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import need
from tests.support.daemon import ROOT
from workers import Plugin
from workers.fake import USER, FakePlatform

STEPS: list[list[Any]] = [
    ["set", "b", {"n": [1, None]}], ["set", "a", 1], ["set", "a", 2, {"common": True}], ["get", "b"], ["get", "a"],
    ["get", "a", {"common": True}], ["get", "c"], ["delete", "b"], ["delete", "b"], ["delete", "a", {"common": True}],
    ["set", "a\U0001f600", 0], ["set", "a\uffff", 0]]
ANSWERS = [None, None, None, {"n": [1, None]}, 1, 2, None, True, False, True, None, None]
LISTED = ["a", "a\uffff", "a\U0001f600"]


def plugin_with(*permissions: str) -> Plugin:
    """A plugin that does ``STEPS`` and then lists its keys."""
    plugin = Plugin("keeper", "1.0.0", list(permissions))

    @plugin.hook("onActionExecute")
    def act(context: Any) -> Any:
        out = []
        for name, *given in STEPS:
            named = given.pop() if given and isinstance(given[-1], dict) and "common" in given[-1] else {}
            out.append(getattr(context.api.storage, name)(*given, **named))
        return [out, [entry["key"] for entry in context.api.storage.list("a")]]

    return plugin


def test_in_python() -> None:
    platform = FakePlatform(plugin_with("data:read", "data:write"))
    assert platform.call("onActionExecute") == [ANSWERS, LISTED]
    assert platform.storage[USER, "a"] == 1 and platform.asked[0][0] == "storage.set"
    with pytest.raises(Exception, match=r"storage\.set needs data:write"):
        FakePlatform(plugin_with("data:read")).call("onActionExecute")


@pytest.mark.system
def test_in_javascript_under_node(tmp_path: Path) -> None:
    need(shutil.which("node") is not None, "node is not installed")
    shutil.copytree(ROOT / "apex_exec/npm/plugin", tmp_path / "node_modules/@apex-exec/plugin")
    (tmp_path / "run.mjs").write_text(f'''
import {{ FakePlatform }} from "@apex-exec/plugin/testing";
const steps = {json.dumps(STEPS)};
const made = (permissions) => ({{ id: "keeper", version: "1.0.0", permissions, hooks: {{
  async onActionExecute({{ api }}) {{
    const out = [];
    for (const [name, ...given] of steps) out.push(await api.storage[name](...given));
    return [out, (await plugin.api.storage.list({{ prefix: "a" }})).map((entry) => entry.key)];
  }} }} }});
const refused = await new FakePlatform(made(["data:read"])).call("onActionExecute").catch((error) => error.code);
const platform = new FakePlatform(made(["data:read", "data:write"]));
console.log(JSON.stringify([await platform.call("onActionExecute"), refused, platform.calls[0][0]]));
''')
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout or "null") == [[ANSWERS, LISTED], "permission_denied", "storage.set"], done.stderr
