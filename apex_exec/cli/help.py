"""``help``: the guide for authors of plugins, page by page."""

from __future__ import annotations

import difflib
import shutil
import sys
from typing import Annotated

from apex_exec.cli.output import print_table, say, say_page
from apex_exec.cli.root import EXIT_USAGE, app, examples, fail
from apex_exec.cli.verbs import Argument
from apex_exec.guide.pages import TOPICS, page

WIDTH_MAX = 110
"""Longer lines are hard to read."""
PIPE_WIDTH = 100


@app.command("help", epilog=examples("apex-exec help plugins", "apex-exec help sdk | less"))
def help_(words: Annotated[list[str] | None, Argument(
        metavar="TOPIC", help="One of those that are listed without it.")] = None) -> None:
    """Shows the guide for authors of plugins: how to write, test and publish one.

    Without a topic it lists them. For what a verb does, and its options, write the verb with --help.
    """
    from apex_exec.guide.markdown import rendered

    topic = " ".join(words or ())
    if not topic:
        print_table([{"topic": f"apex-exec help {name}", "is": text} for name, text in TOPICS.items()],
                    {"topic": "type", "is": "for"}, as_json=False)
        say("\nfor a verb and its options: apex-exec VERB --help")
        return
    if topic not in TOPICS:
        _unknown(topic)
    is_terminal = sys.stdout.isatty()
    width = min(WIDTH_MAX, shutil.get_terminal_size().columns) if is_terminal else PIPE_WIDTH
    say_page(lambda colours: rendered(page(topic), width, colours=colours))


def _unknown(topic: str) -> None:
    """Ends the command: with the verb's own help if a verb was meant, else with the nearest topic."""
    from apex_exec.cli.tree import FILES

    if topic in FILES or topic in {words.split()[0] for words in FILES}:
        fail(f"`apex-exec {topic} --help` explains that verb; `apex-exec help` lists the guide's topics", EXIT_USAGE)
    near = difflib.get_close_matches(topic, TOPICS, 1)
    fail(f"there is no topic {topic[:60]!a}; " + (f"did you mean `apex-exec help {near[0]}`?" if near else
                                                  f"the topics are {', '.join(TOPICS)}"), EXIT_USAGE)
