"""Plugins for the tests of the API: written as bundles, run by a real daemon."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import psutil

from tests.support.daemon import Daemon

ALL = ["data:read", "data:write", "ui:render", "events:emit", "network:fetch"]

CALLER = '''
from workers import ApiError, Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions={permissions})


@plugin.hook("onActionExecute")
{async_}def run(context, params):
    """Makes the API calls that its context lists and returns the outcome of each; the error of a call with ``raise`` is
    not caught."""
    out = []
    for step in params["context"]["steps"]:
        call = getattr(context.api, step["api"])
        try:
            out.append({await_}call(**step.get("args", {{}})))
        except ApiError as error:
            if step.get("raise"):
                raise
            out.append({{"code": error.code, "message": str(error), "retry": error.retry_after_ms,
                         "kind": type(error).__name__}})
    return {{"result": out, "metadata": {{"remaining": context.remaining_ms()}}}}
'''


def bundle(folder: Path, plugin: str, permissions: list[str], code: str | None = None, *, is_async: bool = False,
           **manifest: Any) -> Path:
    """Writes a bundle with one hook that makes the API calls that its context lists, or with ``code``."""
    path = folder / plugin
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({
        "id": plugin, "name": plugin, "version": "1.0.0", "author": "tests", "permissions": permissions,
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]}, **manifest}))
    (path / "plugin.py").write_text(code or CALLER.format(
        id=plugin, permissions=permissions, async_="async " if is_async else "", await_="await " if is_async else ""))
    return path


def gateway_of(daemon: Daemon) -> psutil.Process:
    """The daemon's gateway process."""
    return next(child for child in psutil.Process(daemon.pid).children() if child.name() == "apex-gateway")


def ledger_of(daemon: Daemon) -> psutil.Process:
    """The daemon's ledger process: the one that holds the audit database open."""
    for child in psutil.Process(daemon.pid).children():
        with contextlib.suppress(psutil.Error):
            if any(file.path.endswith("/audit.db") for file in child.open_files()):
                return child
    raise AssertionError("no ledger process")
