"""``serve``: the daemon, in the foreground or beside the shell."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.root import ConfigFile, RuntimeDir, app, examples, need_linux
from apex_exec.cli.verbs import BadParameter, Exit, Option


@app.command(epilog=examples(
    "apex-exec serve --plugins-dir ./plugins",
    "apex-exec serve --config /etc/apex-exec.toml",
    "apex-exec serve --background --plugins-dir ./plugins && apex-exec status && apex-exec stop",
    "apex-exec serve --set limits.cpu_percent=100 --set log.format=json"))
def serve(
    config: ConfigFile = None,
    plugins_dir: Annotated[str | None, Option(
        metavar="DIR", help="Folder of bundles, each in a subfolder, enabled for all users (development).")] = None,
    runtime_dir: RuntimeDir = None,
    state_dir: Annotated[str | None, Option(metavar="DIR", help="Folder of registry, ledger, bundles, keys.")] = None,
    http_address: Annotated[str | None, Option(
        metavar="HOST:PORT", help="/metrics /livez /readyz; port 0 takes a free one.")] = None,
    setting: Annotated[list[str] | None, Option(
        "--set", metavar="KEY=VALUE", help="Any configuration key, dotted; may be repeated.")] = None,
    background: Annotated[bool, Option(
        "--background", help="Return once it is ready; `apex-exec stop` ends it.")] = False,
) -> None:
    """Runs the daemon in the foreground, or with --background beside the shell.

    SIGTERM drains and exits 0; SIGHUP reloads.
    Settings come from the file, then APEX_EXEC_* environment variables (nested with __), then these flags.
    """
    need_linux()
    from apex_exec.config import load_settings

    flags = {"plugins_dir": plugins_dir, "runtime_dir": runtime_dir, "state_dir": state_dir,
             "http.address": http_address}
    overrides = {key: value for key, value in flags.items() if value is not None}
    for item in setting or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise BadParameter(f"{item!r} is not KEY=VALUE", param_hint="--set")
        overrides[key] = value
    if background:
        from apex_exec.cli.daemon.background import start

        settings = load_settings(config, overrides)
        given = ["--config", str(config)] if config is not None else []
        start([*given, *(word for key, value in overrides.items() for word in ("--set", f"{key}={value}"))], settings,
              config)
        return
    from apex_exec.daemon.main import serve as run

    raise Exit(run(load_settings(config, overrides), lambda: load_settings(config, overrides)))
