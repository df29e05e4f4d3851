"""Bundles: packing is deterministic, the digest names the content, and every refusal is shown on a real bundle."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.bundle import (
    LIST_NAME,
    make_listing,
    pack,
    read_folder,
    unpack,
)
from tests.support.bundles import bundle, files, write_folder, zip_of

ELF = b"\x7fELF" + bytes(60)


def refusal(call: Any, *arguments: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value


def codes(call: Any, *arguments: Any) -> set[str]:
    return {problem["code"] for problem in refusal(call, *arguments).problems}


def test_packing_the_same_files_gives_the_same_bytes_whatever_order_and_times_they_have(tmp_path: Path) -> None:
    made = files()
    first = write_folder(tmp_path / "a", made)
    second = write_folder(tmp_path / "b", dict(reversed(made.items())))
    os.utime(second / "plugin.py", (1, 1))
    (second / "plugin.py").chmod(0o755)
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "plugin.cpython-311.pyc").write_bytes(b"x")
    (second / ".git").mkdir()
    (second / ".git" / "config").write_bytes(b"x")
    assert pack(read_folder(first)) == pack(read_folder(second))


def test_what_is_packed_is_what_is_unpacked_and_the_list_inside_names_it() -> None:
    made = bundle()
    again, signatures = unpack(pack(made, b"[]"))
    assert again.files == made.files and again.digest == made.digest and signatures == b"[]"
    assert again.listing.decode().count("\n") == len(made.files)
    assert "tests/test_plugin.py" in again.files and "tests/test_plugin.py" not in again.loaded
    assert bundle("other").digest != made.digest


def test_a_bundle_made_by_another_zip_tool_is_accepted_where_its_list_is_true() -> None:
    assert unpack(zip_of(files(), method=zipfile.ZIP_DEFLATED))[0].digest == bundle().digest


@pytest.mark.parametrize("name", [
    "/etc/passwd", "../x.py", "a/../../x.py", "a//b.py", "./x.py", "C:x.py", "a\\..\\b.py", "a/./b.py", "a\u202e.py",
    "a\u200b.py", "e\u0301.py", "x" * 201, "/".join("abcdefghijkl"), "a.", "a /b.py",
])
def test_unsafe_paths_are_refused(name: str) -> None:
    assert "unsafe_path" in codes(unpack, zip_of({**files(), name: b"x"}))


@pytest.mark.parametrize("names", [
    ("a.txt", "A.txt"), ("ﬁle.txt", "file.txt"), ("straße.txt", "STRASSE.txt"), ("manifest.JSON",),
    ("x", "x/y"), ("manifest.sha256",), ("signatures.json",), ("plugin.py",),
])
def test_names_that_some_file_system_would_take_for_one_are_refused(names: tuple[str, ...]) -> None:
    entries = [*files().items(), *[(name, b"x") for name in names]]
    assert "name_collision" in codes(unpack, zip_of(entries))


@pytest.mark.parametrize(("name", "body", "code"), [
    ("lib.so", b"x", "native_code"), ("lib.so.1.2", b"x", "native_code"), ("data.bin", ELF, "native_code"),
    ("x.PYD", b"x", "native_code"), ("x.bin", b"\0asm\1\0\0\0", "native_code"),
    ("x.bin", b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0", "native_code"),
    ("x.pyc", b"x", "compiled_code"), ("__pycache__/x.txt", b"x", "compiled_code"),
    ("x.py", b"\xff", "not_utf8"), ("x.py", b"# coding: latin-1\n", "not_utf8"), ("x.py", b"\xef\xbb\xbfx", "not_utf8"),
    ("x.py", b"a\0b", "not_utf8"), ("x.py", "x = 1".encode("utf-16"), "not_utf8"),
    ("x.py", b"# harmless\rprint('hidden')\n", "line_ends"),
])
def test_native_compiled_and_undecodable_code_is_refused(name: str, body: bytes, code: str, tmp_path: Path) -> None:
    made = {**files(), name: body}
    assert code in codes(unpack, zip_of(made))
    if "__pycache__" not in name:  # in a folder, that one is not part of the bundle
        assert code in codes(read_folder, write_folder(tmp_path / "f", made))


@pytest.mark.parametrize(("mode", "extra", "code"), [
    (stat.S_IFLNK | 0o777, b"", "link_refused"),
    (stat.S_IFCHR, b"", "special_file"),
    (stat.S_IFBLK, b"", "special_file"),
    (stat.S_IFIFO, b"", "special_file"), (stat.S_IFDIR, b"", "special_file"), (stat.S_IFSOCK, b"", "special_file"),
    (0, struct.pack("<HH", 0x000D, 12) + bytes(12), "link_refused"),  # PKWARE's Unix field: a hard link's target
])
def test_links_and_special_files_in_a_zip_are_refused(mode: int, extra: bytes, code: str) -> None:
    assert code in codes(unpack, zip_of({**files(), "zz": b"plugin.py"}, mode=mode, extra=extra))


def test_links_and_special_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name, make, code in (
        ("soft", lambda path: path.symlink_to("/etc/passwd"), "link_refused"),
        ("folder", lambda path: path.symlink_to("/etc"), "link_refused"),
        ("hard", lambda path: os.link(path.parent / "plugin.py", path), "link_refused"),
        ("pipe", os.mkfifo, "special_file"),
    ):
        folder = write_folder(tmp_path / name, files())
        make(folder / "x")
        assert codes(read_folder, folder) == {code}, name


def test_a_file_that_the_list_does_not_tell_truly_is_refused() -> None:
    made = files()
    assert "undeclared_file" in codes(unpack, zip_of({**made, "x.py": b"x"}, listing=make_listing(made)))
    assert "missing_file" in codes(unpack, zip_of(made, listing=make_listing({**made, "x.py": b"x"})))
    assert "hash_mismatch" in codes(unpack, zip_of({**made, "plugin.py": b"pass"}, listing=make_listing(made)))
    assert "list_malformed" in codes(unpack, zip_of(made, listing=b"hello\n"))
    assert "list_malformed" in codes(unpack, zip_of(made, listing=make_listing(made) + b"# comment"))
    assert "list_missing" in codes(unpack, zip_of(made, listing=b""))


def test_a_bundle_without_manifest_or_entry_point_is_refused() -> None:
    made = files()
    assert "manifest_missing" in codes(unpack, zip_of({"plugin.py": made["plugin.py"]}))
    assert "entrypoint_missing" in codes(unpack, zip_of({"manifest.json": made["manifest.json"]}))
    assert refusal(unpack, zip_of({**made, "manifest.json": b"{}"})).reason == "manifest_invalid"
    inside = files(manifest={"entrypoint": "tests/test_plugin.py", "hooks": ["onDashboardLoad"]})
    assert "entrypoint_missing" in codes(unpack, zip_of(inside))


def test_a_zip_bomb_is_refused_and_costs_no_memory() -> None:
    bomb = zip_of({**files(), "zeros.txt": bytes(200 * 1024 * 1024)}, method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < Bounds.apx_bytes_max()
    tracemalloc.start()
    try:
        assert {"ratio_too_high", "bundle_too_large"} <= codes(unpack, bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_zip_that_lies_about_its_sizes_is_refused_without_unpacking_more() -> None:
    data = bytearray(zip_of({**files(), "zeros.txt": bytes(50 * 1024 * 1024)}, method=zipfile.ZIP_DEFLATED))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)  # the central directory now announces 1,000 bytes
    tracemalloc.start()
    try:
        assert refusal(unpack, bytes(data)).reason in ("not_a_bundle", "hash_mismatch")
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_hundred_thousand_entries_are_refused_before_they_are_parsed() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number}", b"")
    assert refusal(unpack, out.getvalue()).reason == "bundle_too_large"
    small = zip_of({**files(), **{f"f{number}": b"" for number in range(Bounds.files_max)}})
    assert refusal(unpack, small).reason == "bundle_too_large"


def test_a_zip_cut_anywhere_or_with_something_appended_is_one_clear_refusal() -> None:
    data = pack(bundle())
    for end in range(0, len(data), 7):
        assert refusal(unpack, data[:end]).reason in ("not_a_bundle", "bundle_too_large")
    assert refusal(unpack, data + b"x").reason == "not_a_bundle"
    assert refusal(unpack, b"#!/bin/sh\n" + data).reason == "not_a_bundle"


def test_a_byte_changed_anywhere_never_passes_as_the_same_bundle() -> None:
    made = bundle()
    data = pack(made)
    for at in range(0, len(data), 3):
        spoiled = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            again, _ = unpack(spoiled)
        except Refusal:
            continue
        assert again.files == made.files  # the byte was the zip's own, such as a time stamp


def test_encrypted_and_exotically_compressed_entries_are_refused() -> None:
    assert "not_a_bundle" in codes(unpack, zip_of(files(), method=zipfile.ZIP_BZIP2))
    data = bytearray(zip_of(files()))
    at = data.rfind(b"PK\x01\x02")
    data[at + 8] |= 1
    assert "not_a_bundle" in codes(unpack, bytes(data))


def test_a_folder_over_its_caps_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "big", {**files(), "big.txt": b"x"})
    with (folder / "big.txt").open("wb") as file:
        file.truncate(10 * 1024**3)  # sparse: reading it would not fit in memory
    assert codes(read_folder, folder) == {"bundle_too_large"}
    assert refusal(read_folder, tmp_path / "nowhere").reason == "not_found"
    shutil.rmtree(folder)


def test_the_list_is_what_sha256sum_would_say() -> None:
    made = bundle()
    line = next(line for line in made.listing.decode().splitlines() if line.endswith("plugin.py"))
    assert line.split("  ")[1] == str(len(made.files["plugin.py"])) and LIST_NAME not in made.files
