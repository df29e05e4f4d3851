"""The files that ``plugin new`` creates. They pass ``validate`` and ``test`` unchanged."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Literal

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.errors import Code, Refusal
from apex_exec.executor.processes.runtimes import JAVASCRIPT
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import is_plugin_id
from apex_exec.registry.bundles.scaffold_javascript import Language as JavaScript
from apex_exec.registry.bundles.scaffold_javascript import javascript_files, working_section

Language = Literal["python"] | JavaScript

WIDGETS_HOOK = "onDashboardLoad"
"""What a plugin begins with unless another hook is named: one that shows something."""
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
_ANY_CODE = '''"""{name}: answers {hook}."""

from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="{id}", version="0.1.0", permissions=[])


@plugin.hook("{hook}")
def {function}(context: HookContext, params: dict[str, Any]) -> Any:
    """One answer to {hook}; ``params`` is as {sample}.

    A hook is given the arguments that it names: context, params.
    """
    return {result}
'''
_ANY_TEST = '''"""What the plugin promises; `apex-exec plugin test .` runs this in the real jail."""

from plugin import plugin
from workers.fake import FakePlatform


def test_the_hook_answers() -> None:
    assert FakePlatform(plugin).call("{hook}", {sample}) == {result}
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
apex-exec invoke {id} {hook} --user 11111111-2222-4333-8444-555555555555 --payload {payload}
```
'''


def _name_of(plugin: str) -> str:
    return re.sub(r"\s+", " ", plugin.replace("-", " ")).strip().title() or plugin


def language_of(bundle: Bundle) -> Language:
    """The language that ``bundle`` was begun in."""
    if bundle.manifest.runtime != JAVASCRIPT.name:
        return "python"
    return "typescript" if "src/plugin.ts" in bundle.files else "javascript"


def scaffold_readme(plugin: str, hook: str = WIDGETS_HOOK, language: Language = "python") -> str:
    """The README of a new plugin. The marketplace requires the author to replace it by one of his own."""
    sample = {"dashboardId": "main"} if hook == WIDGETS_HOOK else HOOKS[hook].sample
    text = _README.format(id=plugin, name=_name_of(plugin), hook=hook, payload=shlex.quote(json.dumps(sample)))
    return text if language == "python" else text + working_section(language)


def write_scaffold(parent: Path, plugin: str, author: str, hook: str = WIDGETS_HOOK,
                   language: Language = "python") -> Path:
    """Creates ``parent/plugin`` with manifest, code, test and README, for ``hook``. Raises Refusal; never writes into
    an existing folder."""
    if hook not in HOOKS:
        raise Refusal("unknown_hook", f"there is no hook {hook[:60]!a}", code=Code.INVALID_INPUT,
                      hint=f"the hooks are {', '.join(HOOKS)}; name the configuration that declares others by --config")
    return write_new(parent, plugin, scaffold_files(plugin, author, hook, language))


def scaffold_files(plugin: str, author: str, hook: str, language: Language) -> dict[str, str]:
    """The texts of a new plugin by path."""
    is_widgets = hook == WIDGETS_HOOK
    values = {"id": plugin, "name": _name_of(plugin), "hook": hook}
    if language == "python":
        files = _python_files(values, hook, is_widgets)
    else:
        sample, result = (json.dumps(value) for value in (HOOKS[hook].sample, HOOKS[hook].sample_result))
        files = javascript_files(language, {**values, "sample": sample, "result": result}, hook, is_widgets)
    manifest = {
        "id": plugin, "name": values["name"], "version": "0.1.0", "author": author,
        "permissions": ["ui:render"] if is_widgets else [],
        "manifest": {"entrypoint": "plugin.py" if language == "python" else "index.js", "hooks": [hook]},
        "apiVersion": ">=1.0,<2",
    }
    return {**files, "manifest.json": json.dumps(manifest, indent=2) + "\n",
            "README.md": scaffold_readme(plugin, hook, language)}


def write_new(parent: Path, plugin: str, files: dict[str, str]) -> Path:
    """Creates ``parent/plugin`` with ``files``. Raises Refusal; never writes into an existing folder."""
    if not is_plugin_id(plugin):
        raise Refusal("bad_id", f"{plugin[:60]!a} is not a plugin id", code=Code.INVALID_INPUT,
                      hint="3 to 50 of lower-case a-z, digits and hyphens, as in custom-analytics")
    folder = parent / plugin
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    except FileExistsError:
        raise Refusal("exists", f"{folder} already exists", code=Code.CONFLICT,
                      hint="choose another id, or another folder with --dir") from None
    except OSError as error:
        raise Refusal("unwritable", f"{folder}: {os.strerror(error.errno or 0)}", hint="choose another --dir") from None
    return folder


def _python_files(values: dict[str, str], hook: str, is_widgets: bool) -> dict[str, str]:
    """Code and test by path."""
    code, test = (_CODE, _TEST) if is_widgets else (_ANY_CODE, _ANY_TEST)
    values = {**values, "sample": repr(HOOKS[hook].sample), "result": repr(HOOKS[hook].sample_result),
              "function": re.sub(r"(?=[A-Z])", "_", hook).lower()}
    return {"plugin.py": code.format(**values), "tests/test_plugin.py": test.format(**values), "pytest.ini": _PYTEST}
