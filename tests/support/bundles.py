"""Bundles that tests make: a good one, and the pieces to spoil it with."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path
from typing import Any

from apex_exec.registry.bundles.bundle import LIST_NAME, Bundle, make_bundle, make_listing

CODE = '''"""A widget that greets."""

from workers import HookContext, Plugin

plugin = Plugin(id="{id}", version="{version}", permissions={permissions})


@plugin.hook("onDashboardLoad")
def on_dashboard_load(context: HookContext, params: dict) -> dict:
    """One widget."""
    return {{"customWidgets": [{{"id": "w", "component": "Hello", "props": {{"text": "{text}"}}}}]}}
'''


def manifest(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "sample", "name": "Sample", "version": "1.0.0", "author": "ACME Corp", "permissions": ["ui:render"],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]},
    }
    made.update(changes)
    return made


def files(text: str = "hello", code: str | None = None, **changes: Any) -> dict[str, bytes]:
    made = manifest(**changes)
    source = code if code is not None else CODE.format(
        id=made["id"], version=made["version"], permissions=made["permissions"], text=text)
    return {"manifest.json": json.dumps(made).encode(), "plugin.py": source.encode(), "README.md": b"# Sample\n",
            "tests/test_plugin.py": b"def test_nothing() -> None:\n    pass\n"}


def bundle(text: str = "hello", code: str | None = None, **changes: Any) -> Bundle:
    return make_bundle(files(text, code, **changes), "sample")


def write_folder(folder: Path, made: dict[str, bytes]) -> Path:
    for name, body in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def zip_of(entries: list[tuple[str, bytes]] | dict[str, bytes], *, listing: bytes | None = None, mode: int = 0,
           method: int = zipfile.ZIP_STORED, extra: bytes = b"") -> bytes:
    """A zip of ``entries`` as they are, with a true list unless another is given; ``mode`` applies to the last."""
    pairs = list(entries.items()) if isinstance(entries, dict) else entries
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(LIST_NAME, make_listing(dict(pairs)) if listing is None else listing)
        for index, (name, body) in enumerate(pairs):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            last = index == len(pairs) - 1
            info.external_attr = (mode if mode and last else stat.S_IFREG | 0o644) << 16
            info.extra = extra if last else b""
            archive.writestr(info, body)
    return out.getvalue()
