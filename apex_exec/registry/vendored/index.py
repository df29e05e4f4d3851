"""Asks pip which wheels a plugin's dependencies are, and fetches them: pip's own resolver, in a process of its own.

pip is the author's, with his configuration (index, proxy, certificates). It runs no code of a package: only wheels are
asked for, and they are never installed. Its words become one line that says what to do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from apex_exec.errors import Code, Refusal

SECONDS_MAX = 600.0
"""How long pip may take for all packages together."""
_OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|Max retries exceeded|ConnectTimeout|ReadTimeout|"
                      r"Connection refused|Network is unreachable|ProxyError|SSLError|Connection broken|timed out")
_NONE = re.compile(r"Could not find a version that satisfies the requirement (\S+?)(?: \(from [^)]*\))? ?"
                   r"\(from versions: ([^)]*)\)")
_YANKED = re.compile(r"selected for download or install is a yanked version: '([^']+)'")
_TWO = re.compile(r"Cannot install (.+?) because these package versions have conflicting dependencies")


class Source(NamedTuple):
    """Where wheels come from, beside what pip is configured for."""

    index_url: str = ""
    find_links: str = ""
    offline: bool = False

    def options(self) -> list[str]:
        """The same as options of pip."""
        return [*(["--index-url", self.index_url] if self.index_url else []),
                *(["--find-links", self.find_links] if self.find_links else []),
                *(["--no-index"] if self.offline else [])]


class Chosen(NamedTuple):
    """One package that pip has chosen. ``sha256`` is "" if the index does not say it."""

    name: str
    version: str
    wheel: str
    sha256: str


def _pip(arguments: list[str], seconds: float = SECONDS_MAX) -> tuple[int, str]:
    """Runs pip. Returns its status and what it said. Raises Refusal."""
    if find_spec("pip") is None:
        raise Refusal("pip_missing", "pip is not installed beside apex-exec, and vendoring needs its resolver",
                      hint=f"run `{sys.executable} -m ensurepip`, or install pip with the tool that made this "
                           "environment")
    command = [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check", "--no-color",
               "--retries", "1", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONWARNINGS": "ignore", "PIP_REQUIRE_VIRTUALENV": "0"})
    except subprocess.TimeoutExpired:
        raise Refusal("pip_too_slow", f"pip did not end within {seconds:g} s",
                      hint="try again, or name a folder of wheels with --find-links") from None
    except OSError as error:
        raise Refusal("pip_missing", f"pip cannot be started: {error}", hint="see `python -m pip --version`") from None
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def choose(requirements: list[str], source: Source, folder: Path) -> list[Chosen]:
    """The packages that fulfil ``requirements``, with all that they need. ``folder`` is for pip's report. Blocks for
    the network. Raises Refusal, in one line, with what to do."""
    report = folder / "report.json"
    status, said = _pip(["install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report",
                         str(report), "--quiet", "--target", str(folder / "nowhere"), *source.options(),
                         *requirements])
    if status:
        raise _explained(said, source)
    items = json.loads(report.read_bytes())["install"]
    withdrawn = {canonicalize_name(match[1]) for match in _YANKED.finditer(said)}  # older pips say it in words only
    for item in items:
        name, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
        if item.get("is_yanked") or name in withdrawn:
            raise Refusal("yanked", f"{name} {version} was withdrawn from the index by its authors (yanked)",
                          code=Code.REFUSED, hint=f"take another version, or the newest: apex-exec plugin add {name}")
    return [Chosen(canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"],
                   item["download_info"]["url"].rpartition("/")[2].partition("#")[0], _sha256(item["download_info"]))
            for item in items]


def _sha256(info: dict[str, Any]) -> str:
    archive = info.get("archive_info") or {}
    return str((archive.get("hashes") or {}).get("sha256") or "")


def fetch(chosen: list[Chosen], source: Source, folder: Path) -> dict[str, Path]:
    """The wheels by package, in ``folder``, each with the hash that ``chosen`` names. Raises Refusal."""
    found: dict[str, Path] = {}
    for tags, group in _by_tags(chosen).items():
        listed = folder / "requirements.txt"
        listed.write_text("".join(f"{one.name}=={one.version}"
                                  + (f" --hash=sha256:{one.sha256}" if one.sha256 else "") + "\n" for one in group))
        status, said = _pip(["download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(folder), *tags,
                             *source.options(), "--requirement", str(listed)])
        if status:
            raise _explained(said, source)
    by_name = {_name_of(path): path for path in folder.glob("*.whl")}
    for one in chosen:
        if one.name not in by_name:
            raise Refusal("not_fetched", f"pip did not fetch a wheel of {one.name} {one.version}", hint="try again")
        found[one.name] = by_name[one.name]
    return found


def _by_tags(chosen: list[Chosen]) -> dict[tuple[str, ...], list[Chosen]]:
    """Wheels for one platform are asked for by its tags, so that a lock is fulfilled on any machine."""
    groups: dict[tuple[str, ...], list[Chosen]] = {}
    for one in chosen:
        python, abi, platform = one.wheel.removesuffix(".whl").split("-")[-3:]
        match = re.match(r"cp(\d)(\d+)", python)
        options: tuple[str, ...] = ()
        if platform != "any" and match is not None:
            options = ("--python-version", f"{match[1]}.{match[2]}", "--implementation", "cp", "--abi", abi,
                       *(part for name in platform.split(".") for part in ("--platform", name)))
        groups.setdefault(options, []).append(one)
    return groups


def _name_of(path: Path) -> str:
    return canonicalize_name(path.name.split("-")[0])


def _explained(said: str, source: Source) -> Refusal:
    """pip's words as a Refusal."""
    if "DO NOT MATCH THE HASHES" in said or "do not match the hashes" in said.lower():
        name = re.search(r"^\s+(\S+==\S+)", said, re.MULTILINE)
        return Refusal("hash_changed", f"the wheel of {name[1] if name else 'a package'} is not the one that the lock "
                       "names: its SHA-256 differs", code=Code.REFUSED,
                       hint="somebody has replaced it: do not use it; if you trust the new file, remove the "
                            "package and add it again")
    if match := _TWO.search(said):
        causes = re.findall(r"^    (.+ depends on .+|The user requested .+)$", said, re.MULTILINE)
        return Refusal("conflict", f"{match[1]} cannot go together: {'; '.join(causes) or 'their requirements differ'}"
                       [:500], code=Code.INVALID_INPUT,
                       hint="Python can load one version of a package only: ask for versions that fit each other")
    if "Double requirement given" in said:
        line = re.search(r"Double requirement given: (.+)", said)
        return Refusal("conflict", f"one package is asked for in two versions: {line[1] if line else ''}"[:300],
                       code=Code.INVALID_INPUT, hint="name it once")
    if _OFFLINE.search(said) and not source.offline:
        return Refusal("index_unreachable", "the package index cannot be reached",
                       hint="connect this machine, name another index with --index-url, or a folder of wheels with "
                            "--find-links and --offline")
    if match := _NONE.search(said):
        return _not_found(match[1].rstrip(";"), match[2], source)
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return Refusal("pip_failed", f"pip: {lines[-1] if lines else said.strip()[-300:] or 'it gave no reason'}"[:400],
                   hint="see `python -m pip --help`")


def _not_found(wanted: str, versions: str, source: Source) -> Refusal:
    name = re.split(r"[=<>!~\[; ]", wanted)[0]
    if versions.strip() not in ("", "none"):
        return Refusal("no_such_version", f"there is no {wanted}; a wheel exists of {versions[-200:]}",
                       code=Code.NOT_FOUND, hint=f"for the newest: apex-exec plugin add {name}")
    status, said = _pip(["index", "versions", name, *source.options()], 60.0)
    match = re.search(r"Available versions: (.+)", said)
    if not status and match:
        return Refusal("sdist_only", f"{name} has no wheel for this Python, only source archives or wheels for others",
                       code=Code.REFUSED, hint="a source archive runs its own code when it is built: build a wheel "
                       f"yourself (pip wheel {name}) and name its folder with --find-links, or take another package")
    if _OFFLINE.search(said):
        return Refusal("index_unreachable", "the package index cannot be reached",
                       hint="connect this machine, or name a folder of wheels with --find-links and --offline")
    return Refusal("no_such_package", f"there is no package {wanted}", code=Code.NOT_FOUND,
                   hint="look at its name" + ("; only the named folder was searched" if source.offline else ""))
