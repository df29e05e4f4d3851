"""``plugin logs``: what a plugin wrote, from the daemon's files."""

from __future__ import annotations

import sys
import time
from typing import Annotated

from apex_exec.cli.output import say
from apex_exec.cli.plugin.common import StateDir, state_path
from apex_exec.cli.root import EXIT_NO, ConfigFile, examples, fail, plugin_app
from apex_exec.cli.verbs import Argument, BadParameter, Option
from apex_exec.common.words import clean

POLL_SECONDS = 0.2


@plugin_app.command(epilog=examples(
    "apex-exec plugin logs my-plugin --lines 50", "apex-exec plugin logs my-plugin --follow"))
def logs(
    plugin: Annotated[str, Argument(metavar="ID", help="The plugin.")],
    follow: Annotated[bool, Option("--follow", "-f", help="Keep printing lines as they are written.")] = False,
    lines: Annotated[int, Option("--lines", "-n", min=0, help="How many of the latest lines to print first.")] = 100,
    state_dir: StateDir = None,
    config: ConfigFile = None,
) -> None:
    """Prints a plugin's log, as the daemon keeps it: stdout, stderr, context.log, its failures, its workers' ends."""
    from apex_exec.registry.bundles.manifest import is_plugin_id

    if not is_plugin_id(plugin):
        raise BadParameter(f"{plugin!r} is not a plugin's id", param_hint="ID")
    folder = state_path(config, state_dir) / "logs"
    path = folder / f"{plugin}.log"
    try:
        if follow and not path.exists():
            say(f"{plugin} has written nothing so far; waiting for {path}", file=sys.stderr)
            while not path.exists():
                time.sleep(POLL_SECONDS)
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        fail(f"{plugin} has written nothing: there is no {path}", EXIT_NO)
    except PermissionError:
        fail(f"{path} cannot be read by this user; run this as the daemon's user", EXIT_NO)
    with file:
        body = file.read()
        end = body.rfind("\n") + 1 if follow else len(body)
        begun = body[end:]  # a line that is still being written is shown once it is complete
        text = body[:end].splitlines()
        older = path.with_suffix(".log.1")
        if len(text) < lines and older.exists():
            text = older.read_text("utf-8", "replace").splitlines()[-(lines - len(text)):] + text
        for line in text[-lines:] if lines else ():
            say(clean(line), flush=follow)
        while follow:
            begun += file.readline()
            if begun.endswith("\n"):
                say(clean(begun.removesuffix("\n")), flush=True)
                begun = ""
                continue
            time.sleep(POLL_SECONDS)
            if path.exists() and path.stat().st_ino != _inode(file.fileno()):  # begun anew: rotated
                begun += file.read()
                if begun:
                    say("\n".join(map(clean, begun.splitlines())), flush=True)
                    begun = ""
                file.close()
                file = path.open(encoding="utf-8", errors="replace")


def _inode(fd: int) -> int:
    import os

    return os.fstat(fd).st_ino
