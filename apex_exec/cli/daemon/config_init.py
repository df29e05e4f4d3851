"""``config init``: a configuration file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import say
from apex_exec.cli.root import EXIT_NO, config_app, examples, fail
from apex_exec.cli.verbs import Argument, Option

MODE = 0o600
"""The URL of a database may hold a password."""


@config_app.command("init", epilog=examples(
    "apex-exec config init /etc/apex-exec.toml && apex-exec config check /etc/apex-exec.toml",
    "apex-exec config init | less"))
def init(
    file: Annotated[Path | None, Argument(help="The file to write. Without it the text is printed.")] = None,
    force: Annotated[bool, Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Writes a configuration file with every key, its default and its meaning, all of them commented out."""
    from apex_exec import __version__
    from apex_exec.catalogue.keys import commented_file
    from apex_exec.common.files import replace_file
    from apex_exec.config import Settings

    text = commented_file(Settings().model_dump(), __version__)
    if file is None:
        say(text, end="")
        return
    if not force and file.exists():
        fail(f"{file} is there already; --force replaces it", EXIT_NO)
    try:
        replace_file(file, text.encode(), mode=MODE)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", EXIT_NO)
    say(f"wrote {file}; apex-exec serve --config {file} reads it")
