"""`apex-exec help`: one source, read on a terminal; every command in it exists, every number is the code's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from apex_exec.catalogue.methods import API_AT_ONCE
from apex_exec.catalogue.settings import SETTINGS_MAX
from apex_exec.config import Settings
from apex_exec.gateway.sql.values import ROWS_MAX
from apex_exec.guide.markdown import BOLD, rendered
from apex_exec.guide.pages import FOLDER, TOPICS, page
from apex_exec.registry.bundles.recipes import FOLDER as RECIPES
from apex_exec.registry.bundles.recipes import recipes
from apex_exec.wire.values import DEPTH_MAX, MEMBERS_MAX
from tests.cli.test_framework import VERBS, run
from workers.effect_rules import CALLS_MAX, EFFECTS_MAX

PAGES = {**{f"guide/{topic}.md": page(topic) for topic in TOPICS},
         **{f"{name}/README.md": (RECIPES / name / "README.md").read_text("utf-8") for name in recipes()}}


def commands(text: str) -> list[list[str]]:
    """The command lines of the code blocks of a page."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("apex-exec ")]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_is_a_verb_with_these_options(name: str) -> None:
    text = PAGES[name]
    mentioned = [words.split() for words in re.findall(r"`apex-exec ((?:[a-z]+ ?)+)", text)]
    for words in [*commands(text), *mentioned]:
        verb = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in VERBS), None)
        assert verb, f"{name}: apex-exec {' '.join(words)}"
        known = {option for parameter in VERBS[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, f"{name}: {words}"
        if verb == "help" and len(words) > 1:
            assert words[1] in TOPICS, f"{name}: {words}"


def test_the_guide_has_a_page_for_each_topic_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} == set(TOPICS)
    assert not [topic for topic in TOPICS if f"| `{topic}` |" not in (FOLDER / "README.md").read_text("utf-8")]


def test_every_recipe_has_its_row_and_no_other() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", page("recipes"), re.M) and sorted(
        re.findall(r"^\| `([a-z-]+)` \|", page("recipes"), re.M)) == recipes()


def test_the_numbers_of_the_guide_are_the_codes() -> None:
    settings = Settings()
    text = page("limits") + page("settings") + page("sql")
    numbers = {
        f"after {CALLS_MAX:,} in one call": True, f"after {EFFECTS_MAX} in one call": True,
        f"{DEPTH_MAX} levels or {MEMBERS_MAX:,} values": True, f"`row_limit` above {ROWS_MAX:,}": True,
        f"up to {('zero one two three four five six seven eight'.split())[API_AT_ONCE]} calls at once": True,
        f"{settings.storage.user_bytes >> 10} KiB of one user, {settings.storage.plugin_bytes >> 20} MiB in all": True,
        f"at most {settings.log.plugin_lines_per_second} a second": True,
        f"{settings.registry.bundle_bytes >> 20} MiB or {settings.registry.bundle_files:,} files": True,
        f"at most {SETTINGS_MAX} settings": True}
    assert {words: words in text for words in numbers} == numbers


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_fits_its_width_and_loses_no_word(topic: str) -> None:
    text = rendered(page(topic), 80, colours=False)
    too_wide = [line for line in text.splitlines() if len(line) > 80 and not line.startswith("    ")]
    assert not too_wide
    words = re.findall(r"[A-Za-z_]{4,}", re.sub(r"<!--.*?-->|\]\([^)]*\)|^```.*$", "", page(topic), flags=re.M | re.S))
    shown = set(re.findall(r"[a-z_]{4,}", text.lower()))
    assert not {word for word in words if word.lower() not in shown and "_" not in word}
    assert "**" not in text and "\x1b" not in text and BOLD in rendered(page(topic), 80, colours=True)


def test_marks_become_styles_and_code_stays_as_it_is() -> None:
    text = rendered("# One\n\nA **bold** word and `co de`, then\nmore: [sql](sql.md).\n\n- a\n  b\n\n"
                    "```\n  x | **y**\n```\n\n| a | b |\n|---|---|\n| `1` | two \\| three |\n", 40, colours=False)
    assert text == ("ONE\n\nA bold word and co de, then more:\napex-exec help sql.\n\n  - a b\n\n      x | **y**\n\n"
                    "a  b\n-  -----------\n1  two | three\n")


@pytest.mark.parametrize(("words", "status", "says"), [
    (["help", "setings"], 2, "did you mean `apex-exec help settings`?"),
    pytest.param(["help", "plugin", "new"], 2, "`apex-exec plugin new --help`", marks=pytest.mark.slow),
    pytest.param(["help", "frob"], 2, "the topics are plugins, sql", marks=pytest.mark.slow),
])
def test_a_wrong_topic_is_one_line_that_says_what_to_do(words: list[str], status: int, says: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (status, "") and says in done.stderr and done.stderr.count("\n") == 1


def test_help_lists_the_topics() -> None:
    listed = run("help").stdout
    assert not [topic for topic in TOPICS if f"apex-exec help {topic}" not in listed]


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_failure() -> None:
    line = f"{sys.executable} -m apex_exec help sdk | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("SDK REFERENCE\n", "")
