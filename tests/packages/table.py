"""Vendors every package of ``rows.py`` with the real ``plugin add``, uses it in a real jailed worker with the usual
limits, and prints what came of it as a Markdown table.

``python -m tests.packages.table [--find-links DIR --offline] [--only NAME…] [--rows FILE] [--keep DIR] [--write]``
takes a quarter of an hour, and PyPI or a folder of wheels. ``--keep`` names a folder for the plugins: what is vendored
there already is not vendored again. ``--write`` puts the table into this folder's README.
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

from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.trials.one_shot_worker import declared_in, import_failure, jailed
from apex_exec.registry.vendored.adding import Folder, add
from apex_exec.registry.vendored.index import Source
from apex_exec.registry.vendored.lock import LOCK_NAME
from tests.packages.rows import LEFT_OUT, ROWS, Row
from tests.support.daemon import write_plugin

HERE = Path(__file__).parent
BEGIN, END = "<!-- packages -->\n", "<!-- /packages -->\n"
SECONDS_MAX = 120.0
USED_MIN = 85
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


def place_of(folder: Path, row: Row) -> Path:
    """Where the plugin lies that uses the package."""
    return folder / f"uses-{re.sub('[^a-z0-9]+', '-', row.name)}"[:50]


def vendor(rows: list[Row], folder: Path, source: Source) -> dict[str, str]:
    """Adds each package to a plugin of its own. Returns why that failed, by name, "" where it did not."""
    settings = load_settings(None)
    done: dict[str, str] = {}
    with jailed(settings) as executor:
        for row in rows:
            place = place_of(folder, row)
            done[row.name] = ""
            if not (place / LOCK_NAME).exists():
                shutil.rmtree(place, ignore_errors=True)
                write_plugin(folder, place.name, HOOK.format(code=textwrap.indent(row.code, "    ")))
                try:
                    add(Folder(place), row.requirement.split(), [], source,
                        lambda modules, files: import_failure(executor, settings, modules, files))
                except Refusal as error:
                    done[row.name] = error.message
            print(row.rank, row.name, done[row.name] or "vendored", file=sys.stderr, flush=True)
    return done


def used(rows: list[Row], folder: Path, done: dict[str, str]) -> list[Result]:
    """Runs what the hook runs, in a jailed worker of its own for each plugin, with the limits of any plugin."""
    settings = load_settings(None)
    results = []
    with jailed(settings) as executor:
        for row in rows:
            failed, packages, size = done[row.name], row.requirement, 0
            if not failed:
                try:
                    made = read_folder(place_of(folder, row))
                    packages = ", ".join(dict.fromkeys(
                        f"{one.name} {one.version}" for one in sorted(
                            made.vendored.values(), key=lambda one: one.name != row.name)))
                    size = sum(len(made.files[path]) for path in made.vendored)
                    code = f"{HOOK.format(code=textwrap.indent(row.code, '    '))}\n\nuse()\n"
                    head = made.files["plugin.py"].decode().partition("\ndef use()")[0]
                    declared_in(executor, Bundle(made.manifest, {**made.files, "plugin.py": (head + code).encode()}),
                                settings, SECONDS_MAX)
                except Refusal as error:
                    failed = error.message
            results.append(Result(row, packages, size, failed))
            print(row.rank, row.name, failed or "used", file=sys.stderr, flush=True)
    return results


def table(results: list[Result]) -> str:
    """The results, and what is left out with its reason, in Markdown."""
    good = sum(not one.failed for one in results)
    lines = [f"{good} of {len(results)} are vendored, imported and used.", "",
             "| rank | package, and what was vendored for it | KiB | result |", "|---|---|---|---|"]
    for one in results:
        words = re.sub(r"\s+", " ", one.failed).replace("|", "\\|")[:200]
        lines.append(f"| {one.row.rank} | {one.packages} | {one.size // 1024 or ''} | {words or 'used'} |")
    lines += ["", "Left out of the ranking, and why:", ""]
    lines += [f"- {reason}: {', '.join(sorted(names.split()))}." for reason, names in LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs it all. Returns 0 if at least USED_MIN are used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find-links", default="")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rows", default="", help="a JSON file with other rows: [[rank, requirement, code], …]")
    parser.add_argument("--keep", default="")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows: list[Any] = [row for row in ROWS if not given.only or row.name in given.only]
    if given.rows:
        rows = [Row(*row) for row in json.loads(Path(given.rows).read_text())]
    folder = Path(given.keep or tempfile.mkdtemp(prefix="apxpkg"))
    try:
        links = str(Path(given.find_links).resolve()) if given.find_links else ""
        results = used(rows, folder, vendor(rows, folder, Source("", links, given.offline)))
    finally:
        if not given.keep:
            shutil.rmtree(folder)
    made = table(results)
    print(made)
    if given.write:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text("utf-8").partition(BEGIN)
        readme.write_text(before + BEGIN + made + END + rest.partition(END)[2], "utf-8")
    return 0 if sum(not one.failed for one in results) >= USED_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
