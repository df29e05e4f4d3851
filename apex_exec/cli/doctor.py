"""``doctor``: what this machine can enforce, tried layer by layer, and the isolation level that results."""

from __future__ import annotations

import os
from typing import Any

import typer

from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.root import EXIT_NO, EXIT_USAGE, AsJson, ConfigFile, app, examples, fail

MEANS = {
    "L4": "hostile code is confined, and its memory and CPU are capped by the kernel",
    "L3": "hostile code is confined; memory and CPU are sampled and stopped",
    "L2": "hostile code reaches no file, network or process; what lies on a path can still be found out",
    "L1": "system calls are filtered; not accepted unless sandbox.min_level says so",
    "L0": "limits only: no boundary against hostile code",
    "": "not even limits and deadlines can be held",
}


@app.command(epilog=examples("apex-exec doctor", "apex-exec doctor --json | jq .level",
                             "apex-exec doctor --config /etc/apex-exec.toml && systemctl start apex-exec"))
def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Tries every sandbox layer in a throwaway process, as this user, and says what is missing and what to change.

    Exits 0 where the level reached is at least sandbox.min_level, else 1.
    """
    from apex_exec.config import load_settings
    from apex_exec.errors import ConfigError

    try:
        settings = load_settings(config)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    try:
        found = examine(settings)
    except RuntimeError as error:
        fail(str(error), EXIT_NO)
    if as_json:
        print_json(found)
    else:
        show(found)
    if not found["ok"]:
        raise typer.Exit(EXIT_NO)


def examine(settings: Any) -> dict[str, Any]:
    """Everything ``doctor`` tells, as data. Blocks for a fifth of a second. Raises RuntimeError."""
    from apex_exec.daemon.sandboxing import examine as probed

    findings, governor = probed(settings)
    from apex_exec.sandbox.probe import advice

    layers = [{"layer": r.layer, "state": r.state, "errno": errno_name(r.errno), "detail": r.detail,
               "change": advice(r) if r.state != "waived" else "take it out of sandbox.waive"}
              for r in findings.reports]
    wanted = settings.sandbox.min_level
    return {"level": findings.level or None, "means": MEANS[findings.level], "minLevel": wanted,
            "ok": bool(findings.accepted_level) and findings.accepted_level >= wanted, "waived": findings.waived,
            "user": os.geteuid(), "governor": governor, "layers": layers}


def errno_name(number: int) -> str | None:
    """``EPERM`` for 1; None for 0."""
    import errno

    return errno.errorcode.get(number, str(number)) if number else None


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    print_table(found["layers"], {"layer": "LAYER", "state": "STATE", "errno": "ERRNO", "detail": "WHAT", "change":
                                  "WHAT TO CHANGE"}, as_json=False)
    say(f"\nisolation level {found['level'] or 'none'} as uid {found['user']}: {found['means']}")
    say(f"memory and CPU are {found['governor']}"
          + ("" if found["governor"] == "enforced" else ": stopped when seen over the limit"))
    if found["waived"]:
        say(f"waived by sandbox.waive: {', '.join(found['waived'])}")
    if not found["ok"]:
        say(f"serve would refuse: sandbox.min_level is {found['minLevel']}")
