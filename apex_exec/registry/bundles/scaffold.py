"""The files that ``plugin new`` creates. They pass ``validate`` and ``test`` unchanged."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.manifest import is_plugin_id

_CODE = '''"""{name}: one widget on the dashboard."""

from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="{id}", version="0.1.0", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
def on_dashboard_load(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    """A widget that greets; ``params`` holds dashboardId and userId.

    A hook is given the arguments that it names: context, params.
    """
    props = {{"text": "Hello from {name}!"}}
    widget = {{"id": "greeting", "component": "Text", "props": props}}
    return {{"customWidgets": [widget]}}
'''
_TEST = '''"""What the plugin promises; `apex-exec plugin test .` runs this in the real jail."""

from plugin import plugin
from workers.fake import FakePlatform


def test_the_dashboard_gets_one_widget() -> None:
    result = FakePlatform(plugin).call("onDashboardLoad", {{"dashboardId": "main"}})
    assert [widget["component"] for widget in result["customWidgets"]] == ["Text"]
'''
_PYTEST = "[pytest]\npythonpath = .\n"
"""Lets an editor's own test runner import ``plugin``."""
_README = '''# {name}

One sentence: what this plugin does, and for whom.

## Set-up

What an operator has to know or configure before enabling it. Nothing, for the scaffold:

```
apex-exec plugin pack .
apex-exec plugin install {id}-0.1.0.apx
apex-exec plugin enable {id}
```

## Example

```
apex-exec invoke {id} onDashboardLoad --user 11111111-2222-4333-8444-555555555555 --payload '{{"dashboardId": "main"}}'
```
'''


def _name_of(plugin: str) -> str:
    return re.sub(r"\s+", " ", plugin.replace("-", " ")).strip().title() or plugin


def scaffold_readme(plugin: str) -> str:
    """The README of a new plugin. The marketplace requires the author to replace it by one of his own."""
    return _README.format(id=plugin, name=_name_of(plugin))


def write_scaffold(parent: Path, plugin: str, author: str) -> Path:
    """Creates ``parent/plugin`` with manifest, code, test and README. Raises Refusal; never writes into an existing
    folder."""
    if not is_plugin_id(plugin):
        raise Refusal("bad_id", f"{plugin[:60]!a} is not a plugin id", code=Code.INVALID_INPUT,
                      hint="3 to 50 of lower-case a-z, digits and hyphens, as in custom-analytics")
    name = _name_of(plugin)
    manifest = {
        "id": plugin, "name": name, "version": "0.1.0", "author": author, "permissions": ["ui:render"],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}, "apiVersion": ">=1.0,<2",
    }
    folder = parent / plugin
    try:
        folder.mkdir(parents=True)
        (folder / "tests").mkdir()
        values = {"id": plugin, "name": name}
        for path, text in (("manifest.json", json.dumps(manifest, indent=2) + "\n"),
                           ("plugin.py", _CODE.format(**values)),
                           ("tests/test_plugin.py", _TEST.format(**values)), ("pytest.ini", _PYTEST),
                           ("README.md", scaffold_readme(plugin))):
            (folder / path).write_text(text, "utf-8")
    except FileExistsError:
        raise Refusal("exists", f"{folder} already exists", code=Code.CONFLICT,
                      hint="choose another id, or another folder with --dir") from None
    except OSError as error:
        raise Refusal("unwritable", f"{folder}: {os.strerror(error.errno or 0)}", hint="choose another --dir") from None
    return folder
