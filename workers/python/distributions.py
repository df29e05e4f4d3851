"""``importlib.metadata`` of what a bundle has in ``vendor/``: versions, files and entry points of its packages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

_INFO = ".dist-info/METADATA"


class Vendored(metadata.Distribution):
    """One package, by the folder of its wheel's metadata."""

    def __init__(self, files: Mapping[str, bytes], root: str, folder: str) -> None:
        self._files = files
        self._root = root
        self._folder = folder

    def read_text(self, filename: str) -> str | None:
        """A file of the metadata; None if the wheel has none of that name."""
        body = self._files.get(f"{self._folder}/{filename}")
        return None if body is None else body.decode("utf-8", "replace")

    def locate_file(self, path: object) -> Path:
        """The path of one of the package's files."""
        return Path(self._root, posixpath.dirname(self._folder), str(path))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def distributions(files: Mapping[str, bytes], root: str, name: str | None) -> Iterator[Vendored]:
    """The packages of that name, or all of them."""
    for path in files:
        if path.endswith(_INFO):
            folder = path.removesuffix("/METADATA")
            has = posixpath.basename(folder).removesuffix(".dist-info").partition("-")[0]
            if name is None or _plain(has) == _plain(name):
                yield Vendored(files, root, folder)
