"""Answers the actions it knows and leaves the others to the next plugin."""

from collections.abc import Callable
from typing import Any

from workers import Plugin

plugin = Plugin(id="action-router", version="1.0.0")

ACTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "echo": lambda context: context,
    "sum": lambda context: sum(context.get("numbers", [])),
}


@plugin.hook("onActionExecute")
def on_action(params: dict[str, Any]) -> dict[str, Any]:
    """``echo`` returns its context, ``sum`` adds its numbers; null leaves the action to another plugin."""
    answer = ACTIONS.get(params["action"])
    result = None if answer is None else answer(params["context"])
    return {"result": result, "metadata": {"handled": answer is not None}}
