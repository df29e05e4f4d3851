"""``plugin list``: what the running daemon serves."""

from __future__ import annotations

from apex_exec.cli import connect
from apex_exec.cli.output import print_table
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app


@plugin_app.command("list", epilog=examples("apex-exec plugin list", "apex-exec plugin list --json"))
def list_plugins(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists the enabled plugins of the running daemon."""
    with connect.host(config, runtime_dir) as client:
        rows = client.plugins()
    print_table(rows, ["id", "version", "state", "hooks"], as_json=as_json, empty="no plugin is enabled")
