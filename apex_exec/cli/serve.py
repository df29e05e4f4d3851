"""``serve``: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.root import EXIT_USAGE, app, fail
from apex_exec.errors import ConfigError


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; see `config check`.")] = None,
    plugins_dir: Annotated[str | None, typer.Option(help="Folder of bundles, enabled for all.")] = None,
    runtime_dir: Annotated[str | None, typer.Option(help="Folder of the sockets.")] = None,
    http_address: Annotated[str | None, typer.Option(help="host:port for Prometheus; port 0 takes a free one.")] = None,
) -> None:
    """Runs the daemon in the foreground; SIGTERM drains and exits 0."""
    from apex_exec.config import load_settings
    from apex_exec.daemon.main import serve as run

    flags = {"plugins_dir": plugins_dir, "runtime_dir": runtime_dir, "http.address": http_address}
    try:
        status = run(load_settings(config, {key: value for key, value in flags.items() if value is not None}))
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    raise typer.Exit(status)
