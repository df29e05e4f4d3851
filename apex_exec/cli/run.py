"""Runs the command line and turns every expected error into one line and an exit status.

So a verb just raises: ConfigError ends with status 2, ConnectionLost with 3, CallError and Refusal with 1.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from apex_exec import extras
from apex_exec.cli.output import ReaderGone, say, say_error
from apex_exec.cli.root import EXIT_DONE, EXIT_INTERRUPTED, EXIT_NO, EXIT_NO_DAEMON, EXIT_USAGE
from apex_exec.cli.tree import PROGRAM, command_tree
from apex_exec.cli.verbs import Abort, ClickException, Exit
from apex_exec.errors import ApexError, ConfigError, Refusal


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole command; always ends in SystemExit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; ``arguments`` default to the process's own."""
    here = sys.platform
    _write_anything()
    try:
        status = _parse(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status if isinstance(status, int) else EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (BrokenPipeError, ReaderGone):  # `apex-exec … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except ApexError as error:
        return _say(*_explained(error))
    except OSError as error:  # another user's folder, a full disk: the error says what it is about
        return _say(*_cannot(error))
    except (ImportError, AttributeError, NotImplementedError) as error:
        if isinstance(error, ImportError) and (extra := extras.bringing(error.name or "")):
            return _say(extras.words(extra, "this verb"), EXIT_USAGE)
        if here == "linux":
            raise
        return _say(f"this needs Linux, whose features confine plugins, and this is {here} ({error}): use a Linux "
                    "machine, a virtual one, or a container", EXIT_NO)
    except Abort:  # end of input at a question
        return _say("aborted", EXIT_NO)
    except ClickException as error:
        return _usage(error)


def _parse(arguments: Sequence[str]) -> Any:
    """Runs the verb. It does not use click's ``main``, which handles Ctrl-C and a closed pipe in its own way."""
    tree = command_tree(arguments)
    try:
        with tree.make_context(PROGRAM, list(arguments)) as context:
            return tree.invoke(context)
    except Exit as end:
        return end.exit_code


def _write_anything() -> None:
    """Writes characters that the output's encoding lacks as escapes, so that a plugin's name cannot end a verb."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _cannot(error: OSError) -> tuple[str, int]:
    """What the system refused, in words: the file, its owner, and what to do."""
    what = error.strerror or str(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    hint = ""
    if isinstance(error, PermissionError) and (owner := _owner(name)) not in (None, _uid()):
        hint = f"; it belongs to uid {owner}: run this as that user"
    elif isinstance(error, PermissionError):
        hint = "; run this as a user who has that permission"
    return (f"{name}: {what}{hint}" if name else f"{what}{hint}"), EXIT_NO


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _owner(name: str) -> int | None:
    """The uid that the nearest part of the path that can be looked at belongs to, unless that is root's own folder."""
    while name:
        try:
            return os.stat(name).st_uid
        except OSError:
            above = os.path.dirname(name)
            name = above if above != name else ""
    return None


def _say(message: str, status: int) -> int:
    say_error(message)
    return status


def _usage(error: ClickException) -> int:
    """A wrong option or argument: prints one line and where to read more. Without arguments it prints the help."""
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
