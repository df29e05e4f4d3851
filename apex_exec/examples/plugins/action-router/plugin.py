"""Answers the actions it knows and leaves the others to the next plugin."""

from workers import Plugin

plugin = Plugin(id="action-router", version="1.0.0")

ACTIONS = {
    "echo": lambda context: context,
    "sum": lambda context: sum(context.get("numbers", [])),
}


@plugin.hook("onActionExecute")
def on_action(params):
    """``echo`` returns its context, ``sum`` adds its numbers; null leaves the action to another plugin."""
    answer = ACTIONS.get(params["action"])
    result = None if answer is None else answer(params["context"])
    return {"result": result, "metadata": {"handled": answer is not None}}
