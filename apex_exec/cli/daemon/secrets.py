"""``secrets rotate``: a new key for the secrets of plugins."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.output import show
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, secrets_app
from apex_exec.cli.verbs import Option


@secrets_app.command(epilog=examples("apex-exec secrets rotate", "apex-exec secrets rotate --keep-key"))
def rotate(
    keep_key: Annotated[bool, Option(
        "--keep-key", help="Make no new key: encrypt with the first one of the file or the command.")] = False,
    forget_unreadable: Annotated[bool, Option(
        "--forget-unreadable", help="Delete secrets whose key is lost.")] = False,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Puts a new key first in the key file and encrypts every secret of every plugin with it.

    Old keys stay in the file, for backups. Daemons that share a registry need the new key first: add it to each one's
    file as the last line, reload them, make it the first line, and run this with --keep-key on one of them.
    """
    done = ask(config, runtime_dir, "secrets.rotate", {"keep_key": keep_key, "forget_unreadable": forget_unreadable})
    gone = f"; {done['forgotten']} that could not be read were deleted" if done["forgotten"] else ""
    show(done, as_json, f"{done['encrypted']} secrets are encrypted with the key {done['key']} now{gone}")
