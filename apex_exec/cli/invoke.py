"""``invoke`` and ``plugin list``: one request to a running daemon."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from apex_exec.cli.root import EXIT_NO, EXIT_NO_DAEMON, EXIT_USAGE, app, fail, plugin_app
from apex_exec.client import CallError, Client, ConnectionLost
from apex_exec.config import load_settings, runtime_candidates
from apex_exec.errors import ConfigError

Runtime = Annotated[str | None, typer.Option(help="The daemon's runtime folder.")]


def connect(runtime_dir: str | None) -> Client:
    """A client of the daemon that is there; ends the command with status 3 where none is."""
    try:
        settings = load_settings(None, {"runtime_dir": runtime_dir} if runtime_dir else None)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    tried = [settings.runtime_path] if settings.runtime_dir else runtime_candidates()
    for folder in tried:
        if (folder / "host.sock").exists():
            return Client(f"ipc://{folder}/host.sock")
    fail(f"no daemon: tried {', '.join(map(str, tried))}; start one with `apex-exec serve`", EXIT_NO_DAEMON)


@app.command()
def invoke(
    plugin: str,
    action: str,
    user: Annotated[str, typer.Option(help="UUID of the user on whose behalf the hook runs.")],
    payload: Annotated[str, typer.Option(help="JSON map for the hook.")] = "{}",
    deadline_ms: Annotated[int, typer.Option(min=1, help="Queue, cold start and run together.")] = 5000,
    runtime_dir: Runtime = None,
) -> None:
    """Runs one hook of one plugin and prints the reply as JSON."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        fail(f"--payload is not JSON: {error}", EXIT_USAGE)
    if not isinstance(body, dict):
        fail("--payload must be a JSON map such as '{\"dashboardId\": \"main\"}'", EXIT_USAGE)
    with connect(runtime_dir) as client:
        try:
            reply: dict[str, Any] = client.invoke(plugin, action, user, body, deadline_ms)
        except CallError as error:
            print(json.dumps(error.reply, default=str))
            raise typer.Exit(EXIT_NO) from None
        except ConnectionLost as error:
            fail(str(error), EXIT_NO_DAEMON)
    print(json.dumps(reply, default=str))


@plugin_app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    runtime_dir: Runtime = None,
) -> None:
    """Lists the enabled plugins of the running daemon."""
    with connect(runtime_dir) as client:
        try:
            plugins = client.plugins()
        except ConnectionLost as error:
            fail(str(error), EXIT_NO_DAEMON)
    if as_json:
        print(json.dumps(plugins))
        return
    for plugin in plugins:
        print(f"{plugin['id']:<24} {plugin['version']:<10} {plugin['state']:<10} {', '.join(plugin['hooks'])}")
