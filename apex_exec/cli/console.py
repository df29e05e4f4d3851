"""``console``: serves the web console; ``console link``, ``sessions``, ``end``: who may sign in to a running one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from apex_exec.cli.output import print_table, say, show
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, console_app, examples, need_linux, this_user
from apex_exec.cli.verbs import Argument, Exit, Option

Role = Literal["viewer", "operator", "approver", "reviewer", "finance", "author", "admin"]
Name = Annotated[str, Argument(metavar="NAME", help="The person's name, as it is recorded.")]


@console_app.verb(epilog=examples(
    "apex-exec console --open", "apex-exec console --runtime-dir /run/apex-exec",
    "apex-exec console --config /etc/apex-exec.toml --address 127.0.0.1:8080"))
def console(
    link: Annotated[bool, Option("--open", help="Print a link that signs you in once, within ten minutes.")] = False,
    roles: Annotated[list[Role] | None, Option(
        "--role", help="Your role with --open; may be repeated. Default: operator.")] = None,
    address: Annotated[str | None, Option(
        metavar="HOST:PORT", help="Instead of console.address; port 0 takes a free one.")] = None,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Serves the web console until Ctrl-C or SIGTERM: overview, plugins, approvals, audit, doctor.

    It is a client of the daemon's admin endpoint: run it as the daemon's user, or as a user that has the role
    `delegate` in admin.roles. The daemon decides by the role of the person who is signed in, and records the name.
    People sign in by links that you make with --open or `apex-exec console link`; there are no passwords.
    """
    need_linux()
    from apex_exec import extras

    extras.need("console", "apex-exec console")
    from apex_exec.config import load_settings
    from apex_exec.console.control import person_of
    from apex_exec.console.server import run

    overrides = {key: value for key, value in (("runtime_dir", runtime_dir), ("console.address", address)) if value}
    settings = load_settings(config, overrides)

    def ready(origin: str, made: str) -> None:
        say(f"console on {origin}", flush=True)
        if made:
            say(f"open this once, within ten minutes: {made}", flush=True)
        else:
            say("`apex-exec console link NAME --role operator` makes a link by which a person signs in", flush=True)

    first = person_of(this_user(), list(roles or ("operator",))) if link else None
    raise Exit(run(settings, _endpoint(settings), first, ready))


def _endpoint(settings: Any) -> str:
    """The admin endpoint: of a daemon that is there if one is found, and otherwise where the configuration has it,
    since the console may start before the daemon."""
    from apex_exec.client.discovery import look
    from apex_exec.config import runtime_candidates

    if settings.admin.endpoint or settings.runtime_dir:
        return str(settings.admin_endpoint)
    return look("admin", runtime_candidates())[0] or str(settings.admin_endpoint)


@console_app.command(epilog=examples("apex-exec console link anna --role operator",
                                     "apex-exec console link ben --role viewer --json | jq -r .link"))
def link(
    name: Name,
    roles: Annotated[list[Role] | None, Option("--role", help="What the person may do; may be repeated. "
                                               "Default: viewer.")] = None,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Prints a link that signs one person in, once, within ten minutes.

    The person who opens it acts under that name with these roles: send it to nobody else.
    """
    done = _ask(config, runtime_dir, do="link", name=name, roles=list(roles or ("viewer",)))
    show(done, as_json, done["link"])


@console_app.command(epilog=examples("apex-exec console sessions", "apex-exec console sessions --json"))
def sessions(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists who is signed in to the running console."""
    rows = _ask(config, runtime_dir, do="sessions")["sessions"]
    print_table(rows, {"name": "name", "roles": "roles", "signedInSeconds": "signed in for", "idleSeconds": "idle for"},
                as_json=as_json, empty="nobody is signed in")


@console_app.command(epilog=examples("apex-exec console end anna"))
def end(name: Name, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Signs a person out everywhere, and ends the links made for that name."""
    done = _ask(config, runtime_dir, do="end", name=name)
    show(done, as_json, f"{name}: {done['sessions']} sessions and {done['links']} links are ended")


def _ask(config: Path | None, runtime_dir: str | None, **asked: Any) -> dict[str, Any]:
    """One question to the running console. Raises Refusal."""
    need_linux()
    from apex_exec.config import load_settings
    from apex_exec.console.control import ask
    from apex_exec.console.place import folder_of

    settings = load_settings(config, {"runtime_dir": runtime_dir} if runtime_dir else None)
    return ask(folder_of(settings), **asked)
