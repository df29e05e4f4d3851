"""What a dispatch costs beside plugins that it does not go to: daemons with none to ten thousand of them, in turn."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.bench_density import fill_registry
from benchmarks.daemon import USER, Host, serving, write_bundle
from benchmarks.lab import Lab

TITLE = "Dispatch beside many registered plugins"
WHO = "apex-exec, dispatch to 1"
BESIDE = (0, 300, 3000, 10_000)
IN_FLIGHT = 64
WIDGET = '''
from workers import Plugin
plugin = Plugin(id="widget", version="1.0.0", permissions=["ui:render"])
@plugin.hook("onDashboardLoad")
def load(params):
    return {"customWidgets": [{"id": "w", "component": "W", "props": {}}]}
'''


def run(lab: Lab) -> None:
    """Adds the rows."""
    with tempfile.TemporaryDirectory(prefix="apxp") as name, ExitStack() as stack:
        folder = Path(name)
        write_bundle(folder / "plugins", "widget", WIDGET, ["onDashboardLoad"], ["ui:render"])
        hosts: dict[int, Host] = {}
        for count in BESIDE:
            state = folder / f"state-{count}"
            if count:
                fill_registry(state, count)
            daemon = stack.enter_context(serving(folder / "plugins", state=state, limits__cpu_percent=100))
            hosts[count] = Host(daemon.endpoint)
            stack.callback(hosts[count].close)
            if count:
                while hosts[count].invoke(f"echo-{count - 1:05}").get("code") == "PLUGIN_NOT_FOUND":
                    pass  # the registry is being read
            hosts[count].rounds([""], 200, 8, {}, _message)
        lab.interleave({str(count): lambda count=count: lab.add_round(  # type: ignore[misc]  # mypy infers no lambda with a default
            WHO, hosts[count].rounds([""], lab.scaled(8000), IN_FLIGHT, {}, _message), **{"beside": count})
            for count in BESIDE})


def _message(_plugin: str, _context: dict[str, Any]) -> dict[str, Any]:
    return {"type": "dispatch", "action": "onDashboardLoad", "userId": USER, "payload": {"dashboardId": "main"}}
