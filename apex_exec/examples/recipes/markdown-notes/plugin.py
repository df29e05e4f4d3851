"""Notes in Markdown as HTML. The library is in ``vendor/``; it escapes HTML and drops dangerous addresses."""

from typing import Any

import mistune
from workers import Plugin

plugin = Plugin(id="markdown-notes", version="0.1.0", permissions=[])

CHARACTERS_MAX = 100_000
render = mistune.create_markdown(escape=True, plugins=["table", "strikethrough", "task_lists"])


@plugin.hook("onActionExecute")
def notes(params: dict[str, Any]) -> dict[str, Any]:
    """Answers the action "notes.render" with ``context`` {"markdown": …}; leaves all others."""
    if params["action"] != "notes.render":
        return {"result": None, "metadata": {}}
    text = str(params["context"].get("markdown", ""))
    if len(text) > CHARACTERS_MAX:
        return {"result": {"error": f"a note has at most {CHARACTERS_MAX} characters"}, "metadata": {}}
    return {"result": {"html": render(text)}, "metadata": {"characters": len(text)}}
