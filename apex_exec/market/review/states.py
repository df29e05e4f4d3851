"""The review of a submission as a table of legal moves, and who may make them. Pure.

A submission is bound to one bundle digest: changed bytes are a new submission.
"""

from __future__ import annotations

from typing import Literal

from apex_exec.errors import Code, Refusal

State = Literal["draft", "submitted", "scanning", "in_review", "approved", "changes_requested", "rejected",
                "staged", "halted", "published", "deprecated", "revoked"]

MOVES: dict[str, tuple[str, ...]] = {
    "draft": ("submitted",),
    "submitted": ("scanning",),
    "scanning": ("in_review", "changes_requested"),
    "in_review": ("approved", "changes_requested", "rejected"),
    "changes_requested": ("submitted",),
    "approved": ("staged", "published"),
    "rejected": (),
    "staged": ("published", "halted", "revoked"),
    "halted": ("staged", "published", "revoked"),
    "published": ("halted", "deprecated", "revoked"),
    "deprecated": ("revoked",),
    "revoked": (),
}
"""state → the states that may follow. ``scanning → changes_requested`` is the machine's own refusal;
``changes_requested → submitted`` tries the same bytes again (a support contact was missing, a coverage run hit its time
limit). A version that is ``staged`` is offered to a share of the customers; one that is ``halted`` to nobody, until
somebody resumes it."""

OFFERED = {"published": 4, "staged": 3, "deprecated": 2, "halted": 1, "revoked": 0}
"""The states of a version that was put on offer, in any way, and which of a plugin's versions speaks for it: that with
the highest number here."""

QUEUED = ("submitted", "scanning", "in_review")
"""The states that wait for us, and so have a place in the queue."""

CHECKLIST: dict[str, str] = {
    "permissions": "every requested permission serves the purpose that the README states",
    "data": "user data goes only where the README says",
    "behaviour": "the code does what it claims, and nothing hidden",
    "tests": "the tests test, and none of them tampers with the measurement",
    "readme": "set-up and examples were followed and work",
}
"""What a reviewer confirms, item by item; an approval needs all of them."""


def check_move(state: str, target: str) -> None:
    """Raises Refusal("invalid_transition") if ``target`` may not follow ``state``; changes nothing."""
    if target not in MOVES.get(state, ()):
        legal = ", ".join(MOVES.get(state, ())) or "nothing"
        raise Refusal("invalid_transition", f"a submission that is {state} cannot become {target}; it may become "
                      f"{legal}", code=Code.CONFLICT, details={"state": state, "target": target})


def check_reviewer(reviewer: str, author: str, submitter: str) -> None:
    """Raises Refusal("reviewer_is_author") if people would review their own plugin."""
    if not reviewer.strip():
        raise Refusal("reviewer_missing", "a review needs the reviewer's name", code=Code.INVALID_INPUT,
                      hint="name yourself with --reviewer")
    if same_person(reviewer, author) or same_person(reviewer, submitter):
        raise Refusal("reviewer_is_author", f"{reviewer} is the author or submitted it; somebody else must review it")


def check_decision(target: str, reason: str, checklist: list[str]) -> None:
    """Raises Refusal if a decision has no reason, or an approval leaves items of the checklist open."""
    if not reason.strip():
        raise Refusal("reason_missing", "a decision needs a reason, which the author reads", code=Code.INVALID_INPUT,
                      hint="give it with --reason")
    unknown = [item for item in checklist if item not in CHECKLIST]
    if unknown:
        raise Refusal("checklist_invalid", f"{unknown[0][:40]!r} is not an item of the checklist; the items are "
                                           f"{', '.join(CHECKLIST)}",
                      code=Code.INVALID_INPUT)
    missing = [item for item in CHECKLIST if item not in checklist]
    if target == "approved" and missing:
        raise Refusal("checklist_incomplete", f"not confirmed: {', '.join(missing)}", hint="; ".join(
            f"{item}: {CHECKLIST[item]}" for item in missing))


def same_person(one: str, other: str) -> bool:
    """Whether two names differ only in case and spaces."""
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())
