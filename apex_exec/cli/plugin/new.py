"""``plugin new``: creates a plugin that an author can start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import print_json, say
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import AsJson, ConfigFile, examples, plugin_app, this_user
from apex_exec.cli.verbs import Argument, BadParameter, Option


@plugin_app.command(epilog=examples(
    "apex-exec plugin new my-plugin", "apex-exec plugin new my-plugin --author 'ACME Corp'",
    "apex-exec plugin new my-plugin --ts",
    "apex-exec plugin new my-plugin --hook onInvoiceCreated --config daemon.toml"))
def new(
    plugin: Annotated[str, Argument(metavar="ID", help="The new id: 3 to 50 of a-z, 0-9 and the hyphen.")],
    folder: Annotated[Path, Option("--dir", metavar="DIR", help="Where the plugin's folder is made.")] = Path(),
    author: Annotated[str, Option("--author", help="The author, as in the manifest; default: this user.")] = "",
    hook: Annotated[str, Option("--hook", metavar="HOOK", help="The hook that it implements.")] = "onDashboardLoad",
    javascript: Annotated[bool, Option("--js", help="Write the plugin in JavaScript.")] = False,
    typescript: Annotated[bool, Option("--ts", help="Write it in TypeScript, built by esbuild.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Makes DIR/ID with manifest, code, test and README; it passes `validate` and `test` unchanged.

    The plugin is written in Python unless --js or --ts is given. The types for both are copied into its folder.
    """
    from apex_exec.registry.bundles.scaffold import write_scaffold

    if javascript and typescript:
        raise BadParameter("--js or --ts, not both", param_hint="--ts")
    settings_with_hooks(config)
    made = write_scaffold(folder, plugin, author or this_user(), hook,
                          "javascript" if javascript else "typescript" if typescript else "python")
    if as_json:
        print_json({"id": plugin, "folder": str(made)})
        return
    shown = shlex.quote(str(made))
    say(f"{made}: try `apex-exec plugin validate {shown}` and `apex-exec plugin dev {shown}`")
