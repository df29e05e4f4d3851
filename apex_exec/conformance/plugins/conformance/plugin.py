"""What the conformance cases call: each action of onActionExecute does one thing that a case is about."""

import os
import time
from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="conformance", version="1.0.0",
                permissions=["admin:users", "events:emit", "network:fetch", "ui:render"])
WRONG: dict[str, Any] = {"large int": 2**53, "nan": float("nan"), "set": {1}, "proto": {"__proto__": 1}, "key": {1: 2}}


@plugin.hook("onDashboardLoad")
def on_dashboard_load(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    return {"customWidgets": [{"id": "w", "component": "Conformance", "props": params}]}


@plugin.hook("onDataFetch")
def on_data_fetch(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    return {"transformedData": {"query": params["query"], "data": params.get("data"), "by": "conformance"}}


@plugin.hook("onAuthSuccess")
def on_auth_success(context: HookContext, params: dict[str, Any]) -> None:
    """Nothing is what it gives."""


@plugin.hook("onActionExecute")
def on_action_execute(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    action, given = params["action"], params["context"]
    result: Any = given
    if action == "types":
        result = {name: type(value).__name__ for name, value in given.items()}
    elif action == "sleep":
        time.sleep(given["seconds"])
    elif action == "raise":
        raise ValueError("conformance " + given["nonce"])
    elif action == "exit":
        os._exit(3)
    elif action == "hoard":
        kept = []
        while True:
            kept.append(bytearray(1024 * 1024))
    elif action == "wrong":
        result = WRONG[given["what"]]
    elif action == "effects":
        context.api.render_widget("Conformance", {"n": 1})
        context.api.emit("done", {"n": 2})
    elif action == "call":
        result = context.api.call(given["method"], given["params"])
    elif action == "fetch":
        context.api.fetch("https://api.example.com/")
    return {"result": result, "metadata": {"user": context.user_id}}
