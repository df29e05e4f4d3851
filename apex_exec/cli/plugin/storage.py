"""``plugin storage export|erase``: what plugins keep of one user by ``context.api.storage``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from apex_exec.cli import connect
from apex_exec.cli.facts import moment
from apex_exec.cli.output import json_line, say, show
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Group, Option

if TYPE_CHECKING:
    from apex_exec.client import AdminClient

USER = "11111111-2222-4333-8444-555555555555"
storage_app = Group("What plugins keep of one user: read it, or delete it.")
plugin_app.add("storage", storage_app)

User = Annotated[str, Option("--user", metavar="UUID", help="The user.")]
Plugin = Annotated[str, Option("--plugin", metavar="ID", help="Only what this plugin keeps; default: every plugin.")]


@storage_app.command(epilog=examples(f"apex-exec plugin storage export --user {USER} > kept.jsonl",
                                     f"apex-exec plugin storage export --user {USER} --plugin my-plugin"))
def export(user: User, plugin: Plugin = "", runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Prints what plugins keep of a user, one JSON line an entry: plugin, key, value, updatedAt.

    Bytes are shown as base64. What is common to all users of a plugin is nobody's, and is left out.
    """
    with connect.admin(config, runtime_dir) as client:
        for line in lines(client, user, plugin):
            say(line)


def lines(client: AdminClient, user: str, plugin: str = "") -> Iterator[str]:
    """The entries, each as a line of JSON. Raises CallError, ConnectionLost."""
    after = ["", ""]
    while after:
        part = client.request("plugin.storage.export", {"user": user, "plugin": plugin, "after": after})
        for entry in part["entries"]:
            yield json_line({"plugin": entry["plugin"], "key": entry["key"], "value": entry["value"],
                             "updatedAt": moment(entry["updatedNs"])})
        after = part["next"]


@storage_app.command(epilog=examples(f"apex-exec plugin storage erase --user {USER}",
                                     f"apex-exec plugin storage erase --user {USER} --plugin my-plugin --json"))
def erase(user: User, plugin: Plugin = "", as_json: AsJson = False, runtime_dir: RuntimeDir = None,
          config: ConfigFile = None) -> None:
    """Deletes what plugins keep of a user; `audit erase` ends everything else that is known of them, too."""
    done = ask(config, runtime_dir, "plugin.storage.erase", {"user": user, "plugin": plugin})
    named = f" of {', '.join(done['plugins'])}" if done["plugins"] else ""
    show(done, as_json, f"{done['erased']} entries{named} were deleted")

