"""``door``: serves the HTTP door; ``door token new``, ``list``, ``revoke``: who may call without a JWT."""

from __future__ import annotations

from typing import Annotated, Any

from apex_exec.cli.output import print_table, say, show
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, door_app, door_token_app, examples, need_linux
from apex_exec.cli.verbs import Argument, Exit, Option

door_app.add("token", door_token_app)
TOKEN_BYTES = 32
PREFIX = "apexdoor_"
"""So that a scanner for secrets knows one where it should not be."""


@door_app.verb(epilog=examples(
    "apex-exec door", "apex-exec door --address 127.0.0.1:8080 --config /etc/apex-exec.toml",
    "apex-exec door token new billing --user 6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:9466/v1/plugins"))
def door(
    address: Annotated[str | None, Option(
        metavar="HOST:PORT", help="Instead of door.address; port 0 takes a free one.")] = None,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Serves the host protocol as JSON over HTTP until Ctrl-C or SIGTERM.

    It is a host like any other: run it as the daemon's user, or as a user that may connect to both sockets and has
    the roles `viewer` and `delegate:operator` in admin.roles. Callers show a token of `apex-exec door token new`, or a
    JSON Web Token that door.jwt_* describe. Addresses and schemas: /v1/openapi.json.
    """
    need_linux()
    from apex_exec import extras

    extras.need("door", "apex-exec door")
    from apex_exec.config import load_settings
    from apex_exec.door.server import run

    overrides = {key: value for key, value in (("runtime_dir", runtime_dir), ("door.address", address)) if value}
    settings = load_settings(config, overrides)
    raise Exit(run(settings, _endpoint(settings, "host"), _endpoint(settings, "admin"),
                   lambda origin: say(f"door on {origin}", flush=True)))


def _endpoint(settings: Any, socket: str) -> str:
    """Of a daemon that is there if one is found, and otherwise where the configuration has it, since the door may start
    before the daemon."""
    from apex_exec.client.discovery import look
    from apex_exec.config import runtime_candidates

    section, configured = ((settings.host, settings.host_endpoint) if socket == "host" else
                           (settings.admin, settings.admin_endpoint))
    if section.endpoint or settings.runtime_dir:
        return str(configured)
    return look(socket, runtime_candidates())[0] or str(configured)


@door_token_app.command(epilog=examples(
    "apex-exec door token new billing --user 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --plugin invoices",
    "apex-exec door token new web --act-as --rate 600000 --days 90",
    "apex-exec door token new siem --scope audit:read --json | jq -r .token"))
def new(
    name: Annotated[str, Argument(metavar="NAME", help="Who is to use it, as it is listed.")],
    user: Annotated[str | None, Option("--user", metavar="UUID", help="The user that its calls are made for.")] = None,
    act_as: Annotated[bool, Option("--act-as", help="It may call as any user that a request names.")] = False,
    plugins: Annotated[list[str] | None, Option(
        "--plugin", metavar="ID", help="Only this plugin; may be repeated. Default: all.")] = None,
    hooks: Annotated[list[str] | None, Option(
        "--hook", metavar="HOOK", help="Only this hook; may be repeated. Default: all.")] = None,
    scopes: Annotated[list[str] | None, Option(
        "--scope", help="invoke, dispatch, plugins, audit:read; may be repeated. Default: the first three.")] = None,
    rate: Annotated[int, Option("--rate", min=1, max=10_000_000, help="Requests a minute.")] = 60_000,
    days: Annotated[int, Option("--days", min=1, max=3650, help="How long it counts.")] = 365,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Makes a token and prints it, this once: the daemon gets its SHA-256 alone.

    To rotate a token, make a second one of the same name, hand it out, and revoke the first by its id.
    """
    import hashlib
    import secrets

    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    made = ask(config, runtime_dir, "door.token.new", {
        "name": name, "digest": hashlib.sha256(token.encode()).hexdigest(), "user": user, "actAs": act_as,
        "plugins": plugins or [], "hooks": hooks or [], "scopes": scopes or ["invoke", "dispatch", "plugins"],
        "requestsPerMinute": rate, "days": days})
    show({"token": token, **_without_digest(made)}, as_json, token)


@door_token_app.command("list", epilog=examples("apex-exec door token list", "apex-exec door token list --all"))
def list_tokens(
    everything: Annotated[bool, Option("--all", help="Also those that were revoked or have expired.")] = False,
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Lists the tokens: what each may do, and until when."""
    rows = ask(config, runtime_dir, "door.token.list", {"all": everything})["tokens"]
    print_table([_without_digest(row) for row in rows], [
        "id", "name", "user", "actAs", "scopes", "plugins", "hooks", "requestsPerMinute", "expiresNs", "state"],
        as_json=as_json, empty="no token has been made yet: `apex-exec door token new NAME`")


@door_token_app.command(epilog=examples("apex-exec door token revoke billing --reason 'was in a log'"))
def revoke(
    name: Annotated[str, Argument(metavar="NAME|ID", help="All tokens of that name, or one by its id.")],
    reason: Annotated[str, Option("--reason", help="The reason; it is stored and shown.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Ends a token for good; a door that has seen it refuses it within five seconds."""
    done = ask(config, runtime_dir, "door.token.revoke", {"name": name, "reason": reason})
    show(done, as_json, f"{name}: revoked {', '.join(done['revoked']) or 'before'}")


def _without_digest(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "digest"}


