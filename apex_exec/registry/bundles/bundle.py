"""A bundle: one version of one plugin as files, read from a folder or an ``.apx`` file and checked in full.

The digest that names a bundle is the SHA-256 of its list, ``MANIFEST.sha256``, which has one line ``<sha256> <size>
<path>`` for each file, sorted by path. The list names every file in the bundle except the list itself and the
signatures, which are made over the digest. This module runs no plugin code and never unpacks anything to disk.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from apex_exec.catalogue.limits import Limits
from apex_exec.common.source_map import SourceMaps, map_comment
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import Code, Refusal
from apex_exec.executor.processes.runtimes import JAVASCRIPT, PYTHON
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.ignoring import IGNORE_BYTES_MAX, IGNORE_NAME, Ignore
from apex_exec.registry.bundles.manifest import (
    BUNDLE_COMMAND,
    Manifest,
    check_manifest,
    manifest_refusal,
    parse_manifest,
)
from apex_exec.registry.bundles.pictures import picture_problems
from apex_exec.registry.vendored.lock import LOCK_NAME, VENDOR, Package, lock_problems, locked_files

__all__ = ["Bundle", "pack", "parse_manifest", "read_apx", "read_folder", "read_path", "unpack"]

LEFT_OUT_MAX = 10_000
"""How many files and folders beside the bundle's own may be left out, each one counted."""
RATIO_MAX = 100
"""The largest ratio of unpacked to packed size of one entry: text reaches 20, a zip bomb 1,000."""
PATH_CHARACTERS_MAX = 200
PATH_PARTS_MAX = 10
LIST_NAME = "MANIFEST.sha256"
SIGNATURES_NAME = "SIGNATURES.json"
RESERVED = (LIST_NAME, SIGNATURES_NAME)

_FOR_TOOLS = ("package-lock.json", "tsconfig.json", "jsconfig.json")
"""JSON that npm and compilers read; the first may be larger than the plugin."""
_IMPORTS_SOURCE = re.compile(rb"""["'`]\.{1,2}/(?:\.{1,2}/){0,10}src/""")
"""An address as ``"./src/shape.js"``. Whatever is written to escape this is not found by the loader, which says so."""
_LONE_RETURN = re.compile(rb"\r(?!\n)")
_NATIVE_SUFFIX = re.compile(r"\.(so(\.\d+)*|pyd|dll|dylib|exe|o|a|wasm|node)\Z", re.IGNORECASE)
_NATIVE_MAGIC = (b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
                 b"\xca\xfe\xba\xbe", b"\0asm")
_LIST_LINE = re.compile(r"([0-9a-f]{64})  (0|[1-9][0-9]{0,9})  ([^\n]+)")
_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"


def _problem(code: str, path: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"code": code, "path": path, "message": message, "hint": hint}


_SMALLER = "leave out what the plugin does not need"


def _refuse(problems: list[dict[str, Any]], where: str) -> Refusal:
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Refusal(first["code"], f"{where}: {first['path']}: {first['message']}{more}"[:1000], hint=first["hint"],
                   code=Code.INVALID_INPUT, problems=problems[:100])


def _too_large(sizes: dict[str, int]) -> dict[str, Any]:
    largest = max(sizes, key=sizes.__getitem__)
    return _problem("bundle_too_large", "$", Bounds.words(len(sizes), sum(sizes.values())),
                    f"{_SMALLER}; its largest file is {largest} with {sizes[largest]:,} bytes")


