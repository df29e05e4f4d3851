"""What the verbs of the marketplace share: asking the daemon, and showing its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.verbs import Argument, Option
from apex_exec.common.words import duration

Reason = Annotated[str, Option(help="The reason; the author can read it.")]
PluginId = Annotated[str, Argument(help="The plugin's id.")]
User = Annotated[str, Option("--user", metavar="UUID", help="The user.")]


def ask(config: Path | None, runtime_dir: str | None, op: str, timeout_ms: float = 0.0, /, **args: Any) -> Any:
    """One operation of the running daemon. Raises CallError, ConnectionLost, ConfigError."""
    with connect.admin(config, runtime_dir) as client:
        args = client.with_bundle(args)
        return client.request(op, args, timeout_ms) if timeout_ms else client.request(op, args)


def show_facts(done: dict[str, Any], as_json: bool, keys: tuple[str, ...]) -> None:
    """Prints all of ``done`` as JSON, or the values of ``keys`` as a table for people."""
    from apex_exec.cli.facts import facts, for_people

    if isinstance(done.get("price"), str):
        done["price"] = json.loads(done["price"])  # the price at the time of the purchase
    if as_json:
        print_json(done)
    else:
        shown = for_people(facts(done))
        print_table([{"what": key, "is": shown.get(key)} for key in keys], ["what", "is"], as_json=False)


def show_checks(shown: dict[str, Any], as_json: bool) -> bool:
    """Prints a submission's checks; True if all of them are met."""
    checks = (shown.get("result") or {}).get("checks", [])
    if as_json:
        print_json(shown)
    else:
        say(f"submission {shown['id']}: {shown['plugin']} {shown['version']} is {shown['state']}")
        say(f"digest {shown['digest']}")
        if queue := shown.get("queue"):
            say(f"place {queue['position']} in the queue, waiting for {duration(queue['waitingSeconds'])}")
        print_table([{"check": one["name"], "met": not one["problems"], "problems": "; ".join(one["problems"])}
                     for one in checks], ["check", "met", "problems"], as_json=False, empty="not checked yet")
        for one in shown.get("comments", []):
            say(f"{one['path']}:{one['line']}: {one['reviewer']}: {one['text']}")
        if shown["moves"] and (last := shown["moves"][-1])["reason"]:
            say(f"last move: {last['from_state']} -> {last['to_state']} by {last['actor']}: {last['reason']}")
    return all(not one["problems"] for one in checks)


def show_queue(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Prints the submissions that are waiting."""
    print_table(rows, {"position": "position", "id": "id", "plugin": "plugin", "version": "version", "state": "state",
                       "author": "author", "reviewer": "reviewer", "waitingSeconds": "waiting"},
                as_json=as_json, empty="no submission is waiting")
