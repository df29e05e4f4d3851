"""Signatures and keys: who signed what, rotation, revocation, and that each refusal names the check and the mend."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import Bundle, pack, unpack
from apex_exec.registry.trust.signing import (
    Signature,
    key_id_of,
    load_private,
    load_public,
    new_key,
    raw_public,
    read_signatures,
    sign_digest,
    verify_digest,
    write_signatures,
)
from tests.registry.conftest import BEGIN_NS, Stage
from tests.support.bundles import bundle


class Signer:
    """A key pair in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.private = load_private(new_key(folder, name)[0])
        self.public = raw_public(self.private).hex()
        self.key_id = key_id_of(raw_public(self.private))

    def sign(self, made: Bundle, role: str = "author") -> bytes:
        return write_signatures([sign_digest(self.private, role, made.digest, BEGIN_NS)])

    def register(self, stage: Stage, role: str = "author", owner: str = "") -> None:
        stage.run("keys.register", name=self.name, role=role, public_key=self.public, owner=owner)


@pytest.fixture
def acme(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "keys", "acme")


def test_a_key_is_written_once_private_to_its_owner_and_an_exposed_one_is_refused(tmp_path: Path) -> None:
    path, key_id = new_key(tmp_path, "acme")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and key_id == key_id_of(load_public(tmp_path / "acme.pub"))
    for call, reason in ((lambda: new_key(tmp_path, "acme"), "key_exists"),
                         (lambda: new_key(tmp_path, "../x"), "bad_name")):
        with pytest.raises(Refusal) as caught:
            call()
        assert caught.value.reason == reason
    path.chmod(0o644)
    with pytest.raises(Refusal) as caught:
        load_private(path)
    assert caught.value.reason == "key_exposed" and "chmod 600" in caught.value.hint


def test_a_pair_that_cannot_be_written_leaves_no_half_of_it(tmp_path: Path) -> None:
    (tmp_path / "other.pub").write_text("somebody else's")
    with pytest.raises(Refusal) as caught:
        new_key(tmp_path, "other")
    assert caught.value.reason == "key_exists" and [p.name for p in tmp_path.iterdir()] == ["other.pub"]
    code = ("import pathlib, resource, sys\nfrom apex_exec.errors import Refusal\n"
            "from apex_exec.registry.trust.signing import new_key\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))\n"
            "try:\n    new_key(pathlib.Path(sys.argv[1]), 'acme')\nexcept Refusal as error:\n    print(error.reason)\n")
    for room in (0, 100):  # for nothing, and for a part of the private key
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "keys"), str(room)], capture_output=True,
                              text=True, timeout=30)
        assert done.stdout == "unwritable\n", done.stderr
        assert not list((tmp_path / "keys").iterdir())
    assert new_key(tmp_path / "keys", "acme")[0].exists()


def test_signing_leaves_the_digest_and_a_signature_is_for_one_digest_role_and_time(acme: Signer) -> None:
    made = bundle()
    signed, data = unpack(pack(made, acme.sign(made)))
    (signature,) = read_signatures(data)
    assert signed.digest == made.digest and verify_digest(acme.public, made.digest, signature)
    assert not verify_digest(acme.public, bundle("other").digest, signature)
    for changed in (Signature("market", signature.key_id, signature.signed_ns, signature.signature),
                    Signature("author", signature.key_id, signature.signed_ns + 1, signature.signature),
                    Signature("author", signature.key_id, signature.signed_ns, "00" * 64)):
        assert not verify_digest(acme.public, made.digest, changed)


@pytest.mark.parametrize("data", [
    b"{", b"[]", b"{}", b'{"signatures": [{"role": "author"}]}', b" " * 20_000,
    json.dumps({"signatures": [{"role": "boss", "keyId": "0" * 32, "signedNs": 1, "signature": ""}]}).encode(),
    json.dumps({"signatures": [{"role": "author", "keyId": "../x", "signedNs": 1, "signature": ""}]}).encode(),
])
def test_a_signature_file_that_cannot_be_read_is_refused(stage: Stage, data: bytes) -> None:
    assert stage.refused("plugin.install", bundle=pack(bundle(), data)).reason == "signature_malformed"


@pytest.mark.parametrize("wanted", ["author", "market"])
def test_a_required_signature_that_is_missing_is_named_with_how_to_mend_it(
        tmp_path: Path, url: str, acme: Signer, wanted: str) -> None:
    stage = Stage(tmp_path / "state", url, security={"require_signature": wanted})
    made = bundle()
    refusal = stage.refused("plugin.install", bundle=pack(made))
    assert refusal.reason == "signature_missing" and f"--role {wanted}" in refusal.hint
    assert "not registered" in stage.refused("plugin.install", bundle=pack(made, acme.sign(made, wanted))).message
    acme.register(stage, wanted)
    assert stage.install(made, acme.sign(made, wanted))["state"] == "installed"
    assert stage.run("plugin.show", id="sample")["signatures"][0]["role"] == wanted


