"""``doctor``: what this machine can enforce, tried layer by layer, and the isolation level that results."""

from __future__ import annotations

import os
from typing import Any

from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.root import EXIT_NO, EXIT_USAGE, AsJson, ConfigFile, app, examples, fail, need_linux
from apex_exec.cli.verbs import Exit

MEANS = {
    "L4": "hostile code is confined, and its memory and CPU are capped by the kernel",
    "L3": "hostile code is confined; memory and CPU are sampled and stopped",
    "L2": "hostile code reaches no file, network or process, but can still find out which paths exist",
    "L1": "system calls are filtered; not accepted unless sandbox.min_level says so",
    "L0": "limits only: no boundary against hostile code",
    "": "not even limits and deadlines can be enforced",
}


@app.command(epilog=examples("apex-exec doctor", "apex-exec doctor --json | jq .level",
                             "apex-exec doctor --config /etc/apex-exec.toml && systemctl start apex-exec"))
def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Tries every sandbox layer in a throwaway process, as this user, and says what is missing and what to change.

    It also starts a zygote, the process that workers are forked from. Exits 0 if workers
    can be started and the level that is reached is at least sandbox.min_level, else 1.
    """
    need_linux()
    from apex_exec.config import load_settings
    from apex_exec.errors import ConfigError

    try:
        settings = load_settings(config)
        found = examine(settings)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except RuntimeError as error:
        fail(str(error), EXIT_NO)
    if as_json:
        print_json(found)
    else:
        show(found)
    if not found["ok"]:
        raise Exit(EXIT_NO)


def examine(settings: Any) -> dict[str, Any]:
    """Everything that ``doctor`` reports, as data. Blocks for half a second. Raises RuntimeError, ConfigError."""
    from apex_exec import extras
    from apex_exec.daemon.settings_checks import check_extras
    from apex_exec.executor.jails import examine as probed
    from apex_exec.executor.jails import extra_modules_hint
    from apex_exec.executor.processes.runtimes import JAVASCRIPT, RUNTIMES, boot
    from apex_exec.executor.processes.zygote_link import try_zygote
    from apex_exec.sandbox.modules import check_modules

    check_modules(settings.sandbox.extra_modules)
    check_extras(settings)
    findings, governor = probed(settings)
    cannot, lacking = try_zygote(boot(findings.plan, settings.sandbox.extra_modules))
    from apex_exec.sandbox.probe import advice

    layers = [{"layer": r.layer, "state": r.state, "errno": errno_name(r.errno), "detail": r.detail,
               "change": advice(r) if r.state != "waived" else "take it out of sandbox.waive"}
              for r in findings.reports]
    wanted = settings.sandbox.min_level
    return {"level": findings.level or None, "means": MEANS[findings.level], "minLevel": wanted,
            "ok": not cannot and bool(findings.accepted_level) and findings.accepted_level >= wanted,
            "waived": findings.waived, "zygote": cannot and cannot + extra_modules_hint(settings),
            "user": os.geteuid(), "governor": governor, "layers": layers,
            "runtimes": {name: lacking.get(name, cannot) for name in RUNTIMES},
            "engine": None if cannot or JAVASCRIPT.name in lacking else _engine(), "extras": extras.listing()}


def _engine() -> dict[str, Any] | None:
    """How fast the JavaScript engine was built, and how to build it faster; None if that could not be measured."""
    from apex_exec.executor.processes.engine_speed import BUILD, measure

    speed = measure()
    return speed and {"tenMillionTurnsMs": round(speed.turn_ns * 10, 1), "slow": speed.slow,
                      "change": BUILD if speed.slow else ""}


def errno_name(number: int) -> str | None:
    """``EPERM`` for 1; None for 0."""
    import errno

    return errno.errorcode.get(number, str(number)) if number else None


def show(found: dict[str, Any]) -> None:
    """Prints the same for people."""
    from apex_exec.extras import in_words

    print_table(found["layers"], {"layer": "LAYER", "state": "STATE", "errno": "ERRNO", "detail": "WHAT", "change":
                                  "WHAT TO CHANGE"}, as_json=False)
    say(f"\nisolation level {found['level'] or 'none'} as uid {found['user']}: {found['means']}")
    say(f"memory and CPU are {found['governor']}"
          + ("" if found["governor"] == "enforced" else ": stopped when seen over the limit"))
    say(f"plugins may be written in {', '.join(name for name, why in found['runtimes'].items() if not why)}")
    for name, why in found["runtimes"].items():
        if why:
            say(f"plugins in {name} are not available: {why}")
    if engine := found["engine"]:
        say(f"the JavaScript engine takes {engine['tenMillionTurnsMs']:g} ms for ten million turns of an empty loop: "
            + (f"it is the slow build; to compile the fast one: {engine['change']}" if engine["slow"]
               else "it is the fast build"))
    say(in_words())
    if found["waived"]:
        say(f"waived by sandbox.waive: {', '.join(found['waived'])}")
    if found["zygote"]:
        say(f"serve would refuse: the zygote, which workers are forked from, cannot run: {found['zygote']}")
    elif not found["ok"]:
        say(f"serve would refuse: sandbox.min_level is {found['minLevel']}")
