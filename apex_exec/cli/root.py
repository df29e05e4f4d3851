"""The typer application and what every verb shares."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Runs third-party plugins in processes of their own. Start with `apex-exec demo`.")
plugin_app = typer.Typer(no_args_is_help=True, help="Look at plugins and check bundles.")
config_app = typer.Typer(no_args_is_help=True, help="Check a configuration.")
app.add_typer(plugin_app, name="plugin")
app.add_typer(config_app, name="config")

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3


def fail(message: str, status: int) -> NoReturn:
    """One line on stderr, and the exit status."""
    print(f"apex-exec: {message}", file=sys.stderr)
    raise typer.Exit(status)