class Bundle:
    """One version of one plugin: its manifest, its files, and the digest that names them.

    ``files`` holds every file, ``loaded`` the files that a worker gets (``tests/`` is excluded, and in a JavaScript
    bundle what no module can import), and ``sha256`` their hashes.
    """

    def __init__(self, manifest: Manifest, files: dict[str, bytes]) -> None:
        self.manifest = manifest
        self.files = dict(sorted(files.items()))
        self.listing = make_listing(self.files)
        self.digest = hashlib.sha256(self.listing).hexdigest()
        self.loaded = _loaded(manifest, self.files)
        self.sha256 = {path: hashlib.sha256(body).hexdigest() for path, body in self.loaded.items()}

        self._maps: SourceMaps | None = None
        self._vendored: dict[str, Package] | None = None

    @property
    def vendored(self) -> dict[str, Package]:
        """The files in ``vendor/`` by path, each with the package that it belongs to, unchanged.

        A JavaScript bundle has none: nobody has compared its files with a lock."""
        if self._vendored is None:
            self._vendored = locked_files(self.files) if self.manifest.runtime == PYTHON.name else {}
        return self._vendored

    @property
    def maps(self) -> SourceMaps:
        """The source maps of its JavaScript, which are read when they are needed."""
        if self._maps is None:
            self._maps = SourceMaps(self.manifest.id, self.files)
        return self._maps

    def in_source(self, text: str) -> str:
        """``text``, a traceback or a message, with places in the bundle's JavaScript as those of the author's source.
        It stays as it is if the bundle has no source maps. Blocks while a map is read."""
        return self.maps.rewritten(text)

    def in_source_all(self, texts: list[str]) -> list[str]:
        """The same for several texts, together: each map is read once for all of them, which may take a second."""
        return self.in_source("\0".join(text.replace("\0", "\ufffd") for text in texts)).split("\0") if texts else []

    @property
    def map_files(self) -> dict[str, bytes]:
        """As much of the bundle as its source maps are found by: they, and the ends of the JavaScript that names them;
        empty if none does."""
        ends = {path: end for path, body in self.files.items()
                if path.endswith(JAVASCRIPT.suffixes) and (end := map_comment(body))}
        return ends and {**{path: body for path, body in self.files.items() if path.endswith(".map")}, **ends}

    @property
    def entrypoint(self) -> str:
        """The entry point's path inside the bundle."""
        return self.manifest.entrypoint

    def spec(self, policy: Limits) -> PluginSpec:
        """What the pool serves. The manifest's limits can lower ``policy`` but never raise it."""
        return spec_of(self.manifest, self.digest, policy)


def _loaded(manifest: Manifest, files: dict[str, bytes]) -> dict[str, bytes]:
    """What a worker gets of ``files``. A JavaScript worker gets modules and JSON: source maps and TypeScript are for
    readers. It gets ``src/``, which a bundler's output was made of, only if code outside imports from there."""
    served = {path: body for path, body in files.items() if not path.startswith("tests/")}
    if manifest.runtime != JAVASCRIPT.name:
        return served
    served = {path: body for path, body in served.items()
              if path.endswith((*JAVASCRIPT.suffixes, ".json")) and path not in _FOR_TOOLS}
    if manifest.entrypoint.startswith("src/") or any(
            _IMPORTS_SOURCE.search(body) for path, body in served.items() if not path.startswith("src/")):
        return served
    return {path: body for path, body in served.items() if not path.startswith("src/")}


def spec_of(manifest: Manifest, digest: str, policy: Limits) -> PluginSpec:
    """The pool's view of ``manifest``, enabled for everybody. Limits are those of ``policy``, lowered by the
    manifest's."""
    return PluginSpec(
        id=manifest.id, version=manifest.version, digest=digest, entrypoint=manifest.entrypoint,
        hooks=tuple(manifest.manifest.hooks), permissions=tuple(manifest.permissions), priority=manifest.priority,
        limits=manifest.limits.within(policy), network_allow=tuple(manifest.network.allow),
        tables=tuple(manifest.data.tables), name=manifest.name, author=manifest.author, runtime=manifest.runtime,
        isolation=manifest.isolation, ordering=manifest.ordering, settings=manifest.declared_settings())


def make_listing(files: dict[str, bytes]) -> bytes:
    """``MANIFEST.sha256`` of ``files``."""
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {len(body)}  {path}\n"
                   for path, body in sorted(files.items())).encode()


