"""``plugin enable|disable|quarantine|release``: whether a plugin answers calls, and for which users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli.output import print_json, say
from apex_exec.cli.plugin.common import User, ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument, Option

Plugin = Annotated[str, Argument(metavar="ID", help="The plugin.")]
USER = "11111111-2222-4333-8444-555555555555"


def _run(op: str, args: dict[str, Any], as_json: bool, config: Path | None, runtime_dir: str | None) -> None:
    result = ask(config, runtime_dir, op, args)
    if as_json:
        print_json(result)
        return
    scope = f" for {result['user']}" if result.get("user") else ""
    say(f"{result['id']}: {result['state']}{scope}" + ("" if result["changed"] else ", nothing to do"))


@plugin_app.command(epilog=examples(
    "apex-exec plugin enable my-plugin", f"apex-exec plugin enable my-plugin --user {USER}"))
def enable(plugin: Plugin, user: User = None, as_json: AsJson = False, runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Enables an installed plugin for everybody, or for one user."""
    _run("plugin.enable", {"id": plugin, "user": user}, as_json, config, runtime_dir)


@plugin_app.command(epilog=examples(
    "apex-exec plugin disable my-plugin", f"apex-exec plugin disable my-plugin --user {USER}"))
def disable(plugin: Plugin, user: User = None, as_json: AsJson = False, runtime_dir: RuntimeDir = None,
            config: ConfigFile = None) -> None:
    """Disables a plugin for everybody (single users' enablements end too), or for one user."""
    _run("plugin.disable", {"id": plugin, "user": user}, as_json, config, runtime_dir)


@plugin_app.command(epilog=examples("apex-exec plugin quarantine my-plugin --reason 'sends data to nowhere'"))
def quarantine(
    plugin: Plugin, reason: Annotated[str, Option("--reason", help="The reason; callers of the plugin see it.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Stops a plugin at once; only an upgrade or `plugin release` ends that."""
    _run("plugin.quarantine", {"id": plugin, "reason": reason}, as_json, config, runtime_dir)


@plugin_app.command(epilog=examples("apex-exec plugin release my-plugin"))
def release(plugin: Plugin, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Ends a quarantine; afterwards the plugin is disabled."""
    _run("plugin.release", {"id": plugin}, as_json, config, runtime_dir)
