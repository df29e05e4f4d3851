"""``vendor.lock.json``: which packages a bundle has in ``vendor/``, and from which wheels their files are.

The lock names each wheel by its SHA-256 and each wheel's ``RECORD`` by its own; ``RECORD`` has the hash of every file.
So a file in ``vendor/`` is either exactly what the wheel has, or the bundle is refused. That the wheel is the index's
own is not shown by the bundle: ``plugin add --check`` fetches the wheels again by these hashes. This module reads no
file.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from apex_exec.errors import Code, Refusal

LOCK_NAME = "vendor.lock.json"
VENDOR = "vendor/"
PACKAGES_MAX = 200
REQUIREMENT_CHARACTERS_MAX = 200
WORDS_CHARACTERS_MAX = 200
"""Each word of a package's line: its name, its version, its licence. Python reads no version of thousands of digits."""
RECORD_ROWS_MAX = 20_000
"""The files of one wheel."""
ALL_ROWS_MAX = 100_000
"""The files of all wheels of a bundle together. The registrar reads a row in three microseconds, in a thread that
others wait for, and a list of nothing but short names has a million rows in a few megabytes."""
PROBLEMS_MAX = 100
"""As many as a refusal shows; nobody needs to look for more."""
_AGAIN = "put it back with `apex-exec plugin add`; code of your own belongs beside plugin.py, not in vendor/"


