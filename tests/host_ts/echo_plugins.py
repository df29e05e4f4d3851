"""Bundles whose hooks give back the nonce that they were sent, and misbehave on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOOKS = ["onDashboardLoad", "onDataFetch", "onActionExecute", "onAuthSuccess"]
BODY = '''
import os
import time


def on_dashboard_load(context, params):
    return {{"customWidgets": [{{"id": "w", "component": context.plugin_id, "props": {{
        "nonce": params["dashboardId"], "fill": params.get("fill", ""), "user": context.user_id}}}}]}}


def on_data_fetch(context, params):
    return {{"transformedData": {{"nonce": params["query"], "fill": params["filters"].get("fill", ""),
                                "plugin": context.plugin_id, "user": context.user_id}}}}


def on_action_execute(context, params):
    action, given = params["action"], params["context"]
    if action == "raise":
        raise ValueError("nonce " + given["nonce"])
    if action == "exit":
        os._exit(3)
    if action == "hang":
        time.sleep(60)
    if action == "hoard":
        kept = []
        while True:
            kept.append(bytearray(1024 * 1024))
    if action == "wrong":
        return {{"result": 1}}
    if action == "large":
        return {{"result": "x" * 3_000_000, "metadata": {{}}}}
    if action == "huge":
        return {{"result": 2**60, "metadata": {{}}}}
    if action == "nan":
        return {{"result": float("nan"), "metadata": {{}}}}
    if action == "types":
        return {{"result": {{key: type(value).__name__ for key, value in given.items()}}, "metadata": {{}}}}
    if action == "fetch":
        context.api.fetch(given["url"])
    if action == "query":
        context.api.query("SELECT 1")
    if action == "call":
        return {{"result": context.api.call(given["method"], given["params"]), "metadata": {{}}}}
    return {{"result": given, "metadata": {{"plugin": context.plugin_id, "user": context.user_id}}}}


def on_auth_success(context, params):
    if params.get("speak"):
        return params["sessionId"]


'''
DICT_FORM = '''plugin = {{"id": "{id}", "version": "1.0.0", "permissions": ["ui:render"], "hooks": {{
    "onDashboardLoad": on_dashboard_load, "onDataFetch": on_data_fetch, "onActionExecute": on_action_execute,
    "onAuthSuccess": on_auth_success}}}}
'''
OBJECT_FORM = '''from workers import Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=["ui:render"])
plugin.hook("onDashboardLoad")(on_dashboard_load)
plugin.hook("onDataFetch")(on_data_fetch)
plugin.hook("onActionExecute")(on_action_execute)
plugin.hook("onAuthSuccess")(on_auth_success)
'''


def write(folder: Path, name: str, source: str, hooks: list[str], **extra: Any) -> None:
    """One bundle in ``folder``."""
    bundle = folder / name
    bundle.mkdir(parents=True)
    manifest = {"id": name, "name": name, "version": "1.0.0", "author": "tests", "permissions": ["ui:render"],
                "manifest": {"entrypoint": "plugin.py", "hooks": hooks}, **extra}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "plugin.py").write_text(source)


def write_all(folder: Path) -> Path:
    """``echo-a`` … ``echo-d`` (both forms, ``def`` and ``async def``), ``boss`` with permissions, an unloadable one."""
    for letter in "abcd":
        source = BODY.format(kind="").replace("def on_", "async def on_" if letter in "ac" else "def on_")
        form = DICT_FORM if letter in "ab" else OBJECT_FORM
        write(folder, f"echo-{letter}", source + form.format(id=f"echo-{letter}"), HOOKS)
    write(folder, "boss", BODY.format(kind="") + DICT_FORM.format(id="boss").replace(
        '"permissions": ["ui:render"]', '"permissions": ["admin:users", "network:fetch", "ui:render"]'), HOOKS,
        permissions=["admin:users", "network:fetch", "ui:render"], network={"allow": ["api.example.com"]},
        limits={"networkPerMinute": 0})
    write(folder, "unloadable", "raise RuntimeError('not today')\n", ["onAuthSuccess"])
    return folder
