"""``plugin dev``: a daemon of its own that serves one folder and takes every save that is a bundle."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.output import clean, say
from apex_exec.cli.root import EXIT_NO, ConfigFile, examples, fail, plugin_app

POLL_SECONDS = 0.3
START_SECONDS_MAX = 30.0
USER = "11111111-2222-4333-8444-555555555555"


@plugin_app.command(epilog=examples("apex-exec plugin dev ./my-plugin"))
def dev(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")],
    runtime: Annotated[str | None, typer.Option(
        "--runtime-dir", metavar="DIR", help="Its sockets; default: a new one.")] = None,
    config: ConfigFile = None,
) -> None:
    """Serves a folder with the real limits and jail, and reloads it on every save. Ctrl-C ends it.

    A save that is no valid bundle is told, and the last good one goes on.
    """
    from apex_exec.registry.bundle import read_folder

    bundle = read_folder(folder)
    with tempfile.TemporaryDirectory(prefix="apxdev") as place:
        served = Path(place) / "plugins" / bundle.manifest.id
        _copy(bundle.files, served)
        sockets = runtime or f"{place}/run"
        command = [sys.executable, "-m", "apex_exec", "serve", "--plugins-dir", str(served.parent), "--runtime-dir",
                   sockets, "--state-dir", f"{place}/state", "--http-address", "127.0.0.1:0",
                   *(["--config", str(config)] if config else [])]
        with subprocess.Popen(command) as daemon:
            try:
                _wait(Path(sockets) / "host.sock", daemon)
                hook = bundle.manifest.manifest.hooks[0]
                say(f"serving {bundle.manifest.id} {bundle.manifest.version}; call it with:\n  apex-exec invoke "
                      f"{bundle.manifest.id} {hook} --user {USER} --runtime-dir {sockets}", flush=True)
                _watch(folder, served, bundle.digest, daemon)
            except KeyboardInterrupt:
                say("stopped")
            finally:
                daemon.terminate()
    if daemon.returncode:
        fail(f"the daemon ended with status {daemon.returncode}", EXIT_NO)


def _wait(path: Path, daemon: subprocess.Popen[bytes]) -> None:
    due = time.monotonic() + START_SECONDS_MAX
    while not path.exists():
        if daemon.poll() is not None or time.monotonic() > due:
            fail("the daemon did not start; its own words stand above", EXIT_NO)
        time.sleep(0.05)


def _watch(folder: Path, served: Path, digest: str, daemon: subprocess.Popen[bytes]) -> None:
    from apex_exec.errors import Refusal
    from apex_exec.registry.bundle import read_folder
    from apex_exec.registry.scan import scan

    said = ""
    while daemon.poll() is None:
        time.sleep(POLL_SECONDS)
        try:
            bundle = read_folder(folder)
        except Refusal as error:
            if error.message != said:
                said = error.message
                say(clean(f"not reloaded: {error.message}" + (f" ({error.hint})" if error.hint else "")), flush=True)
            continue
        if bundle.digest == digest or bundle.manifest.id != served.name:
            continue
        digest, said = bundle.digest, ""
        for item in scan(bundle.files, bundle.manifest, with_bandit=False).errors:
            say(clean(f"an installation would refuse {item.path}:{item.line}: {item.message} [{item.rule}]"))
        _copy(bundle.files, served)
        daemon.send_signal(signal.SIGHUP)
        say(f"reloaded {bundle.manifest.id} {bundle.manifest.version}, digest {digest[:12]}", flush=True)


def _copy(files: dict[str, bytes], served: Path) -> None:
    """The bundle's files in the served folder, replaced as a whole: a reload must not see half of a save."""
    fresh = served.parent.parent / "next"
    shutil.rmtree(fresh, ignore_errors=True)
    for name, body in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    served.parent.mkdir(parents=True, exist_ok=True)
    if served.exists():
        served.rename(served.parent.parent / "last")
        shutil.rmtree(served.parent.parent / "last")
    fresh.rename(served)
