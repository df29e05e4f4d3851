"""``plugin call``: one call of a hook with the catalogue's sample payload, of a folder or of an installed plugin."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, progress, say
from apex_exec.cli.own_daemon import ended_in_order, running, taken_over
from apex_exec.cli.plugin.common import json_map, looks_like_path, settings_with_hooks
from apex_exec.cli.root import EXIT_NO, ConfigFile, RuntimeDir, examples, fail, need_linux, plugin_app
from apex_exec.cli.verbs import Argument, Exit, Option

if TYPE_CHECKING:
    from apex_exec.client import Client

USER = "11111111-2222-4333-8444-555555555555"
DEADLINE_MS = 30_000


@plugin_app.command(epilog=examples(
    "apex-exec plugin call ./my-plugin", "apex-exec plugin call ./my-plugin onDataFetch --payload '{\"query\": \"x\"}'",
    "apex-exec plugin call my-plugin onDashboardLoad"))
def call(
    target: Annotated[str, Argument(metavar="DIR|ID", help="A bundle's folder, or the id of a served plugin.")],
    hook: Annotated[str, Argument(metavar="HOOK", help="The hook; default: the first one that it declares.")] = "",
    payload: Annotated[str | None, Option(
        "--payload", metavar="JSON", help="Keys that replace those of the hook's sample payload.")] = None,
    user: Annotated[str, Option("--user", metavar="UUID", help="On whose behalf the hook runs.")] = USER,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Calls a hook once, with a sample payload, and prints the reply: result, effects, usage.

    A folder is served for this call by a daemon of its own, with the real limits and jail; its tables, limits, hosts
    and policy are those of --config. Its sockets, ledger and storage are its own and end with it. What the plugin
    prints goes to stderr. The status is 1 if the call fails.
    """
    given = json_map(payload) or {}
    if not looks_like_path(target):
        settings_with_hooks(config)
        with connect.host(config, runtime_dir) as client:
            declared = [one for one in client.plugins() if one["id"] == target]
            hooks = list(declared[0]["hooks"]) if declared else []
            _say_reply(client, target, _chosen(hook, hooks, target), given, user)
        return
    need_linux()
    _call_folder(Path(target), hook, given, user, config)


def _call_folder(folder: Path, hook: str, given: dict[str, Any], user: str, config: Path | None) -> None:
    from apex_exec.registry.bundles.bundle import read_folder
    from apex_exec.testing import Daemon

    settings_with_hooks(config)
    manifest = read_folder(folder).manifest
    chosen = _chosen(hook, list(manifest.manifest.hooks), manifest.id)
    with ended_in_order(), ExitStack() as stack:
        with progress(f"a daemon for {manifest.id}"):
            daemon = Daemon(config={**taken_over(config), "log.plugin_lines_per_second": 1000})
            daemon.put_plugin(folder)
            stack.enter_context(running(daemon))
        try:
            _say_reply(daemon.client, manifest.id, chosen, given, user)
        finally:
            for line in daemon.log.splitlines():
                if f"plugin {manifest.id}: " in line:
                    say(line, file=sys.stderr)


def _chosen(hook: str, declared: list[str], plugin: str) -> str:
    """The hook to call. Ends the command if the plugin does not declare it."""
    if not declared:
        fail(f"no plugin {plugin} is served; `apex-exec plugin list` shows the plugins that are served", EXIT_NO)
    if hook and hook not in declared:
        fail(f"{plugin} does not declare {hook}; it declares {', '.join(declared)}", EXIT_NO)
    return hook or declared[0]


def _say_reply(client: Client, plugin: str, hook: str, given: dict[str, Any], user: str) -> None:
    from apex_exec.catalogue.hooks import HOOKS
    from apex_exec.client import CallError

    sample = HOOKS[hook].sample if hook in HOOKS else {}
    try:
        print_json(client.invoke(plugin, hook, user, {**sample, **given}, DEADLINE_MS), raw=True)
    except CallError as error:
        print_json(error.reply, raw=True)
        raise Exit(EXIT_NO) from None