def test_a_market_counter_signature_can_follow_the_registration(tmp_path: Path, url: str, acme: Signer) -> None:
    stage = Stage(tmp_path / "state", url, security={"require_signature": "market"})
    market, made = Signer(tmp_path / "keys", "market"), bundle()
    acme.register(stage)
    market.register(stage, "market")
    assert stage.refused("plugin.install", bundle=pack(made, acme.sign(made))).reason == "signature_missing"
    stage.run("plugin.sign", digest=made.digest, signatures=market.sign(made, "market"))
    assert stage.run("plugin.install", id="sample")["state"] == "installed"


def test_a_forged_signature_is_refused_even_where_none_is_required(stage: Stage, acme: Signer) -> None:
    acme.register(stage)
    made, other = bundle(), bundle("other")
    assert stage.refused("plugin.install", bundle=pack(made, acme.sign(other))).reason == "signature_invalid"
    assert stage.refused("plugin.install", bundle=pack(made, acme.sign(made, "market"))).reason == "signature_invalid"
    assert stage.served == {}


def test_a_key_has_one_role_and_its_times(stage: Stage, acme: Signer) -> None:
    acme.register(stage)
    assert stage.refused("keys.register", name="acme", role="approver", public_key=acme.public).reason == "key_in_use"
    assert not stage.run("keys.register", name="acme", role="author", public_key=acme.public)["changed"]
    assert stage.refused("keys.register", name="x", role="king", public_key="0" * 64).reason == "bad_role"
    assert stage.refused("keys.register", name="x", role="author", public_key="zz").reason == "bad_key"
    stage.later(731 * 86_400)
    refusal = stage.refused("plugin.install", bundle=pack(bundle(), acme.sign(bundle())))
    assert refusal.reason == "key_expired" and "newer key" in refusal.hint


def test_a_changed_author_key_waits_for_approval_while_the_old_version_goes_on(
        stage: Stage, acme: Signer, tmp_path: Path) -> None:
    thief = Signer(tmp_path / "keys", "thief")
    acme.register(stage)
    thief.register(stage)
    stage.install(bundle(), acme.sign(bundle()))
    stage.run("plugin.enable", id="sample")
    new = bundle(version="1.1.0")
    for signatures in (thief.sign(new), b""):
        result = stage.run("plugin.upgrade", bundle=pack(new, signatures))
        assert result["state"] == "pending_approval" and result["waiting"][0]["permission"] == "author-key"
    assert stage.served["sample"].version == "1.0.0" and stage.served["sample"].state == "enabled"
    assert stage.run("plugin.upgrade", bundle=pack(new, acme.sign(new)))["state"] == "enabled"
    assert stage.served["sample"].version == "1.1.0"


def test_a_removed_plugins_id_cannot_be_taken_over_by_another_key(stage: Stage, acme: Signer, tmp_path: Path) -> None:
    acme.register(stage)
    stage.install(bundle(), acme.sign(bundle()))
    stage.run("plugin.remove", id="sample")
    result = stage.install(bundle("mine now"))
    assert result["state"] == "pending_approval" and result["waiting"][0]["permission"] == "author-key"


def test_rotation_keeps_both_keys_until_one_is_revoked_and_revoking_stops_what_it_signed(
        stage: Stage, acme: Signer, tmp_path: Path) -> None:
    newer = Signer(tmp_path / "newer", "acme")
    acme.register(stage)
    newer.register(stage)
    for signer, plugin in ((acme, "first"), (newer, "second")):
        made = bundle(id=plugin)
        stage.install(made, signer.sign(made))
        stage.run("plugin.enable", id=plugin)
    result = stage.run("keys.revoke", name=acme.key_id, reason="laptop stolen")
    assert result["stopped"] == ["first"] and stage.served["first"].state == "quarantined"
    assert "laptop stolen" in stage.served["first"].reason and stage.served["second"].state == "enabled"
    assert stage.refused("plugin.release", id="first").reason == "key_revoked"
    other = bundle(id="third")
    assert stage.refused("plugin.install", bundle=pack(other, acme.sign(other))).reason == "key_revoked"
    assert stage.refused("keys.register", name="acme", role="author", public_key=acme.public).reason == "key_revoked"
    assert stage.run("keys.revoke", name=acme.key_id, reason="again")["revoked"] == []
    mended = bundle(id="first", version="1.0.1")  # the other key of the same author needs approval: it is another key
    assert stage.run("plugin.upgrade", bundle=pack(mended, newer.sign(mended)))["state"] == "pending_approval"
    assert [(k["name"], k["state"]) for k in stage.run("keys.list")["keys"]] in (
        [("acme", "revoked"), ("acme", "active")], [("acme", "active"), ("acme", "revoked")])
