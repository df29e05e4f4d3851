"""``plugin install|upgrade|rollback|remove``: which version of a plugin is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, progress, say
from apex_exec.cli.plugin.common import (
    LONG_TIMEOUT_MS,
    Hook,
    Payload,
    ask,
    bundle_bytes,
    folder_hint,
    json_map,
    looks_like_path,
    say_findings,
    say_waiting,
)
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument, Option

Plugin = Annotated[str, Argument(metavar="ID", help="The plugin.")]
Target = Annotated[str, Argument(metavar="FILE|DIR|ID", help="A bundle, or a plugin's id in the marketplace.")]
TrialUser = Annotated[str | None, Option("--user", metavar="UUID", help="The trial call's user.")]


@plugin_app.command(epilog=examples(
    "apex-exec plugin install my-plugin-1.0.0.apx", "apex-exec plugin install ./my-plugin",
    "apex-exec plugin install my-plugin"))
def install(target: Target, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Checks and installs a bundle; it is not enabled yet.

    A bare name is a plugin's id: the registered plugin is installed, or else it is fetched from the marketplace index
    (market.index). A folder is written as ./my-plugin.
    """
    with progress(f"install {target}") as tell:
        args = _given(target, config, runtime_dir, tell)
        tell("checking and installing")
        result = ask(config, runtime_dir, "plugin.install", args, slow=True)
    _show(result, as_json)
    if not as_json and result["state"] == "installed":
        say(f"enable it with: apex-exec plugin enable {result['id']}")


def _given(target: str, config: Path | None, runtime_dir: str | None, tell: Any) -> dict[str, Any]:
    if looks_like_path(target):
        return {"bundle": bundle_bytes(Path(target), config)}
    from apex_exec.cli.market.fetch import fetch_plugin
    from apex_exec.client import CallError

    index = connect.settings_for(config, runtime_dir).market.index
    with folder_hint(target), connect.admin(config, runtime_dir) as client:
        try:
            client.request("plugin.show", {"id": target}, LONG_TIMEOUT_MS)
            return {"id": target}
        except CallError as error:
            if error.details.get("reason") != "plugin_not_found" or not index:
                raise
        tell(f"fetching from {index}")
        _, data = fetch_plugin(client, index, target)
    return {"bundle": data}


@plugin_app.command(epilog=examples(
    "apex-exec plugin upgrade my-plugin-1.1.0.apx",
    "apex-exec plugin upgrade my-plugin-1.1.0.apx --hook onDataFetch --payload '{\"query\": \"q\", \"filters\": {}}'"))
def upgrade(
    target: Target, hook: Hook = None, payload: Payload = None, user: TrialUser = None, as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Checks a newer version, tries it beside the one that is served, and switches without losing a call."""
    call = {"hook": hook, "payload": json_map(payload), "user": user}
    with progress(f"upgrade {target}") as tell:
        if looks_like_path(target):
            data = bundle_bytes(Path(target), config)
        else:
            from apex_exec.cli.market.fetch import fetch_plugin

            index = connect.settings_for(config, runtime_dir).market.index
            with folder_hint(target), connect.admin(config, runtime_dir) as client:
                _, data = fetch_plugin(client, index, target)
        tell("checking, trying, switching")
        result = ask(config, runtime_dir, "plugin.upgrade", {"bundle": data, **call}, slow=True)
    _show(result, as_json)


@plugin_app.command(epilog=examples(
    "apex-exec plugin rollback my-plugin", "apex-exec plugin rollback my-plugin --to 1.0.0"))
def rollback(
    plugin: Plugin,
    to: Annotated[str | None, Option("--to", metavar="VERSION", help="Default: the previous version.")] = None,
    hook: Hook = None, payload: Payload = None, user: TrialUser = None, as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Goes back to a version that was served before; needs no network."""
    args = {"id": plugin, "version": to, "hook": hook, "payload": json_map(payload), "user": user}
    _show(ask(config, runtime_dir, "plugin.rollback", args, slow=True), as_json)


@plugin_app.command(epilog=examples("apex-exec plugin remove my-plugin"))
def remove(plugin: Plugin, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Removes a plugin with all its versions."""
    result = ask(config, runtime_dir, "plugin.remove", {"id": plugin})
    if as_json:
        print_json(result)
    else:
        say(f"{plugin}: removed" if result["changed"] else f"{plugin}: was removed before")


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    say_findings(result.get("scan"))
    for word in ("added", "removed"):
        if items := (result.get("difference") or {}).get(word):
            say(f"{word}: {', '.join(items)}")
    before = f" (before: {result['previous']})" if result.get("previous") else ""
    waits = f", {result['next']} waits" if result.get("next") else ""
    say(f"{result['id']} {result['version']}: {result['state']}{before}{waits}"
          + ("" if result["changed"] else ", nothing to do"))
    say_waiting(result)
