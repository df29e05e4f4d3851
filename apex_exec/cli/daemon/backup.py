"""``backup`` and ``restore``: a verified copy of the whole state, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import show
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, app, examples
from apex_exec.cli.verbs import Argument, Option

BACKUP_TIMEOUT_MS = 3_600_000
"""A large ledger takes minutes to copy and to verify."""


@app.command(epilog=examples("apex-exec backup /backups/monday.tgz", "apex-exec backup /backups/monday --json"))
def backup(
    target: Annotated[Path, Argument(metavar="DIR|FILE", help="A new folder, or a file: .tar, .tgz, .tar.gz.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Writes a verified copy of the whole state while the daemon runs: databases, ledger, bundles, keys, logs.

    The daemon writes it with its own rights, so the path is on its machine. It contains private keys: protect it.
    """
    with connect.admin(config, runtime_dir) as client:
        done = client.request("state.backup", {"path": str(target.absolute())}, BACKUP_TIMEOUT_MS)
    show(done, as_json, f"{done['path']}: {done['files']} files, {done['bytes']} bytes, ledger to event "
                        f"{done['ledgerSeq']}, verified{_outside(done)}")


@app.command(epilog=examples(
    "apex-exec restore /backups/monday.tgz --config /etc/apex-exec.toml",
    "apex-exec restore /backups/monday --accept-older --reason 'the disk of Tuesday is lost'"))
def restore(
    source: Annotated[Path, Argument(metavar="DIR|FILE", help="The copy that `backup` wrote.")],
    accept_older: Annotated[bool, Option("--accept-older", help="Accept the loss of newer events.")] = False,
    reason: Annotated[str, Option(help="Why an older copy is accepted; it is recorded.")] = "",
    state_dir: Annotated[str | None, Option("--state-dir", metavar="DIR", help="Empty folder to restore into.")] = None,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Puts a backup into an empty state folder; no daemon may run there. Run it as the daemon's user.

    Every file's checksum and the ledger's chain are verified before anything is put in place. If `audit.anchor` says
    that the ledger had more events than the backup has, --accept-older and --reason are required.
    """
    from apex_exec.config import load_settings
    from apex_exec.daemon.administration.backup import restore as put_back

    flags = {"state_dir": state_dir, "runtime_dir": runtime_dir}
    settings = load_settings(config, {key: value for key, value in flags.items() if value})
    done = put_back(settings, source, accept_older=accept_older, reason=reason)
    show(done, as_json, f"{done['path']}: {done['files']} files as of {done['madeAt']}, ledger to event "
                        f"{done['ledgerSeq']}, verified"
         + (f"; {done['missingEvents']} later events are missing, as you accepted (old anchor: {done['anchorKept']})"
            if done["missingEvents"] else "") + _outside(done))


def _outside(done: dict[str, Any]) -> str:
    """Lines more that name what the copy does not contain; empty if it contains everything."""
    databases = [key for key in done["outside"] if key != "secrets.key_file"]
    text = ""
    if databases:
        text += (f"\nnot included, because it is a database elsewhere: {', '.join(databases)}; "
                 "back it up with its own tools")
    if len(databases) < len(done["outside"]):
        text += ("\nnot included: the file of secrets.key_file, without which plugins' secrets in this copy cannot be "
                 "read; keep a copy of it somewhere else")
    return text
