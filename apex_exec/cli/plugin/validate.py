"""``plugin validate``: checks everything that an installation would check, without installing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, say
from apex_exec.cli.plugin.common import ask, looks_like_path, say_findings, settings_with_hooks
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, examples, fail, need_linux, plugin_app
from apex_exec.cli.verbs import Argument, Exit, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.config import Settings
    from apex_exec.registry.bundles.bundle import Bundle


@plugin_app.command(epilog=examples(
    "apex-exec plugin validate ./my-plugin", "apex-exec plugin validate my-plugin-1.0.0.apx --sarif > scan.sarif",
    "apex-exec plugin validate hello-world"))
def validate(
    target: Annotated[str, Argument(metavar="ID|DIR|FILE", help="A bundle, or the id of a registered plugin.")],
    as_json: AsJson = False,
    sarif: Annotated[bool, Option("--sarif", help="Print the scan's findings as SARIF 2.1.0.")] = False,
    runtime_dir: RuntimeDir = None,
    config: ConfigFile = None,
) -> None:
    """Checks manifest, files, policy, scan, and that the code declares what the manifest does (loaded in the jail).

    The verdict is the same as that of `plugin install`. A folder or file needs no daemon; an id asks the running one.
    Any error ends with status 1.
    """
    from apex_exec.errors import Refusal
    from apex_exec.registry.bundles.bundle import read_path
    from apex_exec.registry.scan.scanner import scan

    settings = settings_with_hooks(config)
    enforced = settings.security.scan == "enforce"
    if not looks_like_path(target) and not Path(target).exists():
        if not connect.is_running(config, runtime_dir):
            fail(f"there is no folder or file {target!r} here, and no daemon to ask for a plugin of that name; "
                 "name a bundle, or start one with `apex-exec serve`", EXIT_NO)
        _show(ask(config, runtime_dir, "plugin.validate", {"id": target}, slow=True), as_json)
        return
    try:
        bundle, _ = read_path(Path(target))
    except Refusal as error:
        if as_json:
            print_json({"ok": False, "reason": error.reason, "message": error.message, "problems": error.problems})
            raise Exit(EXIT_NO) from None
        for problem in error.problems if len(error.problems) > 1 else ():
            hint = f" ({problem['hint']})" if problem["hint"] else ""
            say(clean(f"{problem['path']}: {problem['code']}: {problem['message']}{hint}"))
        raise
    report = scan(bundle.files, bundle.manifest, extra_modules=tuple(settings.sandbox.extra_modules))
    if sarif:
        print_json(report.as_sarif(), raw=True)
        raise Exit(EXIT_NO if report.errors and enforced else 0)
    problems = _declared(bundle, settings)
    notes = [*bundle.manifest.limits.without_effect(settings.limits.policy()), *bundle.maps.check()]
    result = {"id": bundle.manifest.id, "version": bundle.manifest.version, "digest": bundle.digest,
              "files": len(bundle.files), "problems": problems, "notes": notes,
              "ok": not (problems or (report.errors and enforced))}
    if as_json:
        print_json({**result, "scan": report.as_json()})
    else:
        say(clean(report.text()))
        for problem in problems:
            say(clean(f"{problem['path']}: {problem['code']}: {problem['message']} ({problem['hint']})"))
        for note in notes:
            say(clean(note))
        word = "valid" if result["ok"] else "not valid"
        say(f"{result['id']} {result['version']}: {result['files']} files, digest {result['digest']}: {word}")
    raise Exit(0 if result["ok"] else EXIT_NO)


def _declared(bundle: Bundle, settings: Settings) -> list[dict[str, Any]]:
    """The policy's and the code's problems; the code is loaded in a jailed worker of a zygote that is thrown away."""
    need_linux()
    from apex_exec.errors import Refusal
    from apex_exec.registry.bundles.checks import declared_problems
    from apex_exec.registry.trials.one_shot_worker import declared_by
    from apex_exec.registry.trust.policy_file import Policy

    problems = Policy.read(settings.security.policy_file).check(bundle.manifest)
    try:
        return problems + declared_problems(bundle.manifest, declared_by(bundle, settings))
    except Refusal as error:
        return [*problems, {"code": error.reason, "path": bundle.entrypoint, "message": error.message,
                            "hint": error.hint}]


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    say_findings(result["scan"])
    say(f"{result['id']} {result['version']}: digest {result['digest']}: valid")
