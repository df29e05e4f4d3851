"""Keys that a command signs with: what it signs counts as any signature, and nothing else that it writes does."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from apex_exec.cli.run import run
from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import pack, read_apx
from apex_exec.registry.trust.signers import Signer
from apex_exec.registry.trust.signing import (
    key_id_of,
    load_public,
    new_key,
    new_signer,
    open_key,
    read_signatures,
    sign_digest,
    verify_digest,
)
from tests.support.bundles import bundle

HSM = '''
import base64, hashlib, sys, time
from pathlib import Path

from apex_exec.registry.trust.signing import load_private

how, key = sys.argv[1:]
message = sys.stdin.buffer.read()
if how == "hash":
    message = hashlib.sha512(message).digest()
if how == "sleeps":
    time.sleep(60)
if how == "fails":
    sys.exit("two lines\\nthe token is not there")
made = load_private(Path(key)).sign(message)
write = {"hex": lambda: made.hex().encode() + b"\\n", "base64": lambda: base64.encodebytes(made), "raw": lambda: made,
         "hash": lambda: made, "none": lambda: b"", "long": lambda: made * 100_000,
         "cut": lambda: made.hex()[:126].encode()}
sys.stdout.buffer.write(write[how]())
'''


@pytest.fixture
def hsm(tmp_path: Path) -> Path:
    """Where the key really is; ``hsm.py`` signs with it."""
    place = tmp_path / "hsm"
    new_key(place, "inside")
    (place / "hsm.py").write_text(HSM)
    return place


def command(hsm: Path, how: str, key: str = "inside") -> list[str]:
    return [sys.executable, str(hsm / "hsm.py"), how, str(hsm / f"{key}.key")]


@pytest.mark.parametrize("how", ["raw", "hex", "base64"])
def test_what_a_command_signs_counts_as_any_signature(hsm: Path, tmp_path: Path, how: str) -> None:
    public = load_public(hsm / "inside.pub")
    path, key_id = new_signer(tmp_path / "keys", "acme", command(hsm, how), public)
    assert key_id == key_id_of(public) and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_public(tmp_path / "keys" / "acme.pub") == public
    for name in ("acme", str(path)):
        made = sign_digest(open_key(tmp_path / "keys", name), "author", "ab" * 32, 7)
        assert verify_digest(public.hex(), "ab" * 32, made) and made.key_id == key_id


@pytest.mark.parametrize(("how", "says"), [
    *((how, "did not write a signature by the key") for how in ("hash", "none", "long", "cut")),
    ("fails", "ended with status 1: the token is not there")])
def test_what_is_no_signature_is_refused_and_nothing_is_left(hsm: Path, tmp_path: Path, how: str, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        new_signer(tmp_path / "keys", "acme", command(hsm, how), load_public(hsm / "inside.pub"))
    assert caught.value.reason == "signer_failed" and says in caught.value.message and caught.value.hint
    assert not (tmp_path / "keys").exists()


def test_a_command_that_does_not_end_is_waited_for_in_bounds(hsm: Path, tmp_path: Path) -> None:
    public = load_public(hsm / "inside.pub")
    waits = Signer(tmp_path / "acme.signer", tuple(command(hsm, "sleeps")), public, seconds=0.5)
    with pytest.raises(Refusal) as caught:
        waits.sign(b"x")
    assert "gave no signature within 0.5 s" in caught.value.message


def test_a_command_with_another_key_and_one_that_is_not_there_are_refused(hsm: Path, tmp_path: Path) -> None:
    new_key(hsm, "other")
    for words, says in ((command(hsm, "raw", "other"), "did not write a signature by the key"),
                        (["no-such-program"], "no-such-program cannot be run")):
        with pytest.raises(Refusal) as caught:
            new_signer(tmp_path / "keys", "acme", words, load_public(hsm / "inside.pub"))
        assert says in caught.value.message


def test_a_signer_overwrites_nothing_and_a_key_goes_before_it(hsm: Path, tmp_path: Path) -> None:
    public = load_public(hsm / "inside.pub")
    new_key(tmp_path, "mine")
    with pytest.raises(Refusal) as caught:
        new_signer(tmp_path, "mine", command(hsm, "raw"), public)
    assert caught.value.reason == "key_exists"
    new_signer(tmp_path, "acme", command(hsm, "raw"), public)
    with pytest.raises(Refusal) as caught:
        new_key(tmp_path, "acme")
    assert caught.value.reason == "key_exists" and not (tmp_path / "acme.key").exists()


def test_a_file_that_others_may_write_or_that_says_something_else_is_refused(hsm: Path, tmp_path: Path) -> None:
    path, _ = new_signer(tmp_path, "acme", command(hsm, "raw"), load_public(hsm / "inside.pub"))
    good = path.read_text()
    path.chmod(0o620)
    with pytest.raises(Refusal) as caught:
        open_key(tmp_path, "acme")
    assert caught.value.reason == "key_exposed" and "chmod 600" in caught.value.hint
    path.chmod(0o600)
    for text in ("", "command = 5", good.replace("command", "order"), good[:-5], 'command = []\npublic_key = "x"\n',
                 good.replace('public_key = "', 'public_key = "0'), "\x00"):
        path.write_text(text)
        with pytest.raises(Refusal) as caught:
            open_key(tmp_path, "acme")
        assert caught.value.reason == "key_unreadable" and caught.value.message.startswith(str(path))


def test_the_verbs_take_it_as_they_take_a_key(hsm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state-dir", str(tmp_path / "state")]
    public = load_public(hsm / "inside.pub")
    assert run(["keys", "signer", "acme", "--public-key", str(hsm / "inside.pub"), *state, "--",
                *command(hsm, "base64")]) == 0
    assert run(["keys", "signer", "two", "--public-key", public.hex().upper(), *state, "--", *command(hsm, "hex")]) == 0
    assert f"key {key_id_of(public)}, which" in capsys.readouterr().out
    file = tmp_path / "sample.apx"
    file.write_bytes(pack(bundle()))
    assert run(["plugin", "sign", str(file), "--key", "acme", *state]) == 0
    signed, found = read_apx(file)
    (signature,) = read_signatures(found)
    assert verify_digest(public.hex(), signed.digest, signature)
    (hsm / "hsm.py").unlink()
    assert run(["plugin", "sign", str(file), "--key", "acme", *state]) == 1
    said = capsys.readouterr().err
    assert "ended with status 2" in said and said.count("\n") == 1
    assert read_apx(file)[1] == found, "what was signed before is as it was"
