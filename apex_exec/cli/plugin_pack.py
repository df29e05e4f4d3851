"""``plugin pack`` and ``plugin sign``: a folder becomes an ``.apx``, and an ``.apx`` gets a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.output import say
from apex_exec.cli.plugin_common import StateDir, replace_file, state_path
from apex_exec.cli.root import ConfigFile, examples, plugin_app


@plugin_app.command(epilog=examples(
    "apex-exec plugin pack ./my-plugin", "apex-exec plugin pack ./my-plugin -o out.apx"))
def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE",
                                                help="Default: ID-VERSION.apx here.")] = None,
) -> None:
    """Packs a folder into an .apx: the same bytes for the same files, on any machine."""
    from apex_exec.registry.bundle import pack as packed
    from apex_exec.registry.bundle import read_folder

    bundle = read_folder(folder)
    path = output or Path(f"{bundle.manifest.id}-{bundle.manifest.version}.apx")
    replace_file(path, packed(bundle))
    say(f"{path}: {len(bundle.files)} files, digest {bundle.digest}")


@plugin_app.command(epilog=examples("apex-exec plugin sign my-plugin-1.0.0.apx --key acme"))
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .apx; it is signed in place.")],
    key: Annotated[str, typer.Option("--key", metavar="NAME|FILE", help="A key of `keys new`, or its file.")],
    role: Annotated[str, typer.Option("--role", help="author or market.")] = "author",
    state_dir: StateDir = None,
    config: ConfigFile = None,
) -> None:
    """Signs an .apx in place. Its digest stays the same; signing twice is as signing once."""
    import time

    from apex_exec.registry.bundle import pack as packed
    from apex_exec.registry.bundle import read_apx
    from apex_exec.registry.signing import find_key, load_private, read_signatures, sign_digest, write_signatures

    if role not in ("author", "market"):
        raise typer.BadParameter("author or market", param_hint="--role")
    private = load_private(find_key(state_path(config, state_dir) / "keys", key, ".key"))
    bundle, had = read_apx(file)
    made = sign_digest(private, role, bundle.digest, time.time_ns())
    kept = [s for s in read_signatures(had) if (s.role, s.key_id) != (made.role, made.key_id)]
    replace_file(file, packed(bundle, write_signatures([*kept, made])))
    say(f"{file}: signed as {role} by {made.key_id}, digest {bundle.digest}")
