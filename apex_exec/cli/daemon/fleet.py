"""``fleet``: several daemons as one. What an operator sees of the nodes, moves among them, and gives them as keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from apex_exec.cli.output import print_table, say, show
from apex_exec.cli.plugin.common import StateDir, ask
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, examples, fail, fleet_app
from apex_exec.cli.verbs import Argument, BadParameter, Option

CONNECT_SECONDS = 5.0
RAY_SECONDS = 60.0
"""How long Ray's own library takes at most to reach a head that answers, on a machine that is busy."""
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


@fleet_app.command(epilog=examples(
    "apex-exec fleet up --engine ray --address 10.0.0.1:6379 --config /etc/apex-exec/config.toml",
    "apex-exec fleet up --engine ray --address 10.0.0.1:6379 --config '/etc/apex-exec/{node}.toml' --forget plugins-3"))
def up(
    engine: Annotated[str, Option("--engine", metavar="ENGINE", help="ray; other engines start daemons themselves.")],
    config: Annotated[Path, Option(
        "--config", metavar="FILE", help="Each node's configuration; {node} is Ray's name of the node.")],
    address: Annotated[str, Option("--address", metavar="HOST:PORT", help="Ray's head.")],
    seconds: Annotated[float, Option("--seconds", min=1.0, help="How long to wait for the daemons.")] = 120.0,
    forget: Annotated[list[str] | None, Option(
        "--forget", metavar="NODE", help="A node that will not come back; may be repeated.")] = None,
) -> None:
    """Has Ray keep a daemon on each of its nodes: starts it, adopts it if it runs, and starts it again if it ends.

    Run it again at any time. The end of Ray ends no daemon. Ray has to be started with RAY_AUTH_MODE=token,
    RAY_USE_TLS=1 and RAY_USAGE_STATS_ENABLED=0, and this command takes the same environment.
    """
    from apex_exec import extras

    if engine != "ray":
        raise BadParameter(f"{engine!r} is not an engine that this verb starts daemons with; write ray",
                           param_hint="--engine")
    extras.need("fleet-ray", "fleet up --engine ray")
    rows = _asked_of_ray(address, str(config), seconds, forget or [])
    if not rows:
        fail(f"Ray at {address} has no node; start one with `ray start`", EXIT_NO)
    for row in rows:
        say(f"{row['node']}: " + (f"pid {row['pid']}" if row["pid"] else "no daemon")
            + (f"; {row['problem']}" if row["problem"] else ""))
    if any(not row["pid"] or row["problem"] for row in rows):
        fail("not every node has its daemon; the others serve on, and keepers go on trying", EXIT_NO)


def _asked_of_ray(address: str, config: str, seconds: float, forget: list[str]) -> list[dict[str, Any]]:
    """The keepers' states. Ends the command in one line if Ray cannot be used."""
    import os
    import signal
    import socket
    import subprocess
    import sys

    import msgspec

    from apex_exec.fleet.keeper import open_because

    if why := open_because(os.environ):
        fail(why, EXIT_NO)
    host, _, port = address.rpartition(":")
    try:  # Ray itself says that nobody is there after minutes
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        fail(f"Ray's head does not answer at {address}: {error}; daemons that run do so on, and any daemon can be "
             "started without Ray by `apex-exec serve`", EXIT_NO)
    command = [sys.executable, "-m", "apex_exec.fleet.up", address, config, str(seconds), *forget]
    asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                             start_new_session=True)
    try:
        out, err = asked.communicate(timeout=RAY_SECONDS + seconds)
    except subprocess.TimeoutExpired:
        os.killpg(asked.pid, signal.SIGKILL)  # with what Ray's library has started, which would hold the pipes open
        asked.wait()
        out, err = "", f"it has not answered within {RAY_SECONDS + seconds:g} s"
    if asked.returncode:
        said = err.strip().splitlines() or [f"it ended with status {asked.returncode}"]
        fail(f"Ray at {address} cannot be joined: {said[-1][:500]}; are the token and the certificates those that it "
             "was started with? Daemons that run do so on", EXIT_NO)
    rows: list[dict[str, Any]] = msgspec.json.decode(out.strip().splitlines()[-1])
    return rows
