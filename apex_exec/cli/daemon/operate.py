"""``reload``, ``drain``, ``undrain``, ``restart``, ``breaker reset``: what an operator does to a running daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, say
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, app, breaker_app, examples, fail
from apex_exec.cli.verbs import Argument, Exit, Option

LOOK_SECONDS = 0.1
Plugin = Annotated[str, Argument(metavar="PLUGIN", help="The plugin's id.")]


@app.command(epilog=examples("apex-exec reload", "apex-exec reload --json | jq .restart"))
def reload(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Makes the daemon read its configuration and plugins_dir again, as SIGHUP does; a bad file changes nothing.

    Prints the keys that were applied, and those that need a restart.
    """
    done = ask(config, runtime_dir, "daemon.reload", {})
    if as_json:
        print_json(done)
        return
    say(f"reloaded: {', '.join(done['applied']) or 'no key has changed'}")
    if done["restart"]:
        say(f"these need a restart and were left as they are: {', '.join(done['restart'])}")


@app.command(epilog=examples("apex-exec drain --wait", "apex-exec drain --stop --wait",
                             "apex-exec drain --wait --timeout 30 && systemctl stop apex-exec"))
def drain(
    wait: Annotated[bool, Option("--wait", help="Return once no call is pending.")] = False,
    timeout: Annotated[float, Option(min=0, metavar="SECONDS", help="How long --wait waits before it exits 1.")] = 60,
    stop: Annotated[bool, Option("--stop", help="End the daemon as well, as SIGTERM does.")] = False,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Makes the daemon refuse new calls and finish the pending ones. It waits for `undrain`, or ends with --stop.

    New calls are answered SHUTTING_DOWN, so that a host can try them elsewhere, and /readyz reports not ready.
    """
    done = ask(config, runtime_dir, "daemon.drain", {"stop": stop})
    if wait:
        done["pending"] = _wait(timeout, stop, config, runtime_dir)
    if as_json:
        print_json(done)
    else:
        left = f"{done['pending']} calls are pending" if done["pending"] else "nothing is pending"
        say(f"{'draining, then it ends' if stop else 'drained'}: {left}")
    if wait and done["pending"]:
        raise Exit(EXIT_NO)


def _wait(seconds: float, stop: bool, config: Path | None, runtime_dir: str | None) -> int:
    """Waits until no call is pending or the daemon has ended. Returns how many calls are still pending."""
    from apex_exec.client import ConnectionLost

    due = time.monotonic() + seconds
    try:
        with connect.admin(config, runtime_dir) as client:
            while True:
                now = client.request("daemon.status")
                if not now["draining"]:
                    fail("the daemon was undrained in the meantime", EXIT_NO)
                if (not stop and now["pending"] == 0) or time.monotonic() > due:
                    return int(now["pending"])
                time.sleep(LOOK_SECONDS)
    except (ConnectionLost, Exit):
        if not stop:
            raise
        return 0  # it has ended


@app.command(epilog=examples("apex-exec undrain"))
def undrain(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Makes a drained daemon take calls again. A daemon that is already ending cannot be stopped from it."""
    done = ask(config, runtime_dir, "daemon.undrain", {})
    if as_json:
        print_json(done)
    else:
        say("the daemon takes calls again")


@app.command(epilog=examples("apex-exec restart my-plugin"))
def restart(plugin: Plugin, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Replaces a plugin's worker: the old worker finishes its calls, and a new one gets the next calls.

    This also ends the wait after failures (the backoff). An open breaker stays open; see `apex-exec breaker reset`.
    """
    done = ask(config, runtime_dir, "plugin.restart", {"id": plugin})
    pids = ", ".join(map(str, done["pids"]))
    _say(done, as_json, f"{plugin}: process {pids} is being replaced" if pids else
         f"{plugin}: it has no worker now; the next call starts one")


@breaker_app.command("reset", epilog=examples("apex-exec breaker reset my-plugin"))
def reset(plugin: Plugin, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Closes a plugin's breaker now, and forgets its failures and its backoff."""
    done = ask(config, runtime_dir, "breaker.reset", {"id": plugin})
    _say(done, as_json, f"{plugin}: its breaker was {done['was']}, and is closed")


def _say(done: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(done)
    else:
        say(line)
