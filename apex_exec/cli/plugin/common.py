"""What the plugin verbs share: the call to the daemon, a bundle as folder or file, the folder of keys and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import say
from apex_exec.cli.verbs import BadParameter, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.config import Settings

LONG_TIMEOUT_MS = 240_000
"""For operations that scan a bundle and run its code in the jail."""

StateDir = Annotated[str | None, Option(
    "--state-dir", metavar="DIR", help="The daemon's state folder (keys, logs); default: the configuration's.")]
Hook = Annotated[str | None, Option(
    "--hook", metavar="HOOK", help="The hook to call; `none` only loads the plugin. Default: a hook that it declares.")]
Payload = Annotated[str | None, Option("--payload", metavar="JSON", help="The trial call's payload.")]
User = Annotated[str | None, Option("--user", metavar="UUID", help="The user; default: everybody.")]


def ask(config: Path | None, runtime_dir: str | None, op: str, args: dict[str, Any], *, slow: bool = False) -> Any:
    """One operation of the running daemon. Raises CallError, ConnectionLost, ConfigError."""
    given = {key: value for key, value in args.items() if value is not None}
    with connect.admin(config, runtime_dir) as client:
        given = client.with_bundle(given)
        return client.request(op, given, LONG_TIMEOUT_MS) if slow else client.request(op, given)


def settings_with_hooks(config: Path | None) -> Settings:
    """The configuration, with the hooks that it declares known to this process: for verbs that read a manifest
    themselves. Raises ConfigError."""
    from apex_exec.catalogue.declared import declare_all
    from apex_exec.config import load_settings
    from apex_exec.registry.bundles.bounds import Bounds

    settings = load_settings(config)
    declare_all(settings.declared_hooks())
    Bounds.use(settings)
    return settings


def bundle_bytes(path: Path, config: Path | None) -> bytes:
    """The ``.apx`` at ``path``, or the one that the folder there gives. Raises Refusal, ConfigError."""
    from apex_exec.registry.bundles.bundle import pack, read_path

    settings_with_hooks(config)
    return pack(*read_path(path))


def looks_like_path(text: str) -> bool:
    """True if ``text`` names a file or folder, not a plugin's id.

    A bare name is an id even if this folder holds a file of that name. So a downloaded file is never installed in place
    of the plugin that was asked for.
    """
    return "/" in text or text.endswith(".apx") or text in (".", "..")


@contextmanager
def folder_hint(target: str) -> Iterator[None]:
    """If no plugin ``target`` can be had but a file or folder has that name, the error says how to write its path.
    Raises Refusal."""
    from apex_exec.client import CallError
    from apex_exec.errors import Refusal

    try:
        yield
    except (CallError, Refusal) as error:
        if not Path(target).exists():
            raise
        raise Refusal("not_a_path", f"{error}", hint=f"a bare name is a plugin's id; for the "
                      f"{'folder' if Path(target).is_dir() else 'file'} of that name here write ./{target}") from None


def json_map(text: str | None) -> dict[str, Any] | None:
    """``--payload`` as a map. Ends the command with a usage error if it is not a map."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadParameter(f"not JSON: {error}", param_hint="--payload") from None
    if not isinstance(value, dict):
        raise BadParameter("not a JSON map", param_hint="--payload")
    return value


def state_path(config: Path | None, state_dir: str | None) -> Path:
    """The daemon's state folder, from the flag or the configuration. Raises ConfigError."""
    from apex_exec.config import load_settings

    return load_settings(config, {"state_dir": state_dir} if state_dir else None).state_path


def say_waiting(result: dict[str, Any]) -> None:
    """Prints which approvals are missing, and how to give them."""
    for row in result.get("waiting", ()):
        say(f"waits for approval of {row['permission']}: apex-exec plugin approve {row['plugin']} "
              f"{row['permission']} --key NAME --reason TEXT")


def say_findings(scan: dict[str, Any] | None) -> None:
    """Prints the warnings and errors of a scan, one on each line; of the notes only their number."""
    if scan is None:
        return
    shown = [item for item in scan["findings"] if item["severity"] != "note"]
    for item in shown:
        say(clean(f"{item['severity']}: {item['path']}:{item['line']}: {item['message']} [{item['rule']}]"))
    if notes := len(scan["findings"]) - len(shown):
        say(f"notes: {notes} (see `apex-exec plugin validate`)")


def replace_file(path: Path, data: bytes) -> None:
    """Writes ``path`` completely or not at all, with the umask's permissions. Raises Refusal("unwritable")."""
    from apex_exec.common import files
    from apex_exec.errors import Refusal

    try:
        files.replace_file(path, data, mode=0o666)
    except OSError as error:
        raise Refusal("unwritable", f"{path}: {error.strerror}", hint="name a file that can be written") from None
