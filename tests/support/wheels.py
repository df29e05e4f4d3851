"""Small wheels and source archives, built here: an index of one's own for pip."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, files: Mapping[str, str | bytes], requires: Sequence[str] = (),
               tags: str = "py3-none-any", licence: str = "MIT") -> Path:
    """``<name>-<version>-<tags>.whl`` in ``folder``, as any builder makes it."""
    info = f"{name}-{version}.dist-info"
    metadata = "".join([f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n",
                        *(f"Requires-Dist: {one}\n" for one in requires)])
    bodies = {path: body.encode() if isinstance(body, str) else body for path, body in files.items()}
    bodies |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL":
               f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tags}\n".encode()}
    record = "".join(f"{path},sha256={_hash(body)},{len(body)}\n" for path, body in bodies.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, body in (*bodies.items(), (f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode())):
            archive.writestr(zipfile.ZipInfo(inside), body)
    return path


def make_sdist(folder: Path, name: str, version: str) -> Path:
    """A source archive, which no test may build."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in (("PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
                             ("setup.py", "raise SystemExit('a source archive was built')\n")):
            entry = tarfile.TarInfo(f"{name}-{version}/{inside}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def make_index(folder: Path, wheels: Sequence[Path], yanked: Sequence[str] = ()) -> str:
    """A simple index of ``wheels`` as a file:// address; the files of the names in ``yanked`` are withdrawn."""
    for wheel in wheels:
        place = folder / wheel.name.split("-")[0].replace("_", "-")
        place.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        mark = ' data-yanked="broken"' if wheel.name in yanked else ""
        with (place / "index.html").open("a") as page:
            page.write(f'<!DOCTYPE html><a href="{wheel.as_uri()}#sha256={digest}"{mark}>{wheel.name}</a><br>\n')
    return folder.as_uri()


def _hash(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