# ---------------------------------------------------------------------- what every bundle must satisfy
def _name_problem(name: str) -> str:
    """What is wrong with a path inside a bundle; "" if nothing is."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name:
        return "an absolute path, a drive or a backslash"
    if any(part in ("", ".", "..") for part in parts):
        return "a path with an empty, . or .. part"
    if len(name) > PATH_CHARACTERS_MAX or len(parts) > PATH_PARTS_MAX:
        return f"a path over {PATH_CHARACTERS_MAX} characters or {PATH_PARTS_MAX} parts"
    if not name.isprintable() or not unicodedata.is_normalized("NFC", name):
        return "a path with invisible, undecodable or unnormalised characters"
    if any(part.endswith((" ", ".")) or part.startswith(" ") for part in parts):
        return "a part that begins or ends with a space or ends with a dot"
    return ""


def _source_problem(body: bytes) -> str:
    return _text_problem(body) or _encoding_problem(body)


def _text_problem(body: bytes) -> str:
    """What keeps ``body`` from being plain UTF-8; "" if nothing does."""
    if b"\0" in body:
        return "it holds a NUL byte"
    if body.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    return ""


def _encoding_problem(body: bytes) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(body).readline)
    except SyntaxError:
        return "it is not UTF-8"
    return "" if encoding == "utf-8" else f"it declares the encoding {encoding}"


def is_native(name: str, body: bytes) -> bool:
    """Whether a file is native code, by its name or its first bytes."""
    if _NATIVE_SUFFIX.search(name) or body.startswith(_NATIVE_MAGIC):
        return True
    if body[:2] == b"MZ" and len(body) >= 64:
        (offset,) = struct.unpack_from("<I", body, 60)
        return body[offset : offset + 4] == b"PE\0\0"
    return False


def _file_problems(files: dict[str, bytes], is_stored: bool) -> Iterator[dict[str, Any]]:
    for name, body in files.items():
        if name.lower().endswith((".pyc", ".pyo")) or "__pycache__" in name.split("/"):
            yield _problem("compiled_code", name, "compiled Python is not accepted", "ship the source only")
        elif name.startswith(VENDOR) and LOCK_NAME in files:
            continue  # a package may declare another encoding; its files are the wheel's, unchanged
        elif name.endswith((".py", ".pyi", ".pyw")) and (wrong := _source_problem(body)):
            yield _problem("not_utf8", name, f"Python source must be plain UTF-8: {wrong}", "save it as UTF-8")
        elif name.endswith((".py", ".pyi", ".pyw")) and not is_stored and _LONE_RETURN.search(body):
            yield _problem("line_ends", name, "a carriage return stands alone: Python begins a new line there, and an "
                           "editor shows what follows as part of the line before, of a comment for example",
                           "save it with line ends LF or CR LF")


def _native_problems(files: dict[str, bytes], is_javascript: bool) -> Iterator[dict[str, Any]]:
    hint = ("use a package that is written in JavaScript alone; the engine has neither WebAssembly nor native modules"
            if is_javascript else "write the plugin in pure Python")
    for name, body in files.items():
        if is_native(name, body):
            yield _problem("native_code", name, "native code is not accepted", hint)


def _javascript_problems(files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """What a bundle in JavaScript may not hold, beside what no bundle may."""
    packages: set[str] = set()
    for name, body in files.items():
        at = f"/{name}".find("/node_modules/")
        if at >= 0:
            packages.add(name[: at + len("node_modules/")])
        elif name.endswith((*JAVASCRIPT.suffixes, ".json")):
            if wrong := _text_problem(body):
                yield _problem("not_utf8", name, f"JavaScript and JSON must be plain UTF-8: {wrong}",
                               "save it as UTF-8 without a byte order mark")
            elif _LONE_RETURN.search(body):
                yield _problem("line_ends", name, "a carriage return stands alone: the engine begins a new line there, "
                               "and an editor does not", "save it with line ends LF or CR LF")
    for folder in sorted(packages):
        yield _problem("node_modules", folder, "packages of npm are not accepted as they are",
                       f"bundle what you use into one file: npx {BUNDLE_COMMAND}")


def _collisions(names: list[str]) -> Iterator[dict[str, Any]]:
    """Names that some file system would treat as equal, and files whose name is also used as a folder."""
    seen: dict[str, str] = {unicodedata.normalize("NFKC", name).casefold(): name for name in RESERVED}
    folders: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        other = seen.get(key)
        if other is not None:
            word = "appears twice" if other == name else f"differs from {other!a} only in case or Unicode form"
            yield _problem("name_collision", name, f"the name {word}", "rename one")
        seen[key] = name
        parts = key.split("/")
        for end in range(1, len(parts)):
            folders["/".join(parts[:end])] = name
    for key, name in folders.items():
        if key in seen:
            yield _problem("name_collision", seen[key], f"it is a file, but {name!a} needs a folder", "rename one")


def make_bundle(files: dict[str, bytes], where: str, left_out: Collection[str] = (), *,
                is_stored: bool = False) -> Bundle:
    """The bundle of ``files`` (without list and signatures). Raises Refusal with every problem at once. ``left_out``
    are the names that the folder has beside them, for the words of a refusal. One that ``is_stored`` was accepted
    before, maybe under larger bounds."""
    problems = [_problem("unsafe_path", ascii(name)[1:-1], wrong, "use plain relative paths")
                for name in files if (wrong := _name_problem(name))]
    problems += _collisions(list(files))
    problems += _file_problems(files, is_stored)
    if not is_stored and not Bounds.fit(len(files), sum(map(len, files.values()))):
        problems.append(_too_large({name: len(body) for name, body in files.items()}))
    data = files.get("manifest.json")
    if data is None:
        problems += _native_problems(files, is_javascript=False)
        problems.append(_problem("manifest_missing", "manifest.json", "the bundle has no manifest",
                                 "a bundle has a manifest.json at its top; `apex-exec plugin new` makes one"))
        raise _refuse(problems, where)
    manifest, wrong_manifest = check_manifest(data)
    is_javascript = manifest is not None and manifest.runtime == JAVASCRIPT.name
    problems += _native_problems(files, is_javascript)
    if is_javascript:
        problems += _javascript_problems(files)
    elif manifest is not None:
        problems += lock_problems(files, manifest.dependencies)
    if manifest is not None and manifest.entrypoint not in files:
        hidden = next((name for name in left_out if manifest.entrypoint == name or (
            name.endswith("/") and manifest.entrypoint.startswith(name))), "")
        problems.append(_problem("entrypoint_missing", manifest.entrypoint, "the entry point is not in the bundle",
                                 f"{hidden} is left out; write !/{hidden} in {IGNORE_NAME} to have it packed" if hidden
                                 else "name a file that is there in $.manifest.entrypoint"))
    elif manifest is not None and manifest.entrypoint.startswith("tests/"):
        problems.append(_problem("entrypoint_missing", manifest.entrypoint, "tests/ is not loaded into workers",
                                 "move the entry point out of tests/"))
    elif (manifest is not None and not is_stored and not is_javascript and LOCK_NAME in files
          and manifest.entrypoint.startswith(VENDOR)):  # what is a package's is not read as the author's own
        problems.append(_problem("entrypoint_vendored", manifest.entrypoint, "the entry point is a file of a package",
                                 "write it beside vendor/, and import the package there"))
    if manifest is not None:
        problems += picture_problems(manifest, files)
    if problems:
        raise _refuse([*problems, *wrong_manifest], where)
    if manifest is None:
        raise manifest_refusal(wrong_manifest, f"{where}: manifest.json")
    return Bundle(manifest, files)


# ---------------------------------------------------------------------- folders
def read_folder(folder: Path, left_out: list[str] | None = None, output: Path | None = None) -> Bundle:
    """The bundle in ``folder``. Raises Refusal.

    Names that begin with a dot, ``__pycache__``, everything that ``ignoring.USUAL`` and the folder's ``.apxignore``
    match, and the file ``output`` are excluded. ``left_out`` receives their paths; the path of a folder ends with a
    ``/``.
    """
    files: dict[str, bytes] = {}
    problems: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    total_bytes = 0
    if not folder.is_dir():
        raise Refusal("not_found", f"the folder {folder} does not exist", code=Code.NOT_FOUND,
                      hint="a bundle is a folder with a manifest.json")
    left_out = [] if left_out is None else left_out
    try:
        ignore = _read_ignore(folder)
        is_locked = (folder / LOCK_NAME).is_file()
        own = None if output is None else output.parent.resolve() / output.name
        for path, name in _walk(folder, "", ignore, left_out, is_locked):
            info = path.lstat()
            if own is not None and path.name == own.name and path.parent.resolve() == own.parent:
                continue
            if stat.S_ISLNK(info.st_mode):
                problems.append(_problem("link_refused", name, "it is a symbolic link", "copy the file itself"))
            elif not stat.S_ISREG(info.st_mode):
                problems.append(_problem("special_file", name, "it is a device, pipe or socket", "remove it"))
            elif info.st_nlink > 1:
                problems.append(_problem("link_refused", name, "it is a hard link", "copy the file itself"))
            else:
                sizes[name] = info.st_size
                total_bytes += info.st_size
                if Bounds.fit(len(sizes), total_bytes):
                    files[name] = _read_regular(path, Bounds.bytes_max)
    except OSError as error:
        raise Refusal("unreadable", f"{folder}: {error}", hint="make it readable for this user") from None
    if not Bounds.fit(len(sizes), sum(sizes.values())):
        problems.append(_too_large(sizes))
    if problems:
        raise _refuse(problems, str(folder))
    return make_bundle(files, str(folder), left_out)


def _read_ignore(folder: Path) -> Ignore:
    """The folder's ignore rules. Raises Refusal, OSError."""
    path = folder / IGNORE_NAME
    try:
        body = _read_regular(path, IGNORE_BYTES_MAX)
    except FileNotFoundError:
        return Ignore()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None or len(body) > IGNORE_BYTES_MAX:
        raise Refusal("bad_ignore", f"{path} is not UTF-8, or is larger than {IGNORE_BYTES_MAX} bytes",
                      code=Code.INVALID_INPUT, hint="write one pattern a line, as in a .gitignore")
    return Ignore(text)


