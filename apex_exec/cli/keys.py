"""``keys``: pairs and commands that sign bundles and approvals, CURVE pairs for tcp, and the registered keys with their
roles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import print_table, show
from apex_exec.cli.plugin.common import StateDir, ask, state_path
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, keys_app
from apex_exec.cli.verbs import Argument, Option

Name = Annotated[str, Argument(metavar="NAME", help="The key's name.")]


@keys_app.command(epilog=examples("apex-exec keys new acme"))
def new(name: Name, as_json: AsJson = False, state_dir: StateDir = None, config: ConfigFile = None) -> None:
    """Makes an Ed25519 pair, NAME.key (private, 0600) and NAME.pub, in the state folder's keys/."""
    from apex_exec.registry.trust.signing import new_key

    path, key_id = new_key(state_path(config, state_dir) / "keys", name)
    show({"file": str(path), "keyId": key_id}, as_json, f"{path}: key {key_id}")


@keys_app.command(epilog=examples(
    "apex-exec keys signer acme --public-key acme.pub -- kms-sign --key acme",
    "apex-exec plugin sign my-plugin-1.0.0.apx --key acme"))
def signer(
    name: Name,
    command: Annotated[list[str], Argument(metavar="COMMAND…", help="What signs, and its arguments.")],
    public_key: Annotated[str, Option("--public-key", metavar="FILE|HEX", help="The public key: a PEM file, or its 32 "
                                                                              "bytes in hexadecimal.")],
    as_json: AsJson = False, state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Says which command signs with the key NAME, which stays in a KMS or an HSM.

    The command reads what it signs on its standard input, and writes the Ed25519 signature of exactly these bytes: 64
    raw bytes, hexadecimal or base64. It is tried at once. NAME.signer and NAME.pub are written to the state folder's
    keys/; every verb with --key then takes NAME as it takes a key of `keys new`.
    """
    import re

    from apex_exec.registry.trust.signing import load_public, new_signer

    public = bytes.fromhex(public_key) if re.fullmatch("[0-9a-fA-F]{64}", public_key) else load_public(Path(public_key))
    path, key_id = new_signer(state_path(config, state_dir) / "keys", name, command, public)
    show({"file": str(path), "keyId": key_id, "command": command}, as_json, f"{path}: key {key_id}, which {command[0]} "
                                                                            "signs with")


@keys_app.command(epilog=examples("apex-exec keys curve server", "apex-exec keys curve my-host --dir ./curve"))
def curve(
    name: Name,
    folder: Annotated[Path | None, Option(
        "--dir", metavar="DIR", help="Default: keys/ in the state folder.")] = None,
    as_json: AsJson = False, state_dir: StateDir = None, config: ConfigFile = None,
) -> None:
    """Makes a CURVE pair in pyzmq's format: NAME.key (public) and NAME.key_secret (0600), for host.curve_keys_dir."""
    import os

    import zmq.auth

    from apex_exec.errors import Code, Refusal
    from apex_exec.registry.trust.signing import check_key_name

    check_key_name(name)
    place = folder or state_path(config, state_dir) / "keys"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (place / f"{name}.key").exists() or (place / f"{name}.key_secret").exists():
        raise Refusal("key_exists", f"{place / name}.key is there already", code=Code.CONFLICT,
                      hint="choose another name")
    old = os.umask(0o077)
    try:
        public, secret = zmq.auth.create_certificates(place, name)
    finally:
        os.umask(old)
    show({"public": str(public), "secret": str(secret)}, as_json, f"{public}\n{secret}")


@keys_app.command(epilog=examples(
    "apex-exec keys register acme", "apex-exec keys register bob --role approver --owner 'Bob'"))
def register(
    name: Annotated[str, Argument(metavar="NAME|FILE", help="The key's name, or its .pub file.")],
    role: Annotated[str, Option("--role", help="author, approver, market or node.")] = "author",
    owner: Annotated[str, Option("--owner", help="The person or company behind it; default: NAME.")] = "",
    days: Annotated[int, Option("--days", min=1, max=3650, help="How long it may sign.")] = 730,
    as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Registers the public key with the daemon. A second key of a name rotates it: both count until one is revoked."""
    from apex_exec.registry.trust.signing import find_key, load_public

    path = find_key(state_path(config, state_dir) / "keys", name, ".pub")
    result = ask(config, runtime_dir, "keys.register", {
        "name": path.stem, "role": role, "owner": owner, "days": days, "public_key": load_public(path).hex()})
    show(result, as_json, f"{result['name']}: {result['role']} key {result['keyId']}"
         + ("" if result["changed"] else ", was registered before"))


@keys_app.command(epilog=examples("apex-exec keys revoke acme --reason 'laptop stolen'"))
def revoke(
    name: Annotated[str, Argument(metavar="NAME|KEYID", help="All keys of that name, or one by its id.")],
    reason: Annotated[str, Option("--reason", help="The reason; it is stored and shown.")],
    as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None,
) -> None:
    """Revokes a key for good: its approvals end, and every plugin that it signed stops within two seconds."""
    result = ask(config, runtime_dir, "keys.revoke", {"name": name, "reason": reason})
    lines = [f"{name}: revoked {', '.join(result['revoked']) or 'before'}"]
    if result["stopped"]:
        lines.append(f"stopped: {', '.join(result['stopped'])}")
    if result["approvalsEnded"]:
        lines.append(f"approvals ended: {', '.join(result['approvalsEnded'])}")
    show(result, as_json, "\n".join(lines))


@keys_app.command("list", epilog=examples("apex-exec keys list"))
def list_keys(as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists the registered keys."""
    rows = ask(config, runtime_dir, "keys.list", {})["keys"]
    print_table(rows, ["name", "role", "owner", "keyId", "state", "reason"], as_json=as_json,
                empty="no key is registered")
