"""A bundle that is too large for one message comes in parts; what a caller may leave unfinished is bounded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from apex_exec.client import AdminClient
from apex_exec.errors import Refusal
from apex_exec.registry.bundles import uploads
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.bundle import make_bundle, pack, read_folder
from apex_exec.registry.bundles.uploads import PART_BYTES_MAX, UNFINISHED_MAX, Uploads
from tests.support.bundles import files, write_folder
from tests.support.daemon import Daemon


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def reason(uploads_: Uploads, *args: object) -> str:
    with pytest.raises(Refusal) as caught:
        uploads_.add(*args)  # type: ignore[arg-type]  # wrong kinds are among the cases
    return caught.value.reason


def test_parts_make_a_whole_that_is_taken_once(tmp_path: Path) -> None:
    made, data = Uploads(tmp_path / "u"), os.urandom(1000)
    assert made.add(7, name(data), 0, data[:400]) == 400
    assert reason(made, 7, name(data), 300, b"x") == "wrong_offset"
    assert made.add(7, name(data), 400, data[400:]) == 1000
    with pytest.raises(Refusal) as caught:
        made.take(8, name(data))  # another user's
    assert caught.value.reason == "not_uploaded"
    assert made.take(7, name(data)) == data
    assert not list((tmp_path / "u").iterdir())


def test_what_a_caller_may_send_is_bounded(tmp_path: Path) -> None:
    now = [os.stat(tmp_path).st_mtime]
    made = Uploads(tmp_path / "u", now=lambda: now[0])
    for number in range(UNFINISHED_MAX):
        made.add(7, name(bytes([number])), 0, b"")
    assert reason(made, 7, name(b"more"), 0, b"") == "too_many_uploads"
    assert made.add(8, name(b"more"), 0, b"") == 0
    assert reason(made, 7, name(b"\0"), 0, bytes(PART_BYTES_MAX + 1)) == "part_too_large"
    assert reason(made, 7, name(b"\0"), Bounds.apx_bytes_max(), b"x") == "bundle_too_large"
    assert reason(made, 7, "../../etc/passwd", 0, b"x") == "not_a_digest"
    now[0] += uploads.SECONDS_MAX + 60
    assert made.add(7, name(b"more"), 0, b"") == 0


def test_an_upload_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    made = Uploads(tmp_path / "u")
    made.add(7, name(b"good"), 0, b"evil")
    with pytest.raises(Refusal) as caught:
        made.take(7, name(b"good"))
    assert caught.value.reason == "upload_damaged" and not list((tmp_path / "u").iterdir())


def test_a_refusal_names_both_bounds_the_sizes_and_the_largest_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal) as caught:
        make_bundle({**files(), "icon.png": bytes(50_000_000)}, "x")
    assert "8,388,608 bytes (registry.bundle_bytes)" in f"{caught.value}"
    assert "2,000 files (registry.bundle_files)" in f"{caught.value}"
    assert "icon.png with 50,000,000 bytes" in f"{caught.value.hint}"
    folder = write_folder(tmp_path / "p", {**files(), "data.bin": bytes(300_000)})
    kept = pack(read_folder(folder))
    monkeypatch.setattr(Bounds, "bytes_max", 200_000)
    with pytest.raises(Refusal, match="registry.bundle_bytes"):
        read_folder(folder)
    assert len(kept) > 300_000


@pytest.mark.slow
def test_a_bundle_of_eight_mebibytes_is_installed_in_parts_and_answers(tmp_path: Path) -> None:
    body = {**files(), **{f"data/{number}.bin": os.urandom(1_000_000) for number in range(8)}}
    data = pack(make_bundle(body, "x"))
    with Daemon(plugins=None, config={"limits.cpu_percent": 100}) as daemon, AdminClient(daemon.admin) as client:
        given = client.with_bundle({"bundle": data}, 60_000)
        assert set(given) == {"upload"}
        assert client.request("plugin.install", given, 120_000)["state"] == "installed"
        assert client.request("plugin.verify", {"id": "sample", "hook": "none"}, 120_000)["checks"][0]["ok"]
