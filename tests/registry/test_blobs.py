"""The store of bundles: durable, read-only, verified at every read, and clear about a disk that will not take more."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.blobs import BlobStore, BundleSource
from tests.support import need
from tests.support.bundles import bundle


def reason(call: object, *arguments: object) -> str:
    with pytest.raises(Refusal) as caught:
        call(*arguments)  # type: ignore[operator]  # a method of the store
    return caught.value.reason


def test_a_bundle_put_twice_is_stored_once_read_only_and_comes_back_whole(tmp_path: Path) -> None:
    store, made = BlobStore(tmp_path / "bundles"), bundle()
    assert store.put(made) and not store.put(made)
    assert store.digests() == {made.digest} and store.read(made.digest).files == made.files
    assert stat.S_IMODE(store.path(made.digest).stat().st_mode) == 0o400
    assert BundleSource(store).load(made.digest) == (made.loaded, made.sha256)
    store.remove(made.digest)
    store.remove(made.digest)
    assert reason(store.read, made.digest) == "blob_missing"


def test_a_blob_changed_on_disk_is_not_loaded_and_is_mended_by_installing_again(tmp_path: Path) -> None:
    store, made, other = BlobStore(tmp_path), bundle(), bundle("other")
    store.put(made)
    store.put(other)
    path = store.path(made.digest)
    path.unlink()
    path.write_bytes(store.path(other.digest).read_bytes())  # a whole bundle, but another one
    assert reason(store.read, made.digest) == "blob_corrupt" == reason(BundleSource(store).load, made.digest)
    path.write_bytes(path.read_bytes()[:-30])
    assert reason(store.read, made.digest) == "blob_corrupt"
    assert store.put(made) and store.read(made.digest).files == made.files


def test_a_name_that_is_no_digest_never_becomes_a_path(tmp_path: Path) -> None:
    assert reason(BlobStore(tmp_path).read, "../../etc/passwd") == "not_a_digest"


def test_leftovers_and_blobs_without_a_row_are_swept(tmp_path: Path) -> None:
    store, kept, orphan = BlobStore(tmp_path), bundle(), bundle("orphan")
    store.put(kept)
    store.put(orphan)
    (tmp_path / ".new-1234").write_bytes(b"half")
    assert sorted(store.sweep({kept.digest})) == sorted([orphan.digest, ".new-1234"])
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept.digest}.apx"]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "mounting a file system needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    need(done.returncode == 0, "mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_clear_refusal_and_leaves_nothing_half_installed(tiny: Path) -> None:
    store, small, big = BlobStore(tiny / "bundles"), bundle(), bundle("x" * 200_000)
    store.put(small)
    assert reason(store.put, big) == "disk_full"
    assert store.digests() == {small.digest} and len(list((tiny / "bundles").iterdir())) == 1
    assert store.read(small.digest).files == small.files


def test_a_read_only_store_is_a_clear_refusal_and_still_serves_what_it_has(tiny: Path) -> None:
    store, here = BlobStore(tiny / "bundles"), bundle()
    store.put(here)
    subprocess.run(["mount", "-o", "remount,ro", tiny], check=True)
    assert reason(store.put, bundle("new")) == "store_read_only"
    assert store.read(here.digest).files == here.files and not store.put(here)
