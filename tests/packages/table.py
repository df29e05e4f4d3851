"""Vendors every package of ``rows.py`` with the real ``plugin add``, calls a hook that uses it in a real daemon's
jailed worker, and prints what came of it as a Markdown table.

``python -m tests.packages.table [--find-links DIR --offline] [--extra NAME…] [--write]`` takes a quarter of an hour,
and PyPI or a folder of wheels. ``--write`` puts the table into this folder's README.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from apex_exec.client import CallError, Client
from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.registry.trials.one_shot_worker import import_failure, jailed
from apex_exec.registry.vendored.adding import Added, Folder, add
from apex_exec.registry.vendored.index import Source
from apex_exec.registry.vendored.lock import VENDOR
from tests.packages.rows import LEFT_OUT, ROWS, Row
from tests.support.daemon import USER, Daemon, write_plugin

HERE = Path(__file__).parent
BEGIN, END = "<!-- packages -->\n", "<!-- /packages -->\n"
HOOK = '''
def use():
{code}


@plugin.hook("onActionExecute")
def act(context, params):
    use()
    return {{"result": "used", "metadata": {{}}}}
'''


class Result(NamedTuple):
    """One row of the table. ``failed`` is "" if the package was vendored and its use came to its end."""

    row: Row
    packages: str
    size: int
    failed: str


def write(folder: Path, row: Row) -> Path:
    """A plugin that uses the package."""
    id_ = f"uses-{re.sub('[^a-z0-9]+', '-', row.name)}"[:50]
    return write_plugin(folder, id_, HOOK.format(code=textwrap.indent(row.code, "    ")))


def vendor(rows: list[Row], folder: Path, source: Source) -> dict[str, Added | Refusal]:
    """Adds each package to a plugin of its own."""
    settings = load_settings(None)
    done: dict[str, Added | Refusal] = {}
    with jailed(settings) as executor:
        for row in rows:
            place = write(folder, row)
            try:
                done[row.name] = add(Folder(place), [row.requirement], [], source,
                                     lambda modules, files: import_failure(executor, settings, modules, files))
            except Refusal as error:
                done[row.name] = error
                shutil.rmtree(place)
            print(row.rank, row.name, error_of(done[row.name]) or "vendored", file=sys.stderr, flush=True)
    return done


def error_of(added: Added | Refusal) -> str:
    """Why a package could not be vendored, "" if it was."""
    return f"{added.message}" if isinstance(added, Refusal) else ""


def used(rows: list[Row], folder: Path, done: dict[str, Added | Refusal]) -> list[Result]:
    """Calls each plugin's hook in one daemon with the usual memory limit."""
    results = []
    with Daemon(plugins=folder, config={"limits.cpu_percent": 100, "limits.timeout_ms": 60_000,
                                        "pool.boot_seconds": 60, "pool.max_workers": 4}) as daemon, \
            Client(daemon.endpoint) as client:
        for row in rows:
            added = done[row.name]
            id_ = f"uses-{re.sub('[^a-z0-9]+', '-', row.name)}"[:50]
            failed = error_of(added)
            if not failed:
                try:
                    client.invoke(id_, "onActionExecute", USER, {"action": "x", "context": {}}, deadline_ms=60_000)
                except CallError as error:
                    trace = str(error.reply.get("details", {}).get("traceback", "")).strip().splitlines()
                    failed = f"{error.code}: {error}" + (f" ({trace[-2].strip()})" if len(trace) > 1 else "")
            place = folder / id_ / VENDOR
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.exists() else 0
            packages = ", ".join(f"{one.name} {one.version}" for one in added.lock.packages) if not isinstance(
                added, Refusal) else row.requirement
            results.append(Result(row, packages, size, failed))
            print(row.rank, row.name, failed or "used", file=sys.stderr, flush=True)
    return results


def table(results: list[Result]) -> str:
    """The results, and what is left out with its reason, in Markdown."""
    good = sum(not one.failed for one in results)
    lines = [f"{good} of {len(results)} are vendored, imported and used.", "",
             "| rank | package, and what was vendored for it | KiB | result |", "|---|---|---|---|"]
    for one in results:
        words = one.failed.replace("|", "\\|").replace("\n", " ")[:200]
        lines.append(f"| {one.row.rank} | {one.packages} | {one.size // 1024 or ''} | {words or 'used'} |")
    lines += ["", "Left out of the ranking, and why:", ""]
    lines += [f"- {reason}: {', '.join(sorted(names.split()))}." for reason, names in LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs it all. Returns 0 if at least 85 are used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find-links", default="")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rows", default="", help="a JSON file with other rows: [[rank, requirement, code], …]")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows: list[Any] = [row for row in ROWS if not given.only or row.name in given.only]
    if given.rows:
        rows = [Row(*row) for row in json.loads(Path(given.rows).read_text())]
    folder = Path(tempfile.mkdtemp(prefix="apxpkg"))
    folder.chmod(0o755)
    try:
        done = vendor(rows, folder / "plugins", Source("", str(Path(given.find_links).resolve()) if given.find_links
                                                       else "", given.offline))
        results = used(rows, folder / "plugins", done)
    finally:
        shutil.rmtree(folder)
    made = table(results)
    print(made)
    if given.write:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text("utf-8").partition(BEGIN)
        readme.write_text(before + BEGIN + made + END + rest.partition(END)[2], "utf-8")
    return 0 if sum(not one.failed for one in results) >= 85 else 1


if __name__ == "__main__":
    sys.exit(main())
