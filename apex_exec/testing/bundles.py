"""Bundles on disk for a daemon under test: one written from a string of code, or one replaced as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_bundle(folder: Path | str, id_: str, code: str, hooks: Sequence[str] = ("onActionExecute",),
                 permissions: Sequence[str] = (), *, entrypoint: str = "plugin.py", **manifest: Any) -> Path:
    """Writes a bundle whose ``entrypoint`` is ``code`` into ``folder/id_`` and returns that folder.

    The suffix of ``entrypoint`` is the language: ``index.js`` for JavaScript. ``manifest`` adds keys to the manifest or
    replaces them, as ``version="2.0.0"``.
    """
    target = Path(folder, id_)
    target.mkdir(parents=True, exist_ok=True)
    (target / "manifest.json").write_text(json.dumps({
        "id": id_, "name": id_, "version": "1.0.0", "author": "tests", "permissions": list(permissions),
        "manifest": {"entrypoint": entrypoint, "hooks": list(hooks)}, **manifest}))
    (target / entrypoint).write_text(code)
    return target


def read_files(folder: Path | str) -> dict[str, bytes]:
    """Every file below ``folder`` with its path relative to it, but for caches and hidden files."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            found[name.as_posix()] = path.read_bytes()
    return found


def replace_bundle(target: Path | str, files: Mapping[str, bytes], workspace: Path | str) -> None:
    """Makes ``target`` hold ``files`` and nothing else.

    The new folder is written below ``workspace``, on the same file system, and then renamed: a daemon that reads its
    plugins meanwhile sees the old bundle, none, or the new bundle, but never a part of one.
    """
    target, fresh, last = Path(target), Path(workspace, "next"), Path(workspace, "last")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, body in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(last)
        shutil.rmtree(last)
    fresh.rename(target)
