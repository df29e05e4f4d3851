"""``plugin new``: creates a plugin that an author can start from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from apex_exec.cli.output import say, show
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import AsJson, ConfigFile, examples, plugin_app, this_user
from apex_exec.cli.verbs import Argument, BadParameter, Option

if TYPE_CHECKING:
    from apex_exec.registry.bundles.scaffold import Language

DEFAULT_HOOK = "onDashboardLoad"
LANGUAGES: dict[str, Language] = {"py": "python", "js": "javascript", "ts": "typescript"}


@plugin_app.command(epilog=examples(
    "apex-exec plugin new my-plugin", "apex-exec plugin new my-plugin --author 'ACME Corp'",
    "apex-exec plugin new my-plugin --lang ts", "apex-exec plugin new my-pivot --recipe csv-pivot",
    "apex-exec plugin new my-plugin --hook onInvoiceCreated --config daemon.toml"))
def new(
    plugin: Annotated[str, Argument(metavar="ID", help="The new id: 3 to 50 of a-z, 0-9 and the hyphen.")],
    folder: Annotated[Path, Option("--dir", metavar="DIR", help="Where the plugin's folder is made.")] = Path(),
    author: Annotated[str, Option("--author", help="The author, as in the manifest; default: this user.")] = "",
    hook: Annotated[str, Option(
        "--hook", metavar="HOOK", help="The hook that it implements; default: onDashboardLoad.")] = "",
    javascript: Annotated[bool, Option("--js", help="Write the plugin in JavaScript.")] = False,
    typescript: Annotated[bool, Option("--ts", help="Write it in TypeScript, built by esbuild.")] = False,
    lang: Annotated[Literal["py", "js", "ts"] | None, Option(
        "--lang", help="The language: Python, JavaScript or TypeScript.")] = None,
    recipe: Annotated[str, Option(
        "--recipe", metavar="NAME", help="Begin with a whole plugin; `apex-exec help recipes` lists them.")] = "",
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Makes DIR/ID with manifest, code, test and README; it passes `validate` and `test` unchanged.

    At a terminal it asks for hook and language if neither is named. The plugin is written in Python unless --lang,
    --js or --ts says otherwise. The types for JavaScript and TypeScript are copied into its folder.
    """
    from apex_exec.registry.bundles.scaffold import write_scaffold

    if recipe:
        _from_recipe(folder, plugin, author, recipe, bool(hook or javascript or typescript or lang), as_json)
        return
    named = {word for word, is_given in (("js", javascript), ("ts", typescript), (lang or "", bool(lang))) if is_given}
    if len(named) > 1:
        raise BadParameter("name one language, not both", param_hint="--lang")
    settings_with_hooks(config)
    word = named.pop() if named else ""
    if not hook and not word and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        hook, word = _asked()
    made = write_scaffold(folder, plugin, author or this_user(), hook or DEFAULT_HOOK, LANGUAGES[word or "py"])
    shown = shlex.quote(str(made))
    show({"id": plugin, "folder": str(made)}, as_json,
         f"{made}: try `apex-exec plugin validate {shown}` and `apex-exec plugin dev {shown}`")


def _from_recipe(folder: Path, plugin: str, author: str, recipe: str, is_more_named: bool, as_json: bool) -> None:
    from apex_exec.registry.bundles.recipes import next_commands, write_recipe

    if is_more_named:
        raise BadParameter("a recipe has its own hook and language", param_hint="--recipe")
    made = write_recipe(folder, plugin, author or this_user(), recipe)
    then = " && ".join(next_commands(made))
    show({"id": plugin, "folder": str(made), "next": next_commands(made)}, as_json, f"{made}: try `{then}`")


def _asked() -> tuple[str, str]:
    """The hook and the language, asked at the terminal; Enter takes the first."""
    from apex_exec.catalogue.hooks import HOOKS

    say(f"hooks: {', '.join(f'{name} ({hook.doc})' for name, hook in HOOKS.items())}")
    return _choice("hook", list(HOOKS)), _choice("language", list(LANGUAGES))


def _choice(what: str, offered: list[str]) -> str:
    while True:
        given = input(f"{what} [{offered[0]}], one of {', '.join(offered)}: ").strip() or offered[0]
        if given in offered:
            return given
        say(f"there is no {what} {given[:60]!a}")
