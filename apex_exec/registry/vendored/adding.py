"""``plugin add``: packages of PyPI as files of the bundle, from wheels that pip has chosen.

The packages are tried in the real jail before a file is written: what cannot be imported in a worker (a compiled part,
a thread, a socket) is refused with the reason, and the plugin's folder stays as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from packaging.utils import canonicalize_name

from apex_exec.common.files import replace_file
from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.bundle import is_native
from apex_exec.registry.vendored.index import Chosen, Source, choose, fetch
from apex_exec.registry.vendored.lock import LOCK_NAME, VENDOR, Lock, Package, lock_problems, read_lock, requirement
from apex_exec.registry.vendored.wheel import Wheel, read_wheel

Try = Callable[[list[str], dict[str, bytes]], str]
"""``try_import(modules, files)``: imports the modules in a jailed worker; "" or why that failed."""

NOTES_MAX = 20
_USES = {
    "threads": re.compile(rb"\b(?:threading\.(?:Thread|Timer)|ThreadPoolExecutor|start_new_thread)\("),
    "sockets": re.compile(rb"\bsocket\.(?:socket|create_connection|create_server)\("),
    "processes": re.compile(rb"\b(?:subprocess\.(?:run|Popen|call|check_output)|multiprocessing\.Process|os\.fork)\("),
}
"""What a package may do when it is called, and a plugin cannot."""


class Added(NamedTuple):
    """What ``plugin add`` has done. ``notes`` are for the author to read."""

    lock: Lock
    changed: list[str]
    """One line for each package that came, went or has another version."""
    notes: list[str]
    tried: bool


class Folder:
    """The plugin's folder, as far as vendoring is concerned. Raises Refusal if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
            if not isinstance(self.manifest, dict):
                raise ValueError
        except FileNotFoundError:
            raise Refusal("manifest_missing", f"{path} has no manifest.json", code=Code.NOT_FOUND,
                          hint="run it in a plugin's folder, or name the folder with --dir") from None
        except (OSError, ValueError) as error:
            raise Refusal("manifest_invalid", f"{path / 'manifest.json'}: {error or 'not a JSON map'}",
                          code=Code.INVALID_INPUT, hint="`apex-exec plugin validate` says more") from None
        given = self.manifest.get("dependencies", [])
        self.dependencies = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []

    @property
    def entrypoint(self) -> str:
        """The manifest's entry point; "" if it names none."""
        inner = self.manifest.get("manifest")
        return str(inner.get("entrypoint", "")) if isinstance(inner, dict) else ""

    def lock(self) -> Lock | None:
        """The lock that is there. Raises Refusal."""
        try:
            return read_lock({LOCK_NAME: (self.path / LOCK_NAME).read_bytes()})
        except FileNotFoundError:
            return None

    def write(self, lock: Lock, files: dict[str, bytes]) -> None:
        """Puts the packages, the lock and the dependencies in place: ``vendor/`` is exchanged as a whole, and what
        stood there stays if it cannot be. Raises OSError."""
        fresh = Path(tempfile.mkdtemp(prefix=".vendor-", dir=self.path))
        old = fresh.with_name(f"{fresh.name}.old")
        try:
            fresh.chmod(0o777 & ~_umask())
            for name, body in files.items():
                target = fresh / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(body)
            place = self.path / VENDOR.rstrip("/")
            if place.exists():
                place.rename(old)
            try:
                if files:
                    fresh.rename(place)
            except BaseException:
                if old.exists():
                    old.rename(place)
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        if lock.packages:
            replace_file(self.path / LOCK_NAME, lock.encoded(), mode=0o666)
        else:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
        self.manifest.pop("dependencies", None)
        if lock.requires:
            self.manifest["dependencies"] = list(lock.requires)
        replace_file(self.path / "manifest.json", (json.dumps(self.manifest, indent=2, ensure_ascii=False)
                                                   + "\n").encode(), mode=0o666)


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now


