"""``plugin validate``: checks a bundle before a daemon has to. Runs none of its code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.root import examples, plugin_app


@plugin_app.command(epilog=examples("apex-exec plugin validate ./my-plugin"))
def validate(folder: Annotated[Path, typer.Argument(help="The bundle's folder.")]) -> None:
    """Checks a bundle's folder: manifest, files, entry point. Runs none of its code."""
    from apex_exec.registry.bundle import read_folder

    bundle = read_folder(folder)
    print(f"{bundle.manifest.id} {bundle.manifest.version}: {len(bundle.files)} files, digest {bundle.digest}")