def _walk(folder: Path, prefix: str, ignore: Ignore, left_out: list[str],
          is_locked: bool) -> Iterator[tuple[Path, str]]:
    """The files below ``folder``. With ``is_locked``, what lies in ``vendor/`` is there because its lock says so."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = prefix + entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if (entry.name.startswith(".") or entry.name == "__pycache__" or name in RESERVED
                or (not (is_locked and name.startswith(VENDOR)) and ignore.leaves_out(name, is_folder))):
            left_out.append(name + "/" * is_folder)
            if len(left_out) > LEFT_OUT_MAX:
                raise Refusal("bundle_too_large", f"over {LEFT_OUT_MAX} files beside those of the bundle",
                              code=Code.INVALID_INPUT, hint="name their folders in .apxignore, not the files")
            continue
        if is_folder and prefix.count("/") < PATH_PARTS_MAX:
            yield from _walk(Path(entry.path), name + "/", ignore, left_out, is_locked)
        else:
            yield Path(entry.path), name


def _read_regular(path: Path, bytes_max: int) -> bytes:
    """The bytes of a regular file that is not a link: at most ``bytes_max`` + 1 of them. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(bytes_max + 1)


# ---------------------------------------------------------------------- .apx files
def pack(bundle: Bundle, signatures: bytes = b"") -> bytes:
    """``bundle`` as an ``.apx``: the same files give the same bytes on any machine. Entries are stored, not deflated:
    zlib's output differs between its versions, and a bundle is small."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        bodies = {LIST_NAME: bundle.listing, **bundle.files}
        if signatures:
            bodies[SIGNATURES_NAME] = signatures
        for name, body in bodies.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, whatever the machine
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, body)
    return out.getvalue()


def _broken(where: str, message: str) -> Refusal:
    return Refusal("not_a_bundle", f"{where}: {message}", hint="make it with `apex-exec plugin pack DIR`",
                   code=Code.INVALID_INPUT)


def _check_ends(data: bytes, where: str, is_stored: bool) -> None:
    """Counts the entries before any is parsed. No bytes may precede the first entry or follow the end record."""
    if not is_stored and len(data) > Bounds.apx_bytes_max():
        raise Refusal("bundle_too_large", f"{where}: it is larger than {Bounds.apx_bytes_max():,} bytes; a bundle has "
                      f"at most {Bounds.files_max:,} files (registry.bundle_files) and {Bounds.bytes_max:,} bytes "
                      "(registry.bundle_bytes)", hint=_SMALLER, code=Code.INVALID_INPUT)
    if not data.startswith(b"PK\x03\x04") or len(data) < _END.size or data[-_END.size :][:4] != _END_MAGIC:
        raise _broken(where, "it is not an .apx file, or it is cut short or has something appended")
    _, disk, start, here, entries, size, offset, _ = _END.unpack(data[-_END.size :])
    if here != entries or (not is_stored and entries > Bounds.files_max + len(RESERVED)):
        raise Refusal("bundle_too_large", f"{where}: it announces {entries} entries; a bundle has at most "
                      f"{Bounds.files_max:,} files (registry.bundle_files) and {Bounds.bytes_max:,} bytes "
                      "(registry.bundle_bytes)", hint=_SMALLER, code=Code.INVALID_INPUT)
    if disk or start or offset + size + _END.size != len(data):
        raise _broken(where, "its parts do not add up to the file")


def _entry_problems(info: zipfile.ZipInfo) -> Iterator[dict[str, Any]]:
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if "\0" in info.orig_filename:
        yield _problem("unsafe_path", ascii(info.orig_filename)[1:-1], "a path with a NUL", "use plain relative paths")
    if kind == stat.S_IFLNK or _has_unix_extra(info.extra):
        yield _problem("link_refused", name, "it is a link", "ship the file itself")
    elif kind not in (0, stat.S_IFREG):
        yield _problem("special_file", name, "it is a device, pipe, socket or folder", "ship plain files only")
    if info.flag_bits & 0x1:
        yield _problem("not_a_bundle", name, "it is encrypted", "pack it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield _problem("not_a_bundle", name, "its compression is neither stored nor deflated",
                       "pack it with `apex-exec plugin pack DIR`")
    if info.file_size > RATIO_MAX * max(1, info.compress_size):
        yield _problem("ratio_too_high", name, f"it unpacks to more than {RATIO_MAX} times its size",
                       "ship plain files")


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # Read by size, because ``ZipFile.read`` inflates a whole entry before it compares the size with the announced one.
    with archive.open(info) as entry:
        body = entry.read(info.file_size)
        if len(body) != info.file_size or entry.read(1):
            raise zipfile.BadZipFile(f"{info.filename!a} does not have the size that it announces")
    return body


def _has_unix_extra(extra: bytes) -> bool:
    """True if the entry carries a Unix or ASi field, which may name a link's or a device's target."""
    offset = 0
    while offset + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, offset)
        if kind in (0x000D, 0x756E):
            return True
        offset += 4 + size
    return False


def unpack(data: bytes, where: str = "bundle", *, is_stored: bool = False) -> tuple[Bundle, bytes]:
    """The bundle in the bytes of an ``.apx``, and its signature file (b"" if it is unsigned). Raises Refusal.

    Memory is bounded by ``Bounds``, whatever sizes the file announces; one that ``is_stored`` was checked before.
    """
    _check_ends(data, where, is_stored)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            problems = [problem for info in infos for problem in _entry_problems(info)]
            names = [info.filename for info in infos]
            problems += _collisions([name for name in names if name not in RESERVED])
            problems += [_problem("name_collision", name, "it appears twice", "remove one")
                         for name in RESERVED if names.count(name) > 1]
            size = sum(info.file_size for info in infos)
            if not is_stored and size > Bounds.apx_bytes_max():
                problems.append(_problem("bundle_too_large", "$", Bounds.words(len(infos), size), _SMALLER))
            if problems:
                raise _refuse(problems, where)
            bodies = {info.filename: _read_entry(archive, info) for info in infos}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error,
            zlib.error) as error:
        raise _broken(where, f"it cannot be unpacked: {error}"[:200]) from None
    listing, signatures = bodies.pop(LIST_NAME, b""), bodies.pop(SIGNATURES_NAME, b"")
    if problems := list(_listing_problems(listing, bodies)):
        raise _refuse(problems, where)
    return make_bundle(bodies, where, is_stored=is_stored), signatures


def _listing_problems(listing: bytes, files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    hint = "pack it again with `apex-exec plugin pack DIR`"
    if not listing:
        yield _problem("list_missing", LIST_NAME, "the bundle has no list of its files", hint)
        return
    listed: dict[str, tuple[str, int]] = {}
    for line in listing.decode("utf-8", "replace").split("\n")[:-1]:
        match = _LIST_LINE.fullmatch(line)
        if match is None:
            yield _problem("list_malformed", LIST_NAME, f"not `<sha256>  <size>  <path>`: {line[:80]!a}", hint)
            return
        listed[match[3]] = (match[1], int(match[2]))
    for name in files.keys() - listed.keys():
        yield _problem("undeclared_file", name, "it is in the bundle and not in its list", hint)
    for name in listed.keys() - files.keys():
        yield _problem("missing_file", name, "it is in the list and not in the bundle", hint)
    for name in sorted(files.keys() & listed.keys()):
        if (hashlib.sha256(files[name]).hexdigest(), len(files[name])) != listed[name]:
            yield _problem("hash_mismatch", name, "its content differs from the hash in the list", hint)
    if make_listing(files) != listing and listed.keys() == files.keys():
        yield _problem("list_malformed", LIST_NAME, "the list does not match the files", hint)


def read_apx(path: Path) -> tuple[Bundle, bytes]:
    """The bundle in the file ``path`` and its signature file. Raises Refusal."""
    try:
        data = _read_regular(path, Bounds.apx_bytes_max())
    except FileNotFoundError:
        raise Refusal("not_found", f"the file {path} does not exist", code=Code.NOT_FOUND,
                      hint="make one with `apex-exec plugin pack DIR`") from None
    except OSError as error:
        raise Refusal("unreadable", f"{path}: {error}", hint="make it a readable, regular file") from None
    return unpack(data, str(path))


def read_path(path: Path) -> tuple[Bundle, bytes]:
    """The bundle in a folder or an ``.apx`` file, and its signature file. Raises Refusal."""
    return (read_folder(path), b"") if path.is_dir() else read_apx(path)
