"""What a bundle must pass before it is installed: policy, signature, scan, and code that agrees with its manifest.

The supervisor loads the code in a jailed worker (``ask`` kind ``probe``); the process that asks never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.errors import Code, Refusal, WireError
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.scan.findings import Report
from apex_exec.registry.trust.policy_file import Policy
from apex_exec.wire import hooks

if TYPE_CHECKING:
    from apex_exec.registry.context import Context  # SQLAlchemy, which `plugin validate` can do without

PROBE_SECONDS = 60.0
NOBODY = "00000000-0000-4000-8000-000000000000"
"""The user of a canary call: no row of the platform belongs to this user."""

def declared_problems(manifest: Manifest, declared: dict[str, Any]) -> list[dict[str, Any]]:
    """One problem for each difference between the manifest and what the loaded code declares."""
    problems: list[dict[str, Any]] = []
    for key, path, wanted, found in (
        ("hooks", "$.manifest.hooks", set(manifest.manifest.hooks), set(declared.get("hooks", ()))),
        ("permissions", "$.permissions", set(manifest.permissions), set(declared.get("permissions", ()))),
    ):
        singular = key[:-1]
        problems += [{"code": f"{singular}_not_in_code", "path": path, "hint": f"add it to the code, or remove {item}",
                      "message": f"the manifest declares {item}, but the code does not"}
                     for item in sorted(wanted - found)]
        problems += [{"code": f"{singular}_not_in_manifest", "path": path, "hint": f"add {item} to the manifest",
                      "message": f"the code declares {item[:60]}, but the manifest does not"}
                     for item in sorted(found - wanted)]
    if declared.get("version") not in (None, manifest.version):
        problems.append({"code": "version_differs", "path": "$.version", "hint": "give both the same version",
                         "message": f"the code declares version {str(declared['version'])[:20]}, but "
                                    f"the manifest {manifest.version}"})
    return problems


def check_declared(ctx: Context, bundle: Bundle) -> None:
    """Loads the bundle in the jail and compares. Raises Refusal("load_failed" or "declaration_differs")."""
    spec = msgspec.to_builtins(bundle.spec(ctx.limits))
    try:
        declared = ctx.ask("probe", {"spec": spec, "files": bundle.loaded}, PROBE_SECONDS)
    except Refusal as error:
        if error.reason == "overloaded":
            raise
        raise Refusal("load_failed", bundle.in_source(
            f"{bundle.manifest.id} could not be loaded in its sandbox: {error.message}"),
                      hint="`apex-exec plugin validate DIR` shows the same; mend the code",
                      details=error.details) from None
    if problems := declared_problems(bundle.manifest, declared):
        lines = "; ".join(problem["message"] for problem in problems)
        raise Refusal("declaration_differs", f"{bundle.manifest.id}: {lines}", hint=problems[0]["hint"],
                      problems=problems)


def in_source(ctx: Context, digest: str, text: str) -> str:
    """``text``, which the supervisor says of the bundle ``digest``, with places as those of its author's source."""
    try:
        return ctx.blobs.read(digest).in_source(text)
    except Refusal:  # the text is true without it
        return text


def check_policy(ctx: Context, manifest: Manifest) -> None:
    """Raises Refusal("policy_denied") with every permission that the operator's policy does not allow."""
    if problems := Policy.read(ctx.settings.security.policy_file).check(manifest):
        lines = "; ".join(problem["message"] for problem in problems)
        raise Refusal("policy_denied", lines, hint=problems[0]["hint"], problems=problems)


def check_scan(ctx: Context, bundle: Bundle) -> Report:
    """The scan's report. Raises Refusal("scan_failed") for errors if ``security.scan = "enforce"``."""
    report = ctx.scan(bundle.files, bundle.manifest)
    if report.errors and ctx.settings.security.scan == "enforce":
        first = report.errors[0]
        more = f" (and {len(report.errors) - 1} more)" if len(report.errors) > 1 else ""
        raise Refusal("scan_failed", f"{first.path}:{first.line}: {first.message} [{first.rule}]{more}",
                      hint=f"{first.fix}; `apex-exec plugin validate` shows all", problems=report.problems(),
                      code=Code.REFUSED)
    return report


def canary_call(manifest: Manifest, hook: str | None, payload: dict[str, Any] | None,
               user: str | None) -> dict[str, Any]:
    """The call that a new generation, or a live plugin, is tried with: {} if ``hook`` is "none". Raises Refusal for a
    payload or a user that no host could send: the plugin is not to blame for what it makes of them."""
    if hook == "none":
        return {}
    declared = manifest.manifest.hooks
    if hook is not None and hook not in declared:
        raise Refusal("hook_not_declared", f"{manifest.id} does not declare {hook!a}", code=Code.INVALID_INPUT,
                      hint=f"one of {', '.join(declared)}, or none")
    name = hook or next(one for one in HOOKS if one in declared)
    try:
        caller = hooks.check_user(user or NOBODY)
        if payload is not None:
            hooks.check_payload(name, msgspec.Raw(msgspec.msgpack.encode(payload)), caller)
    except WireError as error:
        raise Refusal("bad_trial", f"{name}: {error.message}", code=Code.INVALID_INPUT, details=error.details,
                      hint="`apex-exec schema` has what each hook takes") from None
    return {"hook": name, "payload": HOOKS[name].sample if payload is None else payload, "userId": caller}