def add(folder: Folder, names: list[str], remove: list[str], source: Source, try_import: Try | None) -> Added:
    """Adds, exchanges or removes packages; without names, puts ``vendor/`` back as the lock says. Blocks for pip.

    Raises Refusal; the folder is unchanged then.
    """
    _check_own(folder)
    before = folder.lock()
    wanted = _wanted(folder.dependencies, names, remove)
    with tempfile.TemporaryDirectory(prefix="apex-add-") as name:
        if before is not None and not names and not remove and list(before.requires) == wanted:
            chosen = [Chosen(one.name, one.version, one.wheel, one.sha256) for one in before.packages]
        else:
            chosen = choose(wanted, source, Path(name)) if wanted else []
        wheels = _wheels(chosen, source, Path(name))
    named = [text if requirement(text).specifier else _pinned(text, wheels) for text in wanted]
    lock = Lock(requires=tuple(named), packages=tuple(_with_needs(wheel, wheels) for wheel in wheels.values()))
    files = _merged(wheels)
    _check_size(folder, files)
    checked = {VENDOR + path: body for path, body in files.items()} | {LOCK_NAME: lock.encoded()}
    if problems := list(lock_problems(checked, lock.requires)):
        raise Refusal(problems[0]["code"], f"{problems[0]['path']}: {problems[0]['message']}", code=Code.REFUSED,
                      hint="take another version of the package", problems=problems)
    notes = _notes(wheels)
    if try_import is not None and wheels:
        _try(wheels, [canonicalize_name(requirement(text).name) for text in named], files, try_import)
    folder.write(lock, files)
    return Added(lock, _changes(before, lock), notes, try_import is not None)


def check(folder: Folder, source: Source) -> list[str]:
    """Fetches every wheel of the lock again, by its hash, and compares ``vendor/`` with it. Returns what differs.

    This shows a reviewer that the packages are the index's own. Raises Refusal, also for a wheel that was replaced.
    """
    lock = folder.lock()
    if lock is None:
        raise Refusal("not_vendored", f"{folder.path} has no {LOCK_NAME}: nothing is vendored", code=Code.NOT_FOUND,
                      hint="there is nothing to check")
    chosen = [Chosen(one.name, one.version, one.wheel, one.sha256) for one in lock.packages]
    with tempfile.TemporaryDirectory(prefix="apex-add-") as name:
        wheels = _wheels(chosen, source, Path(name))
    wanted = _merged(wheels)
    place = folder.path / VENDOR
    here = {str(path.relative_to(place)): path for path in place.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}  # Python's own; no bundle has it
    return sorted([f"{VENDOR}{path}: no package has it" for path in here.keys() - wanted.keys()]
                  + [f"{VENDOR}{path}: it is missing" for path in wanted.keys() - here.keys()]
                  + [f"{VENDOR}{path}: it differs from the wheel's" for path in wanted.keys() & here.keys()
                     if here[path].read_bytes() != wanted[path]])


def _check_own(folder: Folder) -> None:
    if (folder.path / VENDOR).exists() and not (folder.path / LOCK_NAME).exists():
        raise Refusal("vendor_unknown", f"{folder.path / VENDOR} was not made by `plugin add`, which would replace it",
                      code=Code.CONFLICT, hint="move it away, or to another name")


def _wanted(dependencies: list[str], names: list[str], remove: list[str]) -> list[str]:
    """The dependencies with ``names`` in the place of those of the same package. Raises Refusal."""
    made: dict[str, str] = {}
    for text in dependencies:
        made[canonicalize_name(requirement(text).name)] = text
    fresh: dict[str, str] = {}
    for text in names:
        key = canonicalize_name(requirement(text).name)
        if fresh.get(key, text) != text:
            raise Refusal("conflict", f"{fresh[key]} and {text} are two versions of one package; Python can load one "
                          "only", code=Code.INVALID_INPUT, hint="name it once")
        fresh[key] = text
    made |= fresh
    for text in remove:
        if made.pop(canonicalize_name(text), None) is None:
            raise Refusal("not_vendored", f"{text[:80]} is not among the manifest's dependencies", code=Code.NOT_FOUND,
                          hint=f"they are {', '.join(made) or 'none'}; what another package needs goes with that one")
    return list(made.values())


def _pinned(text: str, wheels: dict[str, Wheel]) -> str:
    return f"{text}=={wheels[canonicalize_name(requirement(text).name)].package.version}"


def _wheels(chosen: list[Chosen], source: Source, folder: Path) -> dict[str, Wheel]:
    if not chosen:
        return {}
    paths = fetch(chosen, source, folder)
    return {one.name: read_wheel(paths[one.name], is_native) for one in sorted(chosen)}


def _with_needs(wheel: Wheel, wheels: dict[str, Wheel]) -> Package:
    needs = sorted({canonicalize_name(one.name) for one in wheel.requires} & wheels.keys())
    return msgspec.structs.replace(wheel.package, requires=tuple(needs))


