"""The application, its groups of verbs, and the options that verbs share.

A verb is a file of this package: it registers itself on ``app`` or on a group when it is imported. Heavy imports
(zmq, pydantic, SQLAlchemy …) belong inside the verb's function, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

from apex_exec.cli.output import say, say_error
from apex_exec.cli.verbs import Exit, Group, Option

EXIT_DONE = 0
EXIT_NO = 1
"""The answer is no: a check failed, the call returned an error, the operation was refused."""
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells expect."""


SECTIONS = {
    "First steps": ("demo", "help", "doctor", "version", "completion"),
    "The daemon": ("serve", "stop", "status", "top", "config", "reload", "drain", "undrain", "fleet", "backup",
                   "restore", "secrets"),
    "Watching it": ("console", "deploy"),
    "Hosts": ("door", "conformance"),
    "Plugins": ("plugin", "keys", "invoke", "dispatch", "restart", "breaker", "schema"),
    "Records and money": ("audit", "market", "billing"),
}
"""The verbs and groups of ``--help``, in the order in which a newcomer needs them."""

app = Group("Runs a platform's third-party plugins, each in a jailed process of its own.\n\n"
            "Start with `apex-exec demo`; `apex-exec VERB --help` shows examples.", SECTIONS)
plugin_app = Group("Write, check, install and look after plugins.")
config_app = Group("Begin a configuration, and check one.")
keys_app = Group("Keys that sign bundles and approvals, and CURVE keys for tcp.")
audit_app = Group("Read, verify and export the audit ledger.")
market_app = Group("The marketplace: review, publish, buy.")
breaker_app = Group("The breaker, which pauses a plugin that fails too often.")
console_app = Group("The web console: pages for the people who look after a daemon.")
door_app = Group("The HTTP door: the host protocol as JSON over HTTP.")
door_token_app = Group("Tokens of those who call the door.")
conformance_app = Group("The host protocol as cases: for those who write a client, or a daemon.")
deploy_app = Group("Files for those who run and watch a daemon: systemd, containers, Prometheus, Grafana.")
fleet_app = Group("Several daemons as one: its nodes, who owns what, their keys.")
secrets_app = Group("The keys that plugins' secrets are encrypted with.")
billing_app = Group("Statements and the arithmetic behind them.")


def _show_version(wanted: bool) -> None:
    if wanted:
        from apex_exec import API_VERSION, __version__

        say(f"apex-exec {__version__}, plugin API {API_VERSION}")
        raise Exit


@app.callback
def root(version: Annotated[bool, Option("--version", is_eager=True, callback=_show_version,
                                               help="Print the version and exit.")] = False) -> None:
    """Gives the application its own options; its help text is the group's above."""


GROUPS = {"plugin": plugin_app, "config": config_app, "keys": keys_app, "audit": audit_app, "market": market_app,
          "billing": billing_app, "breaker": breaker_app, "console": console_app, "deploy": deploy_app,
          "fleet": fleet_app, "secrets": secrets_app, "door": door_app,
          "conformance": conformance_app}

RuntimeDir = Annotated[str | None, Option(
    "--runtime-dir", metavar="DIR", help="Folder of the daemon's sockets; default: where a daemon is found.")]
ConfigFile = Annotated[Path | None, Option(
    "--config", metavar="FILE", help="The daemon's TOML configuration; see `apex-exec config check`.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]


def examples(*lines: str) -> str:
    """An epilog for ``--help`` with the command lines as a user types them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def our_command() -> list[str]:
    """The words that run this command line again from another folder and another shell."""
    import shutil

    if shutil.which("apex-exec") is not None:
        return ["apex-exec"]
    script = Path(sys.argv[0])
    if script.name == "apex-exec" and script.is_file():
        return [str(script.absolute())]
    return [sys.executable, "-m", "apex_exec"]


def this_user() -> str:
    """The name of the current user, or the uid if the user has no name, as in a container."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "author"


def need_linux() -> None:
    """Ends the command on other systems: plugins need Linux, because Linux features confine them."""
    if sys.platform != "linux":
        fail(f"this runs plugins, which needs Linux, and this is {sys.platform}: use a Linux machine, a virtual one or "
             "a container; the verbs that only write, pack, sign or query work here", EXIT_NO)


def fail(message: str, status: int) -> NoReturn:
    """Ends the command with one line on stderr that says what to do."""
    say_error(message)
    raise Exit(status)
