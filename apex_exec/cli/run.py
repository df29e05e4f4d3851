"""Runs the command line and turns every expected error into one line and an exit status.

So a verb just raises: ConfigError is wrong usage, ConnectionLost is no daemon, CallError and Refusal are a no.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from apex_exec.cli.output import say
from apex_exec.cli.root import EXIT_DONE, EXIT_INTERRUPTED, EXIT_NO, EXIT_NO_DAEMON, EXIT_USAGE, app
from apex_exec.errors import ApexError, ConfigError, Refusal


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole command; always ends in SystemExit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; ``arguments`` default to the process's own."""
    try:
        status = typer.main.get_command(app)(args=arguments, prog_name="apex-exec", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `apex-exec … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except ApexError as error:
        return _say(*_explained(error))
    except typer.Abort:  # end of input at a question
        return _say("aborted", EXIT_NO)
    except typer.TyperException as error:
        return _usage(error)


def _say(message: str, status: int) -> int:
    say(f"apex-exec: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage(error: typer.TyperException) -> int:
    """A wrong option or argument: one line, and where to read on. Without arguments: the help itself."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        say(context.get_help())
        return EXIT_USAGE
    path = context.command_path if context is not None else "apex-exec"
    return _say(f"{error.format_message().rstrip('.')}; see `{path} --help`", EXIT_USAGE)


def _explained(error: ApexError) -> tuple[str, int]:
    from apex_exec.client import CallError, ConnectionLost

    if isinstance(error, ConnectionLost):
        return str(error), EXIT_NO_DAEMON
    if isinstance(error, ConfigError):
        return str(error), EXIT_USAGE
    hint = error.hint if isinstance(error, Refusal) else ""
    if isinstance(error, CallError):
        hint = str(error.details.get("hint", ""))
    return f"{error}" + (f" ({hint})" if hint else ""), EXIT_NO
