"""What `plugin pack` takes and what it leaves out: its own output, secrets, caches, and what .apxignore names."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import read_apx, read_folder
from apex_exec.registry.bundles.ignoring import RULES_MAX, Ignore
from tests.registry.test_cli import Shell
from tests.support import need
from tests.support.bundles import files, write_folder

GOOD = {"manifest.json", "plugin.py", "README.md", "tests/test_plugin.py"}
TREE = ("a.txt", "b.log", "keep.log", "sub/a.txt", "sub/b.log", "sub/deep/a.txt", "sub/deep/c.md", "build/x.py",
        "sub/build/x.py", "data-1.csv", "data-2.csv", "data-x.csv", "#odd", "!odd", "with space.txt", "a/b/c/d.txt")
RULES = ("*.log", "*.log\n!keep.log", "/a.txt", "a.txt", "sub/", "sub/*.txt", "sub/**", "**/deep", "**/a.txt",
         "/build/", "build", "data-[0-9].csv", "data-[!0-9].csv", "data-?.csv", "\\#odd", "\\!odd",
         "# a comment\n\n*.md",
         "with space.txt   ", "a/**/d.txt", "a/*/d.txt",
         "*\n!*.txt\n!*/", "sub\n!sub/a.txt", "**", "*[", "a/**/b/c/*")


@pytest.mark.parametrize("rules", RULES)
def test_apxignore_means_what_git_takes_the_same_lines_for(tmp_path: Path, rules: str) -> None:
    need(shutil.which("git"), "git is not installed")
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text(rules)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    told = subprocess.run(["git", "-c", "core.quotepath=off", "ls-files", "--others", "--exclude-standard", "-z"],
                          cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ignore = Ignore(rules)

    def taken(name: str) -> bool:
        parts = name.split("/")
        return not any(ignore.leaves_out("/".join(parts[:end]), end < len(parts)) for end in range(1, len(parts) + 1))

    assert {name for name in TREE if taken(name)} == {name for name in told.split("\0") if name} - {".gitignore"}


@pytest.mark.slow
def test_packing_thrice_where_the_output_lies_in_the_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", files())
    shell = Shell(folder)
    for arguments in ((), ("-o", "other.bin"), ("-o", "tests/deep.apx")):
        made = []
        for _ in range(3):
            shell("plugin", "pack", ".", *arguments)
            made.append((folder / (arguments[1] if arguments else "sample-1.0.0.apx")).read_bytes())
            time.sleep(0.01)
        assert len(set(made)) == 1
        (folder / "other.bin").unlink(missing_ok=True)
    assert set(read_apx(folder / "sample-1.0.0.apx")[0].files) == GOOD


def test_secrets_caches_and_what_apxignore_names_stay_out_and_both_lists_are_shown(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", files())
    write_folder(folder, dict.fromkeys((
        ".env", "prod.env", "id_rsa", "ID_ED25519.bak", "deploy.PEM", "server.key", "sub/k.p12", "credentials.json",
        ".git/config", ".venv/x.py", "venv/x.py", "node_modules/a/index.js", "__pycache__/x.pyc",
        "sub/__pycache__/y.pyc", ".mypy_cache/a", "old.apx", "notes~", ".DS_Store", "notes.txt", "public.key"), b"x"))
    (folder / ".apxignore").write_text("notes.txt\n!public.key\n")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / ".apxignore").write_text("notes.txt\n!public.key\nlink\n")
    told = json.loads(Shell(tmp_path)("plugin", "pack", "sample", "--json"))
    assert {one["path"] for one in told["files"]} == GOOD | {"public.key"}
    assert {"prod.env", "id_rsa", "node_modules/", ".git/", "notes.txt", "link", "sub/k.p12"} <= set(told["leftOut"])
    shown = Shell(tmp_path)("plugin", "pack", "sample")
    assert "tests/test_plugin.py" in shown and "left out: " in shown and "id_rsa" in shown
    assert read_folder(folder).digest == told["digest"], "a folder that is installed is the same bundle"


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("secret", [
    "-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----", "key = 'AKIA" + "IOSFODNN7EXAMPLE'",
    "t = 'ghp_" + "a" * 36 + "'", "X-Api-Key: sk-live-" + "1" * 24])
def test_a_file_that_holds_a_secret_stops_packing_and_is_named_without_the_secret(tmp_path: Path, secret: str) -> None:
    folder = write_folder(tmp_path / "sample", {**files(), "creds.txt": f"one\n{secret}\n".encode()})
    refused = Shell(tmp_path).run("plugin", "pack", "sample")
    assert refused.returncode == 1 and "creds.txt:2:" in refused.stderr and secret[-16:] not in refused.stderr
    assert not list(tmp_path.glob("*.apx"))
    Shell(tmp_path)("plugin", "pack", "sample", "--with-secrets")
    (folder / ".apxignore").write_text("creds.txt\n")
    Shell(tmp_path)("plugin", "pack", "sample")


def test_a_strangers_apxignore_costs_little_and_a_bad_one_is_one_refusal(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", {**files(), "a" * 150 + "b": b"x"})
    for bad in (("*a" * 60 + "c\n").encode() * RULES_MAX, b"x\n" * (RULES_MAX + 1), b"\xff\n", b"x" * 70_000):
        (folder / ".apxignore").write_bytes(bad)
        with pytest.raises(Refusal) as refused:
            read_folder(folder)
        assert refused.value.reason == "bad_ignore"
    (folder / ".apxignore").unlink()
    (folder / ".apxignore").symlink_to("/etc/passwd")
    with pytest.raises(Refusal):
        read_folder(folder)
