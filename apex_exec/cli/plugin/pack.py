"""``plugin pack`` and ``plugin sign``: a folder becomes an ``.apx``, and an ``.apx`` gets a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import print_json, say, show
from apex_exec.cli.plugin.common import StateDir, replace_file, settings_with_hooks, state_path
from apex_exec.cli.root import AsJson, ConfigFile, examples, plugin_app
from apex_exec.cli.verbs import Argument, BadParameter, Option

LEFT_OUT_TOLD_MAX = 20
SECRETS_TOLD_MAX = 5


@plugin_app.command(epilog=examples(
    "apex-exec plugin pack ./my-plugin", "apex-exec plugin pack ./my-plugin -o out.apx"))
def pack(
    folder: Annotated[Path, Argument(metavar="DIR", help="The bundle's folder.")],
    output: Annotated[Path | None, Option("-o", "--output", metavar="FILE",
                                                help="Default: ID-VERSION.apx here.")] = None,
    with_secrets: Annotated[bool, Option("--with-secrets", help="Pack files that look like a secret too.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Packs a folder into an .apx: the same bytes for the same files, on any machine. Lists the files that it packs.

    It leaves out names that begin with a dot, caches, *.apx, files whose names say that they hold a secret (*.env,
    *.pem, *.key, id_rsa …), and whatever DIR/.apxignore lists. That file is written like .gitignore; a line such as
    !public.key includes a file again. If a file contains something that looks like a secret, nothing is packed.
    """
    from apex_exec.errors import Refusal
    from apex_exec.registry.bundles.bundle import pack as packed
    from apex_exec.registry.bundles.bundle import read_folder
    from apex_exec.registry.bundles.secret_texts import secrets_in

    settings_with_hooks(config)
    left_out: list[str] = []
    bundle = read_folder(folder, left_out, output)
    own = {name: body for name, body in bundle.files.items() if name not in bundle.vendored}
    if not with_secrets and (found := secrets_in(own)):
        raise Refusal("holds_a_secret", "; ".join(f"{name}:{line}: this looks like {what}"
                                                  for name, line, what in found[:SECRETS_TOLD_MAX]),
                      hint="everybody who gets the bundle can read it: remove it, or list the file in .apxignore; if "
                           "it is not a secret, pack with --with-secrets")
    path = output or Path(f"{bundle.manifest.id}-{bundle.manifest.version}.apx")
    data = packed(bundle)
    replace_file(path, data)
    if as_json:
        print_json({"file": str(path), "bytes": len(data), "digest": bundle.digest, "leftOut": left_out,
                    "files": [{"path": name, "bytes": len(body)} for name, body in bundle.files.items()]})
        return
    width = max(len(f"{len(body):,}") for body in bundle.files.values())
    for name, body in bundle.files.items():
        say(f"  {len(body):>{width},}  {name}")
    if left_out:
        say(f"left out: {', '.join(left_out[:LEFT_OUT_TOLD_MAX])}"
            + (f" and {len(left_out) - LEFT_OUT_TOLD_MAX} more" if len(left_out) > LEFT_OUT_TOLD_MAX else ""))
    say(f"{path}: {len(bundle.files)} files, digest {bundle.digest}")


@plugin_app.command(epilog=examples("apex-exec plugin sign my-plugin-1.0.0.apx --key acme"))
def sign(
    file: Annotated[Path, Argument(metavar="FILE", help="The .apx; it is signed in place.")],
    key: Annotated[str, Option("--key", metavar="NAME|FILE", help="A key made by `keys new`, or its file.")],
    role: Annotated[str, Option("--role", help="author or market.")] = "author",
    as_json: AsJson = False,
    state_dir: StateDir = None,
    config: ConfigFile = None,
) -> None:
    """Signs an .apx in place. Its digest stays the same; signing it twice has the effect of signing it once."""
    import time

    from apex_exec.registry.bundles.bundle import pack as packed
    from apex_exec.registry.bundles.bundle import read_apx
    from apex_exec.registry.trust.signing import open_key, read_signatures, sign_digest, write_signatures

    if role not in ("author", "market"):
        raise BadParameter("the role must be author or market", param_hint="--role")
    private = open_key(state_path(config, state_dir) / "keys", key)
    bundle, had = read_apx(file)
    made = sign_digest(private, role, bundle.digest, time.time_ns())
    kept = [s for s in read_signatures(had) if (s.role, s.key_id) != (made.role, made.key_id)]
    replace_file(file, packed(bundle, write_signatures([*kept, made])))
    show({"file": str(file), "digest": bundle.digest, "role": role, "keyId": made.key_id}, as_json,
         f"{file}: signed as {role} by {made.key_id}, digest {bundle.digest}")
