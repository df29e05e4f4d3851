"""``backup`` and ``restore``: a verified copy of the whole state, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, say
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
    _say(done, as_json, f"{done['path']}: {done['files']} files, {done['bytes']} bytes, ledger to event "
                        f"{done['ledgerSeq']}, verified")


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
    _say(done, as_json, f"{done['path']}: {done['files']} files as of {done['madeAt']}, ledger to event "
                        f"{done['ledgerSeq']}, verified"
         + (f"; {done['missingEvents']} later events are missing, as you accepted (old anchor: {done['anchorKept']})"
            if done["missingEvents"] else ""))


def _say(done: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(done)
        return
    say(line)
    if done["outside"]:
        say(f"not included, because it is a database elsewhere: {', '.join(done['outside'])}; "
            "back it up with its own tools")
