"""``plugin settings get|set|unset``: what an operator sets for a plugin: values, and secrets that nobody reads back."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli.output import print_table, say, show
from apex_exec.cli.plugin.common import ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, plugin_app
from apex_exec.cli.verbs import Argument, BadParameter, Group, Option

U = "11111111-2222-4333-8444-555555555555"
SECRET_BYTES_MAX = 65_536
settings_app = Group("What an operator sets for a plugin: see it, change it, delete it.")
plugin_app.add("settings", settings_app)

Plugin = Annotated[str, Argument(metavar="ID", help="The plugin.")]
User = Annotated[str | None, Option("--user", metavar="UUID", help="For this user alone.")]
Tenant = Annotated[str | None, Option(
    "--tenant", metavar="TENANT", help="For the users of this tenant, by `via` of data.tables.")]
Expect = Annotated[str | None, Option(
    "--expect", metavar="REVISION", help="Refuse if something was changed since `get` gave this revision.")]


@settings_app.command(epilog=examples(f"apex-exec plugin settings get my-plugin --user {U}",
                                      "apex-exec plugin settings get my-plugin --json"))
def get(plugin: Plugin, user: User = None, tenant: Tenant = None, as_json: AsJson = False,
        runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows the settings that a plugin declares, their values and where these come from. Of a secret only if it is set.

    A user's value wins over the tenant's, and that over everybody's; without any the manifest's default counts.
    """
    found = ask(config, runtime_dir, "plugin.settings.get", {"id": plugin, "user": user, "tenant": tenant})
    if as_json:
        show(found, True, "")
        return
    if not found["settings"]:
        say(f"{plugin} {found['version']} declares no settings")
    else:
        print_table([{**row, "type": "secret" if row["secret"] else row["type"], "value": _value(row)}
                     for row in found["settings"]], ["name", "type", "value", "source", "title"], as_json=False)
    for name in found["stale"]:
        say(f"{name} is set, and {found['version']} does not declare it: "
            f"apex-exec plugin settings unset {plugin} {name}")
    say(f"revision {found['revision']}; {found['tenants']} tenants and {found['users']} users have values of their own")


def _value(row: dict[str, Any]) -> str:
    if row["secret"]:
        return "(secret)" if row["source"] not in ("nothing", "default") else ""
    return f"{row.get('problem', '')} {json.dumps(row['value'])}".strip() if "value" in row else ""


@settings_app.command("set", epilog=examples(
    "apex-exec plugin settings set my-plugin region=us limits='[1,2]'",
    "apex-exec plugin settings set my-plugin apiKey=@/run/secrets/key",
    f"apex-exec plugin settings set my-plugin apiKey=- --user {U} < key.txt"))
def set_(
    plugin: Plugin,
    values: Annotated[list[str], Argument(
        metavar="NAME=VALUE…", help="Values; @FILE reads a file, - the standard input, at a terminal a prompt.")],
    user: User = None, tenant: Tenant = None, expect: Expect = None, as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Sets values, which the next call has. All of them are checked against the manifest's schema, and all or none set.

    A text is given as it is; every other value is JSON. A secret is not given as text: other users of the machine can
    see the arguments of a command. It is encrypted before it is stored, and no command shows it again.
    """
    found = ask(config, runtime_dir, "plugin.settings.get", {"id": plugin, "user": user, "tenant": tenant})
    kinds = {row["name"]: row for row in found["settings"]}
    given = dict(_pair(text, kinds) for text in values)
    if len(given) < len(values):
        raise BadParameter("a setting is named twice; name each once", param_hint="NAME=VALUE")
    done = ask(config, runtime_dir, "plugin.settings.set", {
        "id": plugin, "user": user, "tenant": tenant, "values": given, "expect": expect})
    show(done, as_json, f"{plugin}: {done['changed']} set for {_whom(user, tenant)}; revision {done['revision']}")


def _whom(user: str | None, tenant: str | None) -> str:
    return f"user {user}" if user else f"tenant {tenant}" if tenant else "everybody"


def _pair(text: str, kinds: dict[str, Any]) -> tuple[str, Any]:
    from apex_exec.catalogue.settings import VALUES_BYTES_MAX

    name, equals, value = text.partition("=")
    if not equals:
        raise BadParameter(f"{name!r}: write NAME=VALUE", param_hint="NAME=VALUE")
    kind = kinds.get(name, {})
    read = value == "-" or value.startswith("@")
    if kind.get("secret") and not read:
        raise BadParameter(f"{name} is a secret, and others can see the arguments of a command: write {name}=@FILE, or "
                           f"{name}=- and type it", param_hint="NAME=VALUE")
    if read:
        value = _read(name, value, bool(kind.get("secret")))
    if len(value) > VALUES_BYTES_MAX:
        raise BadParameter(f"{name}: {len(value)} characters; all values together have at most {VALUES_BYTES_MAX}",
                           param_hint="NAME=VALUE")
    types = kind.get("type", "string")
    if types == "string":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        if types == "enum" or (isinstance(types, list) and "string" in types):
            return name, value
        raise BadParameter(f"{name}: a value of the type {types} is JSON", param_hint="NAME=VALUE") from None


def _read(name: str, place: str, secret: bool) -> str:
    """The value behind ``@FILE`` or ``-``, without the end of its last line."""
    if place == "-" and sys.stdin.isatty():
        return getpass.getpass(f"{name}: ") if secret else input(f"{name}: ")
    try:
        if place == "-":
            raw = sys.stdin.buffer.read(SECRET_BYTES_MAX + 1)
        else:
            with Path(place[1:]).open("rb") as file:
                raw = file.read(SECRET_BYTES_MAX + 1)
        text = raw.decode()
    except OSError as error:
        raise BadParameter(f"{name}: {place[1:]}: {error.strerror}", param_hint="NAME=VALUE") from None
    except UnicodeDecodeError:
        raise BadParameter(f"{name}: the value is not UTF-8", param_hint="NAME=VALUE") from None
    return text.removesuffix("\n").removesuffix("\r")


@settings_app.command(epilog=examples("apex-exec plugin settings unset my-plugin region",
                                      f"apex-exec plugin settings unset my-plugin --all --user {U}"))
def unset(
    plugin: Plugin,
    names: Annotated[list[str] | None, Argument(metavar="NAME…", help="The settings.")] = None,
    everything: Annotated[bool, Option("--all", help="Everything that is set here.")] = False,
    user: User = None, tenant: Tenant = None, expect: Expect = None, as_json: AsJson = False,
    runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Deletes values: of everybody, or those of one user or tenant."""
    if bool(names) == everything:
        raise BadParameter("name the settings, or give --all", param_hint="NAME")
    done = ask(config, runtime_dir, "plugin.settings.unset", {
        "id": plugin, "user": user, "tenant": tenant, "names": names or [], "all": everything, "expect": expect})
    show(done, as_json, f"{plugin}: {done['deleted']} deleted for {_whom(user, tenant)}; revision {done['revision']}")
