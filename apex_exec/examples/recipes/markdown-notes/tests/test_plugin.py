"""What notes promise: Markdown becomes HTML, and nothing in it becomes markup of its own."""

from typing import Any

from plugin import CHARACTERS_MAX, plugin
from workers.fake import FakePlatform


def ask(markdown: str) -> Any:
    """The answer for one note."""
    return FakePlatform(plugin).call("onActionExecute", {"action": "notes.render", "context": {"markdown": markdown}})[
        "result"]


def test_markdown_becomes_html() -> None:
    assert ask("# One\n\n- *a*\n")["html"] == "<h1>One</h1>\n<ul>\n<li><em>a</em></li>\n</ul>\n"
    assert "<table>" in ask("| a |\n|---|\n| 1 |\n")["html"]


def test_html_and_scripts_stay_text() -> None:
    assert "<script>" not in ask("<script>alert(1)</script>")["html"]
    assert "javascript:" not in ask("[x](javascript:alert(1))")["html"]


def test_a_note_has_a_bound_and_other_actions_are_left_alone() -> None:
    assert "error" in ask("x" * (CHARACTERS_MAX + 1))
    assert FakePlatform(plugin).call("onActionExecute", {"action": "x", "context": {}})["result"] is None
