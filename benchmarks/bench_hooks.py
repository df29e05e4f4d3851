"""The cost of each kind of hook: sync, async, on an event loop, with API calls; and one event to many plugins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.daemon import USER, Host, context_of, serving, write_bundle, write_echo
from benchmarks.lab import Lab

TITLE = "Kinds of hooks, and dispatch"
WIDGET = '''
from workers import Plugin
plugin = Plugin(id="{id}", version="1.0.0", permissions=["ui:render"])
@plugin.hook("onDashboardLoad")
def load(params):
    return {{"customWidgets": [{{"id": "w", "component": "W", "props": {{}}}}]}}
'''
KINDS: dict[str, dict[str, Any]] = {
    "def": {}, "async def": {"is_async": True}, "async def, asyncio imported": {"is_async": True, "uses_loop": True},
    "def, 1 API call": {"api_calls": 1}, "def, 3 API calls": {"api_calls": 3},
    "async def, 3 API calls": {"is_async": True, "api_calls": 3},
}


def run(lab: Lab) -> None:
    """Adds the rows."""
    context = context_of(100)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        names = {kind: f"kind-{n}" for n, kind in enumerate(KINDS)}
        for kind, options in KINDS.items():
            write_echo(folder, names[kind], **options)
        with serving(folder, limits__cpu_percent=100, limits__api_calls_per_second=1_000_000) as daemon:
            host = Host(daemon.endpoint)

            def measured(kind: str) -> Callable[[], None]:
                def measure() -> None:
                    for in_flight, total in ((1, 800), (64, 3000)):
                        round_ = host.rounds([names[kind]], lab.scaled(total), in_flight, context)
                        lab.add_round(f"invoke, {kind}", round_, **{"in flight": in_flight})
                return measure

            for kind in KINDS:
                host.rounds([names[kind]], 50, 4, context)
            lab.interleave({kind: measured(kind) for kind in KINDS})
            host.close()
    for count in (1, 4, 16):
        _dispatch(lab, count)


def _dispatch(lab: Lab, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for n in range(count):
            write_bundle(folder, f"widget-{n:02}", WIDGET.format(id=f"widget-{n:02}"), ["onDashboardLoad"],
                         ["ui:render"])
        with serving(folder, limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)

            def message(_plugin: str, _context: dict[str, Any]) -> dict[str, Any]:
                return {"type": "dispatch", "action": "onDashboardLoad", "userId": USER,
                        "payload": {"dashboardId": "main"}}

            host.rounds([""], 20, 2, {}, message)
            for _ in range(lab.repetitions):
                for in_flight in (1, 16):
                    round_ = host.rounds([""], lab.scaled(600), in_flight, {}, message)
                    lab.add_round(f"dispatch to {count}", round_, **{"in flight": in_flight})
            host.close()
