"""``market review``, ``approve`` and ``reject``: the reviewer's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli import connect
from apex_exec.cli.market.common import Reason, ask, show_checks, show_queue
from apex_exec.cli.output import print_json, print_table, say, say_coloured
from apex_exec.cli.plugin.common import StateDir, state_path
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app
from apex_exec.cli.verbs import Argument, BadParameter, Option
from apex_exec.common.words import clean

Submission = Annotated[int, Argument(min=1, help="The submission's number, as `market status` shows it.")]
Reviewer = Annotated[str, Option(help="The reviewer's name; never the author.")]
ApproverKey = Annotated[str, Option("--key", metavar="NAME|FILE", help="The reviewer's own key in the role "
                                                                       "approver; needed once there is one.")]


LONG_MS = 60_000


@market_app.command(epilog=examples(
    "apex-exec market review", "apex-exec market review 7 --reviewer rita", "apex-exec market review 7 --diff",
    "apex-exec market review 7 --source", "apex-exec market review 7 --export ./submission-7"))
def review(submission: Annotated[int, Argument(min=0, help="The submission's number; none: the queue.")] = 0,
           reviewer: Annotated[str, Option(help="Your name, as it is recorded; never the author's.")] = "",
           diff: Annotated[bool, Option("--diff", help="Show the changes since the version that was published "
                                                       "before.")] = False,
           source: Annotated[bool, Option("--source", help="Show the author's files with the findings.")] = False,
           export: Annotated[Path | None, Option("--export", metavar="DIR", help="A new folder that the source is "
                                                                                 "written to.")] = None,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Takes a submission for review and shows what has to be reviewed; or, with --diff, --source or --export, its code.

    Reading takes nothing: the submission stays with its reviewer. Vendored packages are listed, and exported, but not
    printed: their files are those of the wheels that the lock names.
    """
    if diff or source or export is not None:
        _read(submission, diff, source, export, as_json, runtime_dir, config)
        return
    shown = ask(config, runtime_dir, "market.review", submission=submission, reviewer=reviewer)
    if isinstance(shown, list):
        show_queue(shown, as_json)
        return
    show_checks(shown, as_json)
    if not as_json:
        print_table([{"confirm": item, "means": text} for item, text in shown["checklist"].items()],
                    ["confirm", "means"], as_json=False)
        print_table(shown["files"], ["path", "size"], as_json=False)
        if shown.get("vendored"):
            print_table([{**one, "sha256": one["sha256"][:16]} for one in shown["vendored"]],
                        {"name": "vendored package", "version": "version", "licence": "licence", "files": "files",
                         "leftOut": "left out", "wheel": "wheel", "sha256": "sha256"}, as_json=False)
            say("every file in vendor/ is the one that its wheel's list names; whether the wheels are the index's own "
                "is shown by `apex-exec plugin add --check --dir DIR`")


def _read(submission: int, diff: bool, source: bool, export: Path | None, as_json: bool, runtime_dir: str | None,
          config: Path | None) -> None:
    from apex_exec.errors import Refusal
    from apex_exec.market.review import reading
    from apex_exec.registry.bundles.bundle import unpack

    if not submission:
        raise BadParameter("name the submission", param_hint="SUBMISSION")
    with connect.admin(config, runtime_dir) as client:
        given = client.request("market.read", {"submission": submission}, LONG_MS)
        scan = next((check for check in (client.request("market.status", {"submission": submission}, LONG_MS)["result"]
                                         or {}).get("checks", ()) if check["name"] == "scan"), None)
    after, _ = unpack(given["bundle"], is_stored=True)
    before = unpack(given["before"], is_stored=True)[0] if given["before"] else None
    changed = reading.changes(before, after)
    lines = list(reading.difference(before, after)) if diff and before is not None else []
    if as_json:
        print_json({"id": given["id"], "plugin": given["plugin"], "version": given["version"],
                    "digest": given["digest"], "before": given["beforeVersion"], "changes": changed, "diff": lines})
    else:
        against = f"since {given['beforeVersion']}" if before is not None else "no version was published before"
        say(f"{given['plugin']} {given['version']}, digest {given['digest']}: {against}")
        for line in changed:
            say(clean(line))
        say_coloured(lines)
        if source:
            found = reading.findings_by_line([*scan["problems"], *scan["detail"].get("warnings", ())] if scan else [])
            for path in after.files:
                if path not in after.vendored:
                    say(clean(f"--- {path}"))
                    for line in reading.source(after, path, found.get(path, {})):
                        say(clean(line))
    if export is not None:
        if export.exists():
            raise Refusal("exists", f"{export} exists already", hint="name a new folder")
        for path, body in after.files.items():
            (export / path).parent.mkdir(parents=True, exist_ok=True)
            (export / path).write_bytes(body)
        if not as_json:
            say(f"{len(after.files)} files in {export}: do not run them outside the jail")


@market_app.command(epilog=examples("apex-exec market approve 7 --reviewer rita --digest 3f… --confirm-all --reason y"))
def approve(submission: Submission, reviewer: Reviewer, reason: Reason,
            digest: Annotated[str, Option(help="The digest of the bundle that you reviewed.")],
            confirm: Annotated[list[str] | None, Option(help="Confirm an item of the checklist; repeatable.")] = None,
            confirm_all: Annotated[bool, Option("--confirm-all", help="Confirm every item of the checklist.")] = False,
            key: ApproverKey = "", as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None,
            config: ConfigFile = None) -> None:
    """Approves a submission, for exactly these bytes."""
    from apex_exec.market.review.states import CHECKLIST

    shown = ask(config, runtime_dir, "market.approve", submission=submission, reviewer=reviewer, reason=reason,
                digest=digest, checklist=list(CHECKLIST) if confirm_all else confirm or [],
                **_signed(key, config, state_dir, submission, digest, "approved", reason))
    show_checks(shown, as_json)


@market_app.command(epilog=examples("apex-exec market reject 7 --reviewer rita --reason 'sends data out' --changes"))
def reject(submission: Submission, reviewer: Reviewer, reason: Reason,
           digest: Annotated[str, Option(help="The digest that you reviewed; default: as submitted.")] = "",
           changes: Annotated[bool, Option("--changes", help="Ask for changes instead.")] = False,
           key: ApproverKey = "", as_json: AsJson = False, state_dir: StateDir = None, runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Rejects a submission, or asks its author for changes."""
    with connect.admin(config, runtime_dir) as client:
        digest = digest or client.request("market.status", {"submission": submission})["digest"]
        signed = _signed(key, config, state_dir, submission, digest, "changes_requested" if changes else "rejected",
                         reason)
        shown = client.request("market.reject", {"submission": submission, "reviewer": reviewer, "reason": reason,
                                                 "digest": digest, "changes": changes, **signed})
    show_checks(shown, as_json)


def _signed(key: str, config: Path | None, state_dir: str | None, submission: int, digest: str, decision: str,
            reason: str) -> dict[str, str]:
    """The decision, signed with the key of that name or file; empty if no key is named."""
    if not key:
        return {}
    import os
    import time

    from apex_exec.market.review.reviewers import Statement, signed_message
    from apex_exec.registry.trust.signing import key_id_of, open_key, raw_public

    private = open_key(state_path(config, state_dir) / "keys", key)
    text = Statement(submission, digest, decision, reason, os.geteuid(), key_id_of(raw_public(private)),
                     time.time_ns()).text()
    return {"statement": text, "signature": private.sign(signed_message(text)).hex()}
