"""``plugin list`` and ``plugin show``: all plugins in a table, and everything that is known about one of them."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument


@plugin_app.command("list", epilog=examples("apex-exec plugin list", "apex-exec plugin list --json"))
def list_plugins(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists every plugin with its version, its state and the users for whom it is enabled."""
    rows = ask(config, runtime_dir, "plugin.list", {})["plugins"]
    if not as_json:
        for row in rows:
            if isinstance(row["users"], list) and len(row["users"]) > 3:
                row["users"] = f"{len(row['users'])} users"
    print_table(rows, ["id", "version", "state", "users", "hooks", "reason"], as_json=as_json,
                empty="there is no plugin")


@plugin_app.command(epilog=examples("apex-exec plugin show my-plugin", "apex-exec plugin show my-plugin --json"))
def show(
    plugin: Annotated[str, Argument(metavar="ID", help="The plugin.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Shows manifest, versions, approvals, signatures and history of one plugin."""
    facts = ask(config, runtime_dir, "plugin.show", {"id": plugin})
    if as_json:
        print_json(facts)
        return
    plain = ("id", "version", "state", "reason", "name", "author", "digest", "entrypoint", "hooks", "permissions",
             "approved", "users", "priority", "limits", "network", "tables", "pricing")
    print_table([{"what": key, "is": facts[key]} for key in plain if facts.get(key) not in ("", [], None)],
                ["what", "is"], as_json=False)
    for title, key, columns in (
        ("versions", "versions", ["version", "state", "digest", "servedAt", "reason"]),
        ("approvals", "approvals", ["permission", "version", "state", "expiresAt", "uid", "reason"]),
        ("signatures", "signatures", ["role", "keyId", "registered", "signedAt"]),
        ("history", "history", ["at", "operation", "version", "uid", "note"]),
    ):
        if rows := facts[key]:
            say(f"\n{title}")
            print_table(rows, columns, as_json=False)
