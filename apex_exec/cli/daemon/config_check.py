"""``config check``: says what is wrong with a configuration, without starting a daemon."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli.output import print_table, say
from apex_exec.cli.root import EXIT_NO, EXIT_USAGE, AsJson, config_app, examples, fail
from apex_exec.cli.verbs import Argument

if TYPE_CHECKING:
    from apex_exec.config import Settings

PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*(@)")


@config_app.command("check", epilog=examples(
    "apex-exec config check /etc/apex-exec.toml",
    "apex-exec config check --json | jq 'map(select(.source != \"default\"))'"))
def check(
    file: Annotated[Path | None, Argument(help="TOML file. Without it: environment and defaults only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Says what is wrong with a configuration, or shows every value in force and where it comes from."""
    from apex_exec.config import load_settings
    from apex_exec.console.place import place_of
    from apex_exec.daemon.settings_checks import check_settings
    from apex_exec.errors import ConfigError
    from apex_exec.extras import ExtraMissing

    try:
        settings = load_settings(file)
        check_settings(settings)
        unseen = try_owners(settings)
        place_of(settings)
    except ExtraMissing as error:
        fail(str(error), EXIT_USAGE)
    except ConfigError as error:
        fail(str(error), EXIT_NO)
    if unseen:
        say(f"note: data.tables: the owners could not be tried on the database: {unseen}", file=sys.stderr)
    print_table(rows(settings, file), ["key", "value", "source"], as_json=as_json)


def try_owners(settings: Settings) -> str:
    """Tries on the database itself what ``data.tables`` says of owners, where it says more than a column's name, and
    whether a URL of PostgreSQL's can be read.

    Why that could not be tried; "" if it was, or if nothing needs it. Raises ConfigError. Blocks for seconds."""
    from apex_exec.config import POSTGRES
    from apex_exec.daemon.settings_checks import tables_of
    from apex_exec.gateway.database_checks import check_database, server_of
    from apex_exec.gateway.sql.owners import ByColumn

    tables = tables_of(settings)
    url = settings.database_url(settings.data.url)
    if tables and POSTGRES.match(url):
        server_of(url)
    if all(isinstance(table.owner, ByColumn) for table in tables.values()):
        return ""
    return check_database(url, tables)


def rows(settings: Settings, file: Path | None) -> list[dict[str, Any]]:
    """Every key with its value in force, passwords masked, and what set it."""
    from apex_exec.config import ENV_PREFIX, known_keys

    written = tomllib.loads(file.read_text("utf-8")) if file is not None else {}
    found = []
    for key in known_keys():
        value: Any = settings.model_dump()
        in_file: Any = written
        for part in key.split("."):
            value = value[part]
            in_file = in_file.get(part) if isinstance(in_file, dict) else None
        name = ENV_PREFIX + key.upper().replace(".", "__")
        source = f"environment {name}" if name in os.environ else str(file) if in_file is not None else "default"
        if isinstance(value, str):
            value = PASSWORD.sub(r"\1***\2", value).replace("<state_dir>", str(settings.state_path))
            value = value or effective(settings, key)
        found.append({"key": key, "value": value, "source": source})
    return found


def effective(settings: Settings, key: str) -> str:
    """The value that the daemon uses if this one is empty."""
    from apex_exec.console.place import folder_of

    stands_for = {"runtime_dir": settings.runtime_path, "state_dir": settings.state_path,
                  "host.endpoint": settings.host_endpoint, "admin.endpoint": settings.admin_endpoint,
                  "console.runtime_dir": folder_of(settings)}
    return str(stands_for.get(key, ""))
