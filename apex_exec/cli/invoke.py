"""``invoke`` and ``dispatch``: one request to a running daemon, its reply on stdout as JSON."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.catalogue.hooks import BUILT_IN
from apex_exec.cli import connect
from apex_exec.cli.output import print_json, say
from apex_exec.cli.root import EXIT_NO, EXIT_USAGE, ConfigFile, RuntimeDir, app, examples, fail
from apex_exec.cli.verbs import Argument, Exit, Option

if TYPE_CHECKING:
    from apex_exec.client import Client

User = Annotated[str, Option("--user", metavar="UUID", help="On whose behalf the hook runs.")]
Payload = Annotated[str, Option(
    "--payload", metavar="JSON", help="A JSON map for the hook; @FILE reads it from a file, - from stdin.")]
DeadlineMs = Annotated[int, Option("--deadline-ms", min=1, help="Limit for waiting, cold start and run together.")]
HOOKS_HELP = f"""The payloads: {", ".join(
    f"{hook.name} {{{', '.join(key for key in hook.fields(hook.params) if not key.endswith('?'))}}}"
    for hook in BUILT_IN)}."""


@app.command(epilog=examples(
    "apex-exec invoke hello-world onDashboardLoad --user 11111111-2222-4333-8444-555555555555 "
    "--payload '{\"dashboardId\": \"main\"}'",
    "apex-exec invoke custom-analytics onDataFetch --user $UUID --payload @query.json --deadline-ms 2000"))
def invoke(
    plugin: Annotated[str, Argument(help="The plugin's id; `apex-exec plugin list` shows them.")],
    action: Annotated[str, Argument(help="The hook to run, as onDashboardLoad.")],
    user: User,
    payload: Payload = "{}",
    deadline_ms: DeadlineMs = 5000,
    runtime_dir: RuntimeDir = None,
    config: ConfigFile = None,
) -> None:
    """Runs one hook of one plugin.

    Prints the reply as JSON; the exit status is 1 if the reply is an error.
    """
    body = read_payload(payload)
    _call(lambda client: client.invoke(plugin, action, user, body, deadline_ms), config, runtime_dir, plugin)


invoke.__doc__ = f"{invoke.__doc__}\n\n{HOOKS_HELP}"


@app.command(epilog=examples(
    "apex-exec dispatch onAuthSuccess --user 11111111-2222-4333-8444-555555555555 --payload '{\"sessionId\": \"s1\"}'"))
def dispatch(
    action: Annotated[str, Argument(help="The hook to run in every plugin that declares it.")],
    user: User,
    payload: Payload = "{}",
    deadline_ms: DeadlineMs = 5000,
    runtime_dir: RuntimeDir = None,
    config: ConfigFile = None,
) -> None:
    """Sends one event to every plugin of a hook.

    Prints all outcomes as JSON. A plugin that fails does not fail the dispatch: look at "partial" and "outcomes".
    """
    body = read_payload(payload)
    _call(lambda client: client.dispatch(action, user, body, deadline_ms), config, runtime_dir)


def read_payload(text: str) -> dict[str, Any]:
    """The map in ``text``, in the file behind ``@``, or on stdin for ``-``; else the command ends with status 2."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        elif text == "-":
            text = sys.stdin.read()
        body = json.loads(text)
    except (OSError, ValueError) as error:
        fail(f"--payload: {error}; write a JSON map such as '{{\"dashboardId\": \"main\"}}', or @FILE", EXIT_USAGE)
    if not isinstance(body, dict):
        fail("--payload must be a JSON map such as '{\"dashboardId\": \"main\"}'", EXIT_USAGE)
    return body


def _say_nearest(client: Client, plugin: str) -> None:
    served = [str(one["id"]) for one in client.plugins()]
    near = difflib.get_close_matches(plugin[:100], served, 1)
    say(f"did you mean {near[0]}?" if near else "`apex-exec plugin list` shows the plugins", file=sys.stderr)


def _call(ask: Callable[[Client], dict[str, Any]], config: Path | None, runtime_dir: str | None,
          plugin: str = "") -> None:
    from apex_exec.client import CallError

    with connect.host(config, runtime_dir) as client:
        try:
            print_json(ask(client), raw=True)
        except CallError as error:
            print_json(error.reply, raw=True)
            if error.code == "PLUGIN_NOT_FOUND" and plugin:
                _say_nearest(client, plugin)
            raise Exit(EXIT_NO) from None
