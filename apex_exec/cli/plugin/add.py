"""``plugin add``: libraries in the bundle, vendored from PyPI, or built in from npm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli.output import print_json, progress, say
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, examples, plugin_app
from apex_exec.cli.verbs import Argument, BadParameter, Exit, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.config import Settings
    from apex_exec.registry.vendored.adding import Try

DIFFERENCES_TOLD_MAX = 20


@plugin_app.command(epilog=examples(
    "apex-exec plugin add jinja2", "apex-exec plugin add 'python-dateutil==2.9.0' --dir ./my-plugin",
    "apex-exec plugin add", "apex-exec plugin add --check",
    "apex-exec plugin add jinja2 --find-links wheels --offline"))
def add(
    names: Annotated[list[str] | None, Argument(
        metavar="NAME[==X]…", help="Packages; without any, vendor/ is put back as the lock says.")] = None,
    folder: Annotated[Path, Option("--dir", metavar="DIR", help="The plugin's folder.")] = Path(),
    remove: Annotated[list[str] | None, Option("--remove", metavar="NAME", help="A package to take out.")] = None,
    check: Annotated[bool, Option(
        "--check", help="Fetch the wheels again by the lock's hashes and compare vendor/ with them.")] = False,
    index_url: Annotated[str, Option("--index-url", metavar="URL", help="Another index than pip's own.")] = "",
    find_links: Annotated[str, Option("--find-links", metavar="DIR", help="A folder of wheels.")] = "",
    offline: Annotated[bool, Option("--offline", help="Ask no index: take wheels of --find-links only.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Puts packages of PyPI into the plugin's vendor/, chosen by pip, locked by hash, tried in the jail.

    Only wheels are taken, and only their Python: a compiled part is left out, and a package that does not work without
    it is refused, as is one that needs threads, sockets, processes or files when it is imported. The manifest's
    "dependencies" say what was asked for, and vendor.lock.json what is there: commit both, and vendor/ if you like.
    Files of vendor/ may not be changed; they do not count in the plugin's coverage.

    In a JavaScript plugin, npm installs the packages and esbuild builds them into index.js; both are your own.
    """
    from apex_exec.registry.vendored.adding import Folder
    from apex_exec.registry.vendored.index import Source

    settings = settings_with_hooks(config)
    place = Folder(folder)
    if offline and not find_links:
        raise BadParameter("name a folder of wheels with --find-links", param_hint="--offline")
    if place.entrypoint.endswith((".js", ".mjs")):
        _add_npm(place, names or [], remove or [], as_json)
        return
    source = Source(index_url, str(Path(find_links).resolve()) if find_links else "", offline)
    if check:
        _check(place, source, as_json)
        return
    _add(place, names or [], remove or [], source, settings, as_json)


def _add(place: Any, names: list[str], remove: list[str], source: Any, settings: Settings, as_json: bool) -> None:
    from apex_exec.registry.vendored.adding import add as add_packages
    from apex_exec.registry.vendored.lock import VENDOR

    with progress("asking pip" if names or remove else "fetching what the lock names"), _trial(settings) as trial:
        done = add_packages(place, names, remove, source, trial)
    if as_json:
        print_json({"requires": list(done.lock.requires), "changed": done.changed, "notes": done.notes,
                    "tried": done.tried, "packages": [
                        {"name": one.name, "version": one.version, "licence": one.licence, "wheel": one.wheel,
                         "sha256": one.sha256, "leftOut": len(one.left_out)} for one in done.lock.packages]})
        return
    for line in (*done.changed, *done.notes):
        say(clean(line))
    if not done.tried and done.lock.packages:
        say("not tried in the jail, which needs Linux: `apex-exec plugin validate` does that on the daemon's machine")
    listed = ", ".join(f"{one.name} {one.version} ({one.licence})" for one in done.lock.packages)
    say(clean(f"{VENDOR} has {listed or 'nothing'}"))


def _check(place: Any, source: Any, as_json: bool) -> None:
    from apex_exec.registry.vendored.adding import check

    with progress("fetching what the lock names"):
        differs = check(place, source)
    if as_json:
        print_json({"ok": not differs, "differs": differs})
    else:
        for line in differs[:DIFFERENCES_TOLD_MAX]:
            say(clean(line))
        if len(differs) > DIFFERENCES_TOLD_MAX:
            say(f"and {len(differs) - DIFFERENCES_TOLD_MAX} more")
        say("vendor/ differs from the wheels" if differs else "every file in vendor/ is as in the wheels of the index")
    raise Exit(EXIT_NO if differs else 0)


@contextmanager
def _trial(settings: Settings) -> Iterator[Try | None]:
    """Yields what imports packages in a jailed worker, or None on a system without a jail. Its zygote starts at the
    first use."""
    if sys.platform != "linux":
        yield None
        return
    from contextlib import ExitStack

    from apex_exec.registry.trials.one_shot_worker import import_failure, jailed

    with ExitStack() as stack:
        started: list[Any] = []

        def trial(modules: list[str], files: dict[str, bytes]) -> str:
            if not started:
                started.append(stack.enter_context(jailed(settings)))
            return import_failure(started[0], settings, modules, files)

        yield trial


def _add_npm(place: Any, names: list[str], remove: list[str], as_json: bool) -> None:
    from apex_exec.registry.vendored.npm import add_packages

    with progress("asking npm"):
        done = add_packages(place.path, names, remove)
    if as_json:
        print_json(done)
        return
    for one in done["packages"]:
        say(clean(f"{one['name']} {one['version']} ({one['licence']})"))
    say(f"{done['built']}: built by esbuild, {done['bytes']:,} bytes")
