"""Approvals: bound to plugin, digest and permission, signed, reasoned, in time, and in force at the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.errors import Refusal
from apex_exec.registry import store as db_
from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.specs import commit
from apex_exec.registry.trust import approvals
from apex_exec.registry.trust.approvals import TRANSITIONS, Statement, signed_message
from tests.registry.conftest import SECOND_NS, Stage
from tests.registry.test_signing import Signer
from tests.support.bundles import bundle

ADMIN: dict[str, Any] = {"permissions": ["admin:users", "ui:render"]}
DAY_NS = 86_400 * SECOND_NS


class Approver(Signer):
    """Somebody who decides."""

    def statement(self, stage: Stage, decision: str = "approve", plugin: str = "sample",
                  permission: str = "admin:users", **changes: Any) -> dict[str, str]:
        request = stage.run("plugin.request", id=plugin, permission=permission)
        made = Statement(
            request=request["request"], plugin=plugin, version=request["version"], digest=request["digest"],
            permission=permission, decision=decision, reason="ticket 4711", uid=1000, key_id=self.key_id,
            at_ns=stage.now_ns, expires_ns=stage.now_ns + 90 * DAY_NS if decision == "approve" else 0)
        text = msgspec.structs.replace(made, **changes).text()
        return {"id": plugin, "statement": text, "signature": self.private.sign(signed_message(text)).hex()}

    def decide(self, stage: Stage, decision: str = "approve", **changes: Any) -> Any:
        return stage.run(f"plugin.{decision}", **self.statement(stage, decision, **changes))


@pytest.fixture
def bob(tmp_path: Path, stage: Stage) -> Approver:
    made = Approver(tmp_path / "keys", "bob")
    made.register(stage, "approver")
    return made


def test_an_admin_permission_waits_for_an_approval_and_the_install_then_goes_on_by_itself(
        stage: Stage, bob: Approver) -> None:
    result = stage.install(bundle(**ADMIN))
    assert result["state"] == "pending_approval" and [w["permission"] for w in result["waiting"]] == ["admin:users"]
    assert stage.served["sample"].state == "pending_approval"
    assert stage.refused("plugin.enable", id="sample").reason == "not_installed"
    made = bob.decide(stage)
    assert (made["state"], made["next"], made["uid"], made["reason"]) == ("approved", "installed", 1000, "ticket 4711")
    stage.run("plugin.enable", id="sample")
    assert stage.served["sample"].approved == ("admin:users",)


def test_a_denial_stands_and_an_approval_can_be_taken_back(stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))
    assert bob.decide(stage, "deny")["state"] == "denied"
    assert stage.refused("plugin.install", id="sample").reason == "approval_denied"
    with pytest.raises(Refusal) as caught:
        bob.decide(stage, "approve")
    assert caught.value.reason == "invalid_transition"
    stage.install(bundle(**ADMIN, version="1.0.1"))
    bob.decide(stage)
    stage.run("plugin.enable", id="sample")
    bob.decide(stage, "revoke")
    spec = stage.served["sample"]
    assert spec.approved == () and spec.state == "enabled"  # it runs, and calls that need it are refused


def test_the_same_decision_twice_is_as_once(stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))
    given = bob.statement(stage)
    first = stage.run("plugin.approve", **given)
    assert stage.run("plugin.approve", **given)["state"] == first["state"] == "approved"


@pytest.mark.parametrize(("changes", "reason"), [
    ({"uid": 0}, "wrong_uid"), ({"reason": " "}, "reason_missing"), ({"request": 99}, "approval_not_found"),
    ({"permission": "admin:billing"}, "approval_not_found"), ({"plugin": "other"}, "approval_not_found"),
    ({"version": "9.9.9"}, "approval_not_found"), ({"digest": "0" * 64}, "version_not_found"),
    ({"at_ns": 1}, "statement_stale"), ({"expires_ns": 1}, "bad_expiry"),
    ({"expires_ns": 2_000_000_000 * SECOND_NS}, "bad_expiry"), ({"key_id": "0" * 32}, "not_an_approver"),
    ({"decision": "deny"}, "statement_malformed"),
])
def test_a_statement_that_is_not_exactly_right_is_refused_and_changes_nothing(
        stage: Stage, bob: Approver, changes: dict[str, Any], reason: str) -> None:
    stage.install(bundle(**ADMIN))
    given = bob.statement(stage)
    made = msgspec.structs.replace(msgspec.json.decode(given["statement"], type=Statement), **changes).text()
    signature = bob.private.sign(signed_message(made)).hex()
    assert stage.refused("plugin.approve", id="sample", statement=made, signature=signature).reason == reason
    assert stage.run("plugin.show", id="sample")["approvals"][0]["state"] == "requested"


def test_only_a_registered_approvers_own_signature_counts(stage: Stage, bob: Approver, tmp_path: Path) -> None:
    stage.install(bundle(**ADMIN))
    given = bob.statement(stage)
    assert stage.refused("plugin.approve", **{**given, "signature": "00" * 64}).reason == "signature_invalid"
    mallory = Approver(tmp_path / "keys", "mallory")
    assert stage.refused("plugin.approve", **mallory.statement(stage)).reason == "not_an_approver"
    mallory.register(stage, "author")
    assert stage.refused("plugin.approve", **mallory.statement(stage)).reason == "not_an_approver"
    spaced = given["statement"].replace(",", ", ", 1)
    assert stage.refused("plugin.approve", **{**given, "statement": spaced}).reason == "statement_malformed"
    for broken in ("{", "[]", "x" * 10_000):
        assert stage.refused("plugin.approve", **{**given, "statement": broken}).reason == "statement_malformed"


@pytest.mark.parametrize("owner", ["ACME Corp", "acme corp", "Acme"])
def test_an_approver_is_not_the_author(stage: Stage, tmp_path: Path, owner: str) -> None:
    author = Signer(tmp_path / "a", "acme")
    author.register(stage, owner="Acme")
    made = bundle(**ADMIN)
    stage.install(made, author.sign(made))
    same = Approver(tmp_path / "b", "somebody")
    same.register(stage, "approver", owner)
    assert stage.refused("plugin.approve", **same.statement(stage)).reason == "approver_is_author"


def test_an_approval_ends_in_time_and_is_asked_for_anew(stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))
    bob.decide(stage, expires_ns=stage.now_ns + 60 * SECOND_NS)
    stage.run("plugin.enable", id="sample")
    assert stage.context.store.transact(lambda db: approvals.lasting(db, stage.now_ns)) == {1: ("sample", True)}
    stage.later(60)
    with stage.context.lock:  # as the registrar does once a second
        commit(stage.context, lambda db: approvals.expire(db, stage.now_ns), lambda plugins: plugins)
    assert stage.served["sample"].approved == ()
    assert stage.run("plugin.show", id="sample")["approvals"][0]["state"] == "expired"
    bob.decide(stage)
    assert stage.served["sample"].approved == ("admin:users",)
    assert [a["state"] for a in stage.run("plugin.show", id="sample")["approvals"]] == ["expired", "approved"]


def test_revoking_an_approvers_key_ends_what_it_approved(stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))
    bob.decide(stage)
    stage.run("plugin.enable", id="sample")
    assert stage.run("keys.revoke", name="bob", reason="left")["approvalsEnded"] == ["sample"]
    assert stage.served["sample"].approved == () and stage.served["sample"].state == "enabled"
    assert stage.refused("plugin.approve", **bob.statement(stage)).reason == "key_revoked"


def test_an_approval_is_for_one_digest_and_a_version_that_asks_for_more_waits_beside_the_old_one(
        stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))
    bob.decide(stage)
    stage.run("plugin.enable", id="sample")
    new = bundle(version="1.1.0", permissions=["admin:users", "system:config", "ui:render"])
    result = stage.run("plugin.upgrade", bundle=pack(new))
    assert [w["permission"] for w in result["waiting"]] == ["admin:users", "system:config"]
    assert result["difference"] == {"added": ["system:config"], "removed": []}
    assert (stage.served["sample"].version, stage.served["sample"].approved) == ("1.0.0", ("admin:users",))
    assert bob.decide(stage)["next"] == "waiting"
    assert bob.decide(stage, permission="system:config")["next"] == "upgraded"
    spec = stage.served["sample"]
    assert (spec.version, spec.approved) == ("1.1.0", ("admin:users", "system:config"))


def test_what_is_not_asked_for_cannot_be_approved(stage: Stage, bob: Approver) -> None:
    stage.install(bundle())
    assert stage.refused("plugin.request", id="sample", permission="admin:users").reason == "permission_not_requested"


def test_every_move_that_the_table_does_not_have_is_refused(stage: Stage, bob: Approver) -> None:
    stage.install(bundle(**ADMIN))

    def attempt(state: str, wanted: str) -> str:
        def work(db: Any) -> str:
            row = db_.list_approvals(db)[0]
            db_.change_approval(db, row.id, state=state)
            approvals.move(db, db_.list_approvals(db)[0], wanted)
            return db_.list_approvals(db)[0].state
        return stage.context.store.transact(work)

    for state, allowed in TRANSITIONS.items():
        for wanted in TRANSITIONS:
            if wanted in allowed:
                assert attempt(state, wanted) == wanted
            else:
                with pytest.raises(Refusal) as caught:
                    attempt(state, wanted)
                assert caught.value.reason == "invalid_transition"