def _merged(wheels: dict[str, Wheel]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    owner: dict[str, str] = {}
    for name, wheel in wheels.items():
        for path, body in wheel.files.items():
            if path in files and files[path] != body:
                raise Refusal("conflict", f"{name} and {owner[path]} both have the file {path}", code=Code.REFUSED,
                              hint="they cannot be in one bundle")
            files[path], owner[path] = body, name
    return files


def _check_size(folder: Folder, files: dict[str, bytes]) -> None:
    own = [path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink()
           and not str(path.relative_to(folder.path)).startswith((VENDOR, ".", "node_modules/"))]
    count, size = len(own) + len(files), sum(path.stat().st_size for path in own) + sum(map(len, files.values()))
    if not Bounds.fit(count, size):
        raise Refusal("bundle_too_large", f"with these packages the bundle is too large: {Bounds.words(count, size)}",
                      code=Code.INVALID_INPUT, hint="take a smaller package; an operator can raise both bounds")


def _try(wheels: dict[str, Wheel], direct: list[str], files: dict[str, bytes], try_import: Try) -> None:
    """Imports what was asked for, and every package that has lost a compiled part. Raises Refusal."""
    names = [name for name in wheels if name in direct or wheels[name].native]
    for name in names:
        why = try_import(modules_of(wheels[name]), files)
        if why:
            raise _unusable(name, wheels, why)


def _unusable(name: str, wheels: dict[str, Wheel], why: str) -> Refusal:
    blamed = next((other for other in wheels if f"/{VENDOR}{wheels[other].package.info.split('-')[0].lower()}/" in why),
                  name)
    natives = wheels[name].native or next((wheel.native for wheel in wheels.values() if wheel.native), ())
    has = re.search(r"(?:ModuleNotFoundError|ImportError|RuntimeError|gaierror): (.+)", why)
    if natives and not re.search(r"that plugins may import|has no threads|has no network", why):
        return Refusal("native_code", f"{name} does not work without its compiled part {natives[0]}: {why[:200]}",
                       code=Code.REFUSED, hint="a plugin is plain Python: take a package, or an older "
                                               "version, that is written in Python alone")
    reason = (has[1] if has else why)[:300].split("; the operator can add it")[0]
    return Refusal("unusable_package", f"{name} cannot be imported in a plugin"
                   + (f" because of {blamed}" if blamed != name else "") + f": {reason}", code=Code.REFUSED,
                   hint="choose a package that works without it; `apex-exec plugin add --help` lists what plugins lack")


def modules_of(wheel: Wheel) -> list[str]:
    """The names that the package is imported by: its packages and modules at the top, below namespaces."""
    return sorted(_modules([path for path in wheel.files if not path.startswith(f"{wheel.package.info}/")], ""))


def _modules(paths: Iterable[str], prefix: str) -> set[str]:
    found: set[str] = set()
    deeper: dict[str, list[str]] = {}
    for path in paths:
        head, _, rest = path.partition("/")
        if not rest and head.endswith(".py") and head != "__init__.py":
            if not (head.startswith("_") and prefix == "") and head[:-3].isidentifier():
                found.add(prefix + head[:-3])
        elif rest and head.isidentifier():
            deeper.setdefault(head, []).append(rest)
    for head, rests in deeper.items():
        if "__init__.py" in rests:
            if not head.startswith("_"):
                found.add(prefix + head)
        elif any(rest.endswith(".py") for rest in rests) and prefix.count(".") < 2:
            inner = _modules(rests, f"{prefix}{head}.")
            found |= set(sorted(inner)[:1]) if inner else set()
    return found


def _notes(wheels: dict[str, Wheel]) -> list[str]:
    notes = [f"{name}: left out its compiled parts ({', '.join(wheel.native[:3])}{' …' if wheel.native[3:] else ''}); "
             "its own Python is used" for name, wheel in wheels.items() if wheel.native]
    for name, wheel in wheels.items():
        for what, pattern in _USES.items():
            for path, body in wheel.files.items():
                if path.endswith(".py") and (match := pattern.search(body)):
                    line = body.count(b"\n", 0, match.start()) + 1
                    notes.append(f"{name}: {VENDOR}{path}:{line} uses {what}, which a plugin has not: that fails")
                    break
    return notes[:NOTES_MAX]


def _changes(before: Lock | None, after: Lock) -> list[str]:
    old = {one.name: one.version for one in before.packages} if before is not None else {}
    new = {one.name: one.version for one in after.packages}
    return [*(f"+ {name} {new[name]}" for name in new if name not in old),
            *(f"~ {name} {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]),
            *(f"- {name} {old[name]}" for name in old if name not in new)]
