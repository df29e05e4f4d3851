"""``config check`` and ``plugin validate``: says what is wrong before a daemon has to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.root import EXIT_NO, config_app, fail, plugin_app
from apex_exec.config import load_settings
from apex_exec.errors import ConfigError, Refusal


@config_app.command("check")
def check(file: Annotated[Path | None, typer.Argument(help="TOML file; none: defaults.")] = None) -> None:
    """Says what is wrong with a configuration, or prints the values in force as JSON."""
    try:
        print(load_settings(file).model_dump_json(indent=2))
    except ConfigError as error:
        fail(str(error), EXIT_NO)


@plugin_app.command()
def validate(folder: Path) -> None:
    """Checks a bundle's folder: manifest, files, entry point. Runs none of its code."""
    from apex_exec.registry.bundle import read_folder

    try:
        bundle = read_folder(folder)
    except Refusal as error:
        fail(error.message + (f" ({error.hint})" if error.hint else ""), EXIT_NO)
    print(f"{bundle.manifest.id} {bundle.manifest.version}: {len(bundle.files)} files, digest {bundle.digest}")
