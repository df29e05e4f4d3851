"""One wheel: what of it belongs into ``vendor/``, and what the lock says of it. Runs no code of the package."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from apex_exec.errors import Code, Refusal
from apex_exec.registry.vendored.lock import RECORD_ROWS_MAX, Package, installed_path, parse_record

WHEEL_BYTES_MAX = 256 * 1024 * 1024
"""What all files of one wheel may hold unpacked; the bundle's own bound is far below."""
LICENCE_CHARACTERS_MAX = 100
_NOT_PYTHON = re.compile(r"\.(pyi|pyx|pxd|pxi|c|cc|cpp|h|hpp|pyc|pyo)\Z")
"""What neither the interpreter nor a reviewer of a plugin needs: stubs, sources of compiled parts, caches."""
_TESTS = re.compile(r"(^|/)tests?/")


class Wheel:
    """``package`` is its line in the lock, ``files`` go to ``vendor/``, ``native`` are compiled libraries in it."""

    def __init__(self, package: Package, files: dict[str, bytes], native: tuple[str, ...], requires: list[Requirement],
                 data: str) -> None:
        self.package = package
        self.files = files
        self.native = native
        self.requires = requires
        self.data = data
        """Where its compiled libraries are for, as in ``cp311-manylinux_2_17_x86_64``; "" for a pure wheel."""


def _broken(path: Path, why: str) -> Refusal:
    return Refusal("bad_wheel", f"{path.name} is not a wheel that can be read: {why}"[:300], code=Code.INVALID_INPUT,
                   hint="take another version, or another index")


def read_wheel(path: Path, is_native: Callable[[str, bytes], bool]) -> Wheel:
    """The wheel at ``path``. ``is_native`` says which files are compiled. Raises Refusal."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if len(infos) > RECORD_ROWS_MAX or sum(info.file_size for info in infos) > WHEEL_BYTES_MAX:
                raise _broken(path, f"over {RECORD_ROWS_MAX} files or {WHEEL_BYTES_MAX} bytes")
            bodies = {info.filename: archive.read(info) for info in infos}
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise _broken(path, str(error)) from None
    folders = {name.split("/")[0] for name in bodies if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)}
    if len(folders) != 1:
        raise _broken(path, "it has no metadata")
    info = folders.pop()
    record = bodies.get(f"{info}/RECORD")
    if record is None:
        raise _broken(path, "it has no RECORD of its files")
    headers = HeaderParser().parsestr(bodies[f"{info}/METADATA"].decode("utf-8", "replace"))
    try:
        recorded = parse_record(record)
    except ValueError as error:
        raise _broken(path, f"RECORD: {error}") from None
    files, left_out, native = _sorted_out(bodies, is_native)
    for name, body in files.items():
        if name != f"{info}/RECORD" and recorded.get(name) != hashlib.sha256(body).digest():
            raise _broken(path, f"{name} is not what its RECORD says")
    tags = path.stem.split("-")[-3:]
    package = Package(
        name=canonicalize_name(str(headers["Name"])), version=str(headers["Version"]),
        licence=_licence(headers.get("License-Expression"), headers.get("License"),
                         headers.get_all("Classifier") or []),
        wheel=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), info=info,
        record=hashlib.sha256(record).hexdigest(),
        left_out=tuple(sorted(name for name in recorded if name in left_out)))
    return Wheel(package, files, tuple(sorted(native)), _requires(headers.get_all("Requires-Dist") or []),
                 "-".join((tags[0], tags[2])) if tags[2] != "any" else "")


def _sorted_out(bodies: dict[str, bytes], is_native: Callable[[str, bytes], bool]) -> tuple[
        dict[str, bytes], set[str], list[str]]:
    """(files for ``vendor/``, names of what is left out, the compiled ones among these)."""
    files: dict[str, bytes] = {}
    left_out: set[str] = set()
    native = []
    for name, body in bodies.items():
        target = installed_path(name)
        top = target.split("/")[0]
        if is_native(target, body):
            native.append(target)
            left_out.add(target)
        elif (top.endswith(".data") or _NOT_PYTHON.search(target) or (_TESTS.search(target) and "/" in target)
              or any(part.startswith(".") or part == "__pycache__" for part in target.split("/"))
              or top.endswith(".libs")):
            left_out.add(target)
        else:
            files[target] = body
    return files, left_out, native


def _licence(expression: str | None, text: str | None, classifiers: list[str]) -> str:
    named = [one.rpartition("::")[2].strip() for one in classifiers if one.startswith("License ::")]
    first = (expression or "").strip() or ((text or "").strip().split("\n")[0] if len(text or "") < 200 else "")
    return (first or ", ".join(named) or "not stated")[:LICENCE_CHARACTERS_MAX]


def _requires(lines: list[str]) -> list[Requirement]:
    found = []
    for line in lines:
        try:
            found.append(Requirement(line))
        except InvalidRequirement:
            continue
    return found