class Package(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One vendored package. ``wheel`` is the file's name on the index and ``sha256`` its hash; ``info`` is the folder
    of its metadata and ``record`` the SHA-256 of the ``RECORD`` there. ``left_out`` are files of the wheel that are not
    in ``vendor/``: compiled libraries, tests, scripts."""

    name: str
    version: str
    licence: str
    wheel: str
    sha256: str
    info: str
    record: str
    left_out: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    """The packages of this lock that it needs, by name."""


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All vendored packages, by name. ``requires`` is what was asked for: the manifest's ``dependencies``."""

    version: int = 1
    requires: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()

    def encoded(self) -> bytes:
        """The lock as a file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def _problem(code: str, path: str, message: str, hint: str) -> dict[str, Any]:
    return {"code": code, "path": path, "message": message, "hint": hint}


def requirement(text: str) -> Requirement:
    """One of the manifest's dependencies. Raises Refusal for what is not a name with versions."""
    try:
        found = Requirement(text) if text.isascii() and len(text) <= REQUIREMENT_CHARACTERS_MAX else None
    except InvalidRequirement:
        found = None
    if found is None or found.url or found.marker:
        raise Refusal("bad_requirement", f"{text[:80]!a} is not the name of a package with its versions",
                      code=Code.INVALID_INPUT, hint='write it as "jinja2", "jinja2==3.1.6" or "jinja2>=3.1,<4"')
    return found


def read_lock(files: Mapping[str, bytes]) -> Lock | None:
    """The bundle's lock; None if it has none. Raises Refusal for one that is broken."""
    body = files.get(LOCK_NAME)
    if body is None:
        return None
    try:
        lock = msgspec.json.decode(body, type=Lock)
    except msgspec.MsgspecError as error:
        raise Refusal("lock_malformed", f"{LOCK_NAME}: {error}"[:300], code=Code.INVALID_INPUT,
                      hint="make it anew with `apex-exec plugin add`") from None
    if lock.version != 1 or len(lock.packages) > PACKAGES_MAX:
        raise Refusal("lock_malformed", f"{LOCK_NAME}: not of version 1, or over {PACKAGES_MAX} packages",
                      code=Code.INVALID_INPUT, hint="make it anew with `apex-exec plugin add`")
    for one in lock.packages:
        if max(map(len, (one.name, one.version, one.licence, one.wheel, one.info))) > WORDS_CHARACTERS_MAX:
            raise Refusal("lock_malformed", f"{LOCK_NAME}: {one.name[:40]!a}: a word of over {WORDS_CHARACTERS_MAX} "
                          "characters", code=Code.INVALID_INPUT, hint="make it anew with `apex-exec plugin add`")
    return lock


def locked_files(files: Mapping[str, bytes]) -> dict[str, Package]:
    """The files that belong to a vendored package, by path; without a lock none. Only for files of a bundle that was
    checked: ``lock_problems`` has found nothing."""
    try:
        lock = read_lock(files)
    except Refusal:
        return {}
    found: dict[str, Package] = {}
    for package in lock.packages if lock is not None else ():
        for name in _recorded(files, package):
            if VENDOR + name in files:
                found[VENDOR + name] = package
    return found


def lock_problems(files: Mapping[str, bytes], dependencies: tuple[str, ...] | list[str]) -> Iterator[dict[str, Any]]:
    """What is wrong between the manifest's dependencies, the lock, and the files in ``vendor/``; the first
    PROBLEMS_MAX of it."""
    return itertools.islice(_lock_problems(files, dependencies), PROBLEMS_MAX)


def _lock_problems(files: Mapping[str, bytes], dependencies: tuple[str, ...] | list[str]) -> Iterator[dict[str, Any]]:
    try:
        lock = read_lock(files)
    except Refusal as error:
        yield _problem(error.reason, LOCK_NAME, error.message.removeprefix(f"{LOCK_NAME}: "), error.hint)
        return
    if lock is None:
        if dependencies:
            yield _problem("not_vendored", "$.dependencies", f"nothing is vendored: there is no {LOCK_NAME}",
                           "run `apex-exec plugin add` in the plugin's folder")
        return
    yield from _name_problems(lock, dependencies)
    if wrong := list(_record_problems(files, lock)):
        yield from wrong
        return
    known: dict[str, str] = {}
    for package in lock.packages:
        yield from _file_problems(files, package, known)
    for path in files:
        if path.startswith(VENDOR) and path not in known:
            yield _problem("vendor_unknown", path, f"no package of {LOCK_NAME} has this file", _AGAIN)


def _name_problems(lock: Lock, dependencies: tuple[str, ...] | list[str]) -> Iterator[dict[str, Any]]:
    versions: dict[str, str] = {}
    for package in lock.packages:
        name = canonicalize_name(package.name)
        if name in versions:
            yield _problem("vendored_twice", LOCK_NAME, f"{name} is there as {versions[name]} and as "
                           f"{package.version}; Python can load one version only",
                           "keep one with `apex-exec plugin add`")
        versions[name] = package.version
    for index, text in enumerate(dependencies):
        try:
            wanted = requirement(text)
        except Refusal as error:
            yield _problem(error.reason, f"$.dependencies[{index}]", error.message, error.hint)
            continue
        has = versions.get(canonicalize_name(wanted.name))
        if has is None or not wanted.specifier.contains(has, prereleases=True):
            yield _problem("not_vendored", f"$.dependencies[{index}]", f"{text} is not vendored"
                           + (f": vendor/ has {has}" if has else ""),
                           "run `apex-exec plugin add` in the plugin's folder")


def _record_problems(files: Mapping[str, bytes], lock: Lock) -> Iterator[dict[str, Any]]:
    """Why the lists of files are not worth reading: one is read for one package, and all together are bounded."""
    owners: dict[str, str] = {}
    rows = 0
    for package in lock.packages:
        record, called = f"{VENDOR}{package.info}/RECORD", f"{package.name} {package.version}"
        if record in owners:
            yield _problem("vendored_twice", record, f"{called} and {owners[record]} both have this list of files",
                           "keep one of the two packages")
        elif record in files:
            count = _rows(files[record])
            rows += count
            if count > RECORD_ROWS_MAX or rows > ALL_ROWS_MAX:
                yield _problem("vendor_too_many", record, f"with {called} the packages have {rows:,} files; at most "
                               f"{RECORD_ROWS_MAX:,} of one and {ALL_ROWS_MAX:,} of all are accepted",
                               "take a smaller package")
                return
        owners[record] = called


def _file_problems(files: Mapping[str, bytes], package: Package, known: dict[str, str]) -> Iterator[dict[str, Any]]:
    called = f"{package.name} {package.version}"
    record = f"{VENDOR}{package.info}/RECORD"
    body = files.get(record)
    if body is None or hashlib.sha256(body).hexdigest() != package.record:
        yield _problem("vendor_changed", record, f"it is not the list of files of {called} that {LOCK_NAME} names",
                       _AGAIN)
        return
    left_out = set(package.left_out)
    try:
        recorded = parse_record(body)
    except ValueError as error:
        yield _problem("vendor_changed", record, f"it is not a list of files: {error}", _AGAIN)
        return
    for name, digest in recorded.items():
        path = VENDOR + name
        if path not in files:
            if name not in left_out:
                yield _problem("vendor_changed", path, f"a file of {called} is missing", _AGAIN)
            continue
        if path in known:
            yield _problem("vendored_twice", path, f"{called} and {known[path]} both have this file",
                           "keep one of the two packages")
        known[path] = called
        if digest and hashlib.sha256(files[path]).digest() != digest:
            yield _problem("vendor_changed", path, f"it differs from the file of {called}", _AGAIN)
        elif not digest and path != record:
            yield _problem("vendor_changed", path, f"{called} does not say what this file holds", _AGAIN)


def parse_record(body: bytes) -> dict[str, bytes]:
    """path → SHA-256 of a wheel's RECORD, b"" where it has none (its own line, signatures). Stronger hashes than
    SHA-256 count as none: no wheel of a usual builder has them. Raises ValueError for anything else."""
    if _rows(body) > RECORD_ROWS_MAX:
        raise ValueError(f"it names over {RECORD_ROWS_MAX:,} files")
    try:
        rows = list(csv.reader(io.StringIO(body.decode("utf-8", "replace"))))
    except csv.Error as error:
        raise ValueError(f"it is not CSV: {error}"[:200]) from None
    found: dict[str, bytes] = {}
    for row in rows:
        if len(row) < 2:
            continue
        kind, _, text = row[1].partition("=")
        try:
            digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if kind == "sha256" else b""
        except (binascii.Error, ValueError):
            digest = b""
        found[installed_path(row[0])] = digest
    return found


def _rows(body: bytes) -> int:
    """How many rows a RECORD has at most. That costs next to nothing."""
    return body.count(b"\n") + 1


def installed_path(name: str) -> str:
    """Where a file of a wheel lies once it is installed: what is below ``<name>.data/purelib/`` goes to the top."""
    match = re.fullmatch(r"[^/]+\.data/(?:purelib|platlib)/(.+)", name)
    return match[1] if match else name


def _recorded(files: Mapping[str, bytes], package: Package) -> dict[str, bytes]:
    body = files.get(f"{VENDOR}{package.info}/RECORD")
    try:
        return parse_record(body) if body is not None else {}
    except ValueError:
        return {}


def facts(lock: Lock | None, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """What a reviewer is shown of each vendored package."""
    counts: dict[str, list[int]] = {}
    for path, package in locked_files(files).items():
        count = counts.setdefault(package.name, [0, 0])
        count[0] += 1
        count[1] += len(files[path])
    return [{"name": one.name, "version": one.version, "licence": one.licence, "wheel": one.wheel,
             "sha256": one.sha256, "files": counts.get(one.name, [0, 0])[0], "bytes": counts.get(one.name, [0, 0])[1],
             "leftOut": len(one.left_out), "requires": list(one.requires)}
            for one in (lock.packages if lock is not None else ())]
