"""``plugin verify``: whether the installed files are unchanged, the plugin is permitted, and it answers."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.plugin.common import Hook, Payload, ask, json_map
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument, Exit, Option


@plugin_app.command(epilog=examples(
    "apex-exec plugin verify my-plugin", "apex-exec plugin verify my-plugin --hook none"))
def verify(
    plugin: Annotated[str, Argument(metavar="ID", help="The plugin.")],
    hook: Hook = None, payload: Payload = None,
    user: Annotated[str | None, Option("--user", metavar="UUID", help="The live call's user.")] = None,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Checks the files against their digest, the signature, the permissions, and makes one live call."""
    args = {"id": plugin, "hook": hook, "payload": json_map(payload), "user": user}
    result = ask(config, runtime_dir, "plugin.verify", args, slow=True)
    if as_json:
        print_json(result)
    else:
        print_table(result["checks"], ["check", "ok", "message", "hint"], as_json=False)
        say(f"{plugin} {result['version']}: {'verified' if result['ok'] else 'not verified'}")
    raise Exit(0 if result["ok"] else EXIT_NO)
