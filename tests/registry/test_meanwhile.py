"""What loses its right to run while an operation is under way is not brought into service by that operation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import Settings
from apex_exec.registry import specs
from apex_exec.registry.bundles.bundle import pack
from tests.registry.conftest import Stage
from tests.registry.test_approvals import ADMIN, Approver
from tests.registry.test_signing import Signer
from tests.support.bundles import bundle


@pytest.fixture
def acme(tmp_path: Path, stage: Stage) -> Signer:
    made = Signer(tmp_path / "keys", "acme")
    made.register(stage, "author")
    return made


@pytest.fixture
def bob(tmp_path: Path, stage: Stage) -> Approver:
    made = Approver(tmp_path / "keys", "bob")
    made.register(stage, "approver")
    return made


def revoke_key(stage: Stage, _digest: str) -> None:
    stage.run("keys.revoke", name="acme", reason="stolen")


def revoke_version(stage: Stage, digest: str) -> None:
    stage.run("plugin.revokeVersion", digest=digest, reason="malware")


def require(stage: Stage, wanted: str) -> None:
    """The daemon is started again with another ``security.require_signature``."""
    settings = stage.context.settings.model_dump()
    settings["security"]["require_signature"] = wanted
    stage.change(settings=Settings.model_validate(settings))


REVOKED = pytest.mark.parametrize(("revoke", "reason"), [
    (revoke_key, "key_revoked"), (revoke_version, "version_revoked")])
Revoke = Callable[[Stage, str], None]


def meanwhile(stage: Stage, kind: str, act: Callable[[], None]) -> None:
    """``act`` happens while the jail is asked for ``kind``, as administrators' operations do in the other lane."""
    ask = stage.context.ask

    def asked(what: str, params: dict[str, Any], seconds: float) -> Any:
        if what == kind:
            act()
        return ask(what, params, seconds)

    stage.change(ask=asked)


@REVOKED
def test_what_is_revoked_while_it_waits_for_an_approval_is_not_installed_by_it(
        stage: Stage, acme: Signer, bob: Approver, revoke: Revoke, reason: str) -> None:
    made = bundle(**ADMIN)
    assert stage.install(made, acme.sign(made))["state"] == "pending_approval"
    revoke(stage, made.digest)
    assert stage.refused("plugin.approve", **bob.statement(stage)).reason == reason
    assert stage.run("plugin.show", id="sample")["state"] == "pending_approval"
    assert stage.refused("plugin.enable", id="sample").reason == "not_installed"


@REVOKED
def test_what_is_revoked_during_its_installation_is_not_installed(
        stage: Stage, acme: Signer, revoke: Revoke, reason: str) -> None:
    made = bundle()
    meanwhile(stage, "probe", lambda: revoke(stage, made.digest))
    assert stage.refused("plugin.install", bundle=pack(made, acme.sign(made))).reason == reason
    assert stage.refused("plugin.enable", id="sample").reason == "not_installed"


@REVOKED
def test_what_is_revoked_during_its_trial_does_not_replace_the_old_version(
        stage: Stage, acme: Signer, revoke: Revoke, reason: str) -> None:
    old, new = bundle(), bundle("newer", version="1.0.1")
    stage.install(old)
    stage.run("plugin.enable", id="sample")
    meanwhile(stage, "canary", lambda: revoke(stage, new.digest))
    refusal = stage.refused("plugin.upgrade", bundle=pack(new, acme.sign(new)))
    assert refusal.reason == reason
    assert stage.served["sample"].version == "1.0.0"


def test_a_signature_that_the_operator_now_requires_is_missing_at_the_next_enabling_and_the_next_start(
        stage: Stage) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    require(stage, "author")
    specs.reconcile(stage.context)
    shown = stage.run("plugin.show", id="sample")
    assert (shown["state"], shown["reason"].split(":")[0]) == ("disabled", "signature_missing")
    assert stage.refused("plugin.enable", id="sample").reason == "signature_missing"
    require(stage, "none")
    assert stage.run("plugin.enable", id="sample")["state"] == "enabled"


def test_a_key_that_has_only_expired_stops_nothing_at_the_next_start(stage: Stage, acme: Signer) -> None:
    made = bundle()
    stage.install(made, acme.sign(made))
    stage.run("plugin.enable", id="sample")
    require(stage, "author")
    stage.later(86_400 * 4000)
    specs.reconcile(stage.context)
    assert stage.run("plugin.show", id="sample")["state"] == "enabled"


def test_a_revoked_version_stays_revoked_when_its_plugin_is_removed(stage: Stage) -> None:
    made = bundle()
    stage.install(made)
    revoke_version(stage, made.digest)
    stage.run("plugin.remove", id="sample")
    assert stage.refused("plugin.install", bundle=pack(made)).reason == "version_revoked"
    stage.install(bundle("newer", version="1.0.1"))
    assert stage.run("plugin.enable", id="sample")["state"] == "enabled"


def test_a_signature_that_was_kept_before_its_key_was_known_is_not_taken_on_trust(
        stage: Stage, tmp_path: Path) -> None:
    """A forger names a key that will be registered; nothing can be verified yet."""
    made = bundle()
    good = Signer(tmp_path / "keys", "good")
    forged = good.sign(bundle("another"))
    stage.install(made, forged)
    stage.run("plugin.enable", id="sample")
    good.register(stage)
    require(stage, "author")
    specs.reconcile(stage.context)
    assert stage.run("plugin.show", id="sample")["state"] == "disabled"
