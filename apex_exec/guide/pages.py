"""The guide's topics and their pages. One source: the command line shows the files that stand beside this one."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
TOPICS = {
    "plugins": "your first plugin in five minutes, in Python, JavaScript and TypeScript; what it is made of; libraries",
    "sql": "queries and writes, and what a plugin keeps for itself",
    "fetch": "HTTP requests, and how they fail",
    "settings": "what an operator sets for a plugin; secrets",
    "testing": "tests, coverage, the debugger, `plugin dev`",
    "limits": "every limit, and how to live within it",
    "publishing": "from a folder to an installed plugin, and to the marketplace",
    "recipes": "ten plugins to begin with",
    "sdk": "every class, method, hook, permission and error code",
}
"""The word behind `apex-exec help`, and what its page answers."""


def page(topic: str) -> str:
    """The Markdown of a topic."""
    return (FOLDER / f"{topic}.md").read_text("utf-8")
