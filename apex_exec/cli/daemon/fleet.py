"""``fleet``: several daemons as one. What an operator sees of the nodes, moves among them, and gives them as keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import print_table, show
from apex_exec.cli.plugin.common import StateDir, ask
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, fleet_app
from apex_exec.cli.verbs import Argument, Option

COLUMNS = ["node", "state", "role", "version", "capacity", "plugins", "endpoint", "reason"]


@fleet_app.command(epilog=examples("apex-exec fleet status", "apex-exec fleet status --json | jq .problem"))
def status(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows in one line how the fleet is, as this node sees it."""
    found = ask(config, runtime_dir, "fleet.status", {})
    serving = [row["node"] for row in found["nodes"] if row["state"] == "serving"]
    others = [f"{row['node']} is {row['state']}{': ' * bool(row['reason'])}{row['reason']}" for row in found["nodes"]
              if row["state"] != "serving"]
    lines = [f"{found['node']} ({found['engine']}): {len(serving)} of {len(found['nodes'])} nodes serve", *others]
    if found["problem"]:
        lines.append(f"the members are those of the last list: {found['problem']}")
    show(found, as_json, "\n".join(lines))


@fleet_app.command(epilog=examples("apex-exec fleet nodes"))
def nodes(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists the nodes, this one first: their state as this node sees it, and how many plugins each owns."""
    print_table(ask(config, runtime_dir, "fleet.status", {})["nodes"], COLUMNS, as_json=as_json, empty="no node")


@fleet_app.command(epilog=examples("apex-exec fleet owner my-plugin"))
def owner(plugin: Annotated[str, Argument(metavar="PLUGIN", help="The plugin's id.")], as_json: AsJson = False,
          runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows which node owns a plugin, and when its requests to the network open there."""
    found = ask(config, runtime_dir, "fleet.owner", {"id": plugin})
    line = f"{plugin}: {found['owner'] or 'no node serves'}"
    if found["fetchOpensMs"]:
        line += f"; its `fetch` opens in {found['fetchOpensMs'] / 1000:.0f} s"
    show(found, as_json, line + ("" if found["served"] else "; no plugin of that id is served"))


@fleet_app.command(epilog=examples("apex-exec fleet drain", "apex-exec fleet drain plugins-2"))
def drain(node: Annotated[str, Argument(metavar="NODE", help="The node's name; default: the one that is asked.")] = "",
          as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Has a node give its plugins to the others, before it is stopped. Its hosts are served on, by the others.

    It owns none until `fleet rebalance`, or until it is started again.
    """
    found = ask(config, runtime_dir, "fleet.drain", {"node": node})
    show(found, as_json, f"{found['node']}: it gives its plugins to the others")


@fleet_app.command(epilog=examples("apex-exec fleet rebalance"))
def rebalance(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Has every drained node own its part of the plugins again."""
    found = ask(config, runtime_dir, "fleet.rebalance", {})
    show(found, as_json, f"the order was sent to {', '.join(found['nodes'])}")


@fleet_app.command(epilog=examples(
    "apex-exec fleet keys plugins-1 --endpoint tcp://plugins-1.example.com:9466 --key fleet",
    "apex-exec fleet keys plugins-1 --endpoint tcp://10.0.0.1:9466 --key fleet --book /etc/apex-exec/nodes"))
def keys(
    node: Annotated[str, Argument(metavar="NODE", help="The node's name.")],
    endpoint: Annotated[str, Option("--endpoint", metavar="TCP", help="Where the other nodes reach it.")],
    key: Annotated[str, Option("--key", metavar="NAME|FILE",
                               help="The private key of a registered key of role node, which signs.")],
    capacity: Annotated[float, Option("--capacity", help="Its share of the plugins, as a weight.")] = 1.0,
    folder: Annotated[Path | None, Option(
        "--dir", metavar="DIR", help="For the node's own CURVE pair; default: fleet.keys_dir.")] = None,
    book: Annotated[Path | None, Option(
        "--book", metavar="DIR", help="For the statement; default: fleet.book.")] = None,
    as_json: AsJson = False, state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Makes a node's CURVE pair, if it has none, and its signed statement.

    Copy the statement, NODE.node, to the book of every node; the pair stays where it is. The key that signs has to be
    registered: `apex-exec keys new fleet`, `apex-exec keys register fleet --role node`.
    """
    import os
    import time

    import zmq.auth

    from apex_exec.cli.plugin.common import state_path
    from apex_exec.config import load_settings
    from apex_exec.fleet.statements import CURVE_KEY, Statement, sign, write
    from apex_exec.registry.trust.signing import open_key

    settings = load_settings(config)
    place = folder or (Path(settings.fleet.keys_dir) if settings.fleet.keys_dir else
                       state_path(config, state_dir) / "fleet")
    private = open_key(state_path(config, state_dir) / "keys", key)
    secret = place / CURVE_KEY
    if not secret.exists():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = os.umask(0o077)
        try:
            zmq.auth.create_certificates(place, CURVE_KEY.removesuffix(".key_secret"))
        finally:
            os.umask(old)
    curve, _ = zmq.auth.load_certificate(secret)
    statement = sign(private, Statement(node, endpoint, curve.decode(), capacity, time.time_ns()))
    path = (book or (Path(settings.fleet.book) if settings.fleet.book else place / "nodes")) / f"{node}.node"
    write(path, statement)
    show({"pair": str(secret), "statement": str(path), "keyId": statement.key_id}, as_json,
         f"{secret}\n{path}: signed by the key {statement.key_id}")
