"""``plugin add`` in a JavaScript plugin: npm installs, and esbuild builds what is used into the plugin's one file.

Both are the author's own. npm runs no script of a package (``--ignore-scripts``); its ``package-lock.json`` is the
lock.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.manifest import BUNDLE_COMMAND

SECONDS_MAX = 600.0
SOURCES = ("src/plugin.ts", "src/plugin.js", "src/plugin.mjs")
ESBUILD = Path("node_modules", ".bin", "esbuild")


def add_packages(folder: Path, names: list[str], remove: list[str]) -> dict[str, Any]:
    """Installs, removes, and builds. Blocks for the network. Returns what is there. Raises Refusal in one line."""
    source = next((name for name in SOURCES if (folder / name).is_file()), None)
    if source is None:
        raise Refusal("no_source", f"{folder} has no source that can be bundled: none of {', '.join(SOURCES)} is there",
                      code=Code.NOT_FOUND, hint="move the code of index.js to src/plugin.js: index.js becomes what "
                                                "esbuild makes of it")
    npm = shutil.which("npm")
    if npm is None:
        raise Refusal("npm_missing", "npm is not installed", hint="install Node.js, which has npm")
    if not (folder / "package.json").is_file():
        raise Refusal("no_package_json", f"{folder} has no package.json", code=Code.NOT_FOUND,
                      hint="`apex-exec plugin new --js` writes one; `npm init -y` too")
    usual = [npm, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if remove:
        _run([*usual, "uninstall", *remove], folder, "npm")
    _run([*usual, "install", "--save-exact", *(name.replace("==", "@", 1) for name in names)], folder, "npm")
    if not (folder / ESBUILD).exists():
        raise Refusal("esbuild_missing", f"esbuild is not installed in {folder}", code=Code.NOT_FOUND,
                      hint="it is yours to choose: npm install --save-dev esbuild")
    _allow_esbuild(folder)
    command = [part.replace("src/plugin.ts", source) for part in shlex.split(BUNDLE_COMMAND)[1:]]
    _run([str((folder / ESBUILD).resolve()), *command, "--log-level=warning"], folder, "esbuild")
    return {"packages": _installed(folder), "built": "index.js", "bytes": (folder / "index.js").stat().st_size}


def _allow_esbuild(folder: Path) -> None:
    """esbuild's own binary comes as a package of its own, so its install script need not run."""
    if not any((folder / "node_modules" / "@esbuild").glob("*/bin/esbuild*")):
        raise Refusal("esbuild_missing", f"esbuild in {folder} has no program for this machine", code=Code.NOT_FOUND,
                      hint="install it with its optional packages: npm install --save-dev esbuild")


def _run(command: list[str], folder: Path, name: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"{name}_failed", f"{name} could not be run to its end: {error}"[:300],
                      hint="try again") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip() or done.stdout.decode("utf-8", "replace").strip()
        if any(word in said for word in ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH")):
            raise Refusal("index_unreachable", "the npm registry cannot be reached",
                          hint="connect this machine, or set another registry with `npm config set registry URL`")
        if "E404" in said:
            raise Refusal("no_such_package", "npm has no package of that name or version", code=Code.NOT_FOUND,
                          hint="look at its name with `npm view NAME`")
        lines = said.splitlines() or ["no reason"]
        line = next((line for line in lines if "rror" in line), lines[-1])
        raise Refusal(f"{name}_failed", f"{name}: {line}"[:400], hint=f"run `{name}` in {folder} to see all of it")


def _installed(folder: Path) -> list[dict[str, str]]:
    """The packages that the plugin asks for, with version and licence, by npm's own lock."""
    wanted = json.loads((folder / "package.json").read_bytes()).get("dependencies", {})
    locked = json.loads((folder / "package-lock.json").read_bytes()).get("packages", {})
    found = []
    for name in sorted(wanted):
        entry = locked.get(f"node_modules/{name}", {})
        found.append({"name": name, "version": str(entry.get("version", "")),
                      "licence": str(entry.get("license", "not stated"))[:100],
                      "integrity": str(entry.get("integrity", ""))})
    return found
