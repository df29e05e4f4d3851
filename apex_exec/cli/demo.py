"""``demo``: starts a daemon, runs every hook and the plugins that misbehave, and shows each outcome."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apex_exec.cli.output import print_json, say
from apex_exec.cli.own_daemon import ended_in_order, running
from apex_exec.cli.root import EXIT_NO, AsJson, app, examples, fail, need_linux
from apex_exec.common.short_folder import short_base
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.client import Client

USER = "11111111-2222-4333-8444-555555555555"
ACTION: dict[str, Any] = {"action": "run", "context": {}}


class Step(NamedTuple):
    """One call of the demonstration: the request, its expected outcome, and the reason why it is shown."""

    plugin: str
    hook: str
    payload: dict[str, Any]
    expected: str
    why: str


STEPS = (
    Step("hello-world", "onDashboardLoad", {"dashboardId": "main"}, "ok", "the document's minimal plugin"),
    Step("hello-world-dict", "onDashboardLoad", {"dashboardId": "main"}, "ok", "the same in the dict form"),
    Step("hello-world-js", "onDashboardLoad", {"dashboardId": "main"}, "ok", "the same in JavaScript, unchanged"),
    Step("custom-analytics", "onDashboardLoad", {"dashboardId": "main"}, "ok", "the document's first plugin"),
    Step("custom-analytics", "onDataFetch", {"query": "sales", "filters": {"year": 2026}}, "ok", "its second hook"),
    Step("action-router", "onActionExecute", {"action": "echo", "context": {"n": 1}}, "ok", "result and metadata"),
    Step("login-audit", "onAuthSuccess", {"sessionId": "s-1"}, "ok", "a void hook; it writes to the plugin's log"),
    Step("spinner", "onActionExecute", ACTION, "TIMEOUT", "loops for ever: killed at its deadline of 500 ms"),
    Step("hoarder", "onActionExecute", ACTION, "MEMORY_LIMIT", "takes all memory: refused at its limit"),
    Step("crasher", "onActionExecute", ACTION, "WORKER_CRASHED", "ends its own process: only its call is lost"),
    Step("liar", "onDashboardLoad", {"dashboardId": "main"}, "INVALID_OUTPUT", "returns what its hook must not"),
    Step("hello-world", "onDashboardLoad", {"dashboardId": "after"}, "ok", "the same warm worker: nobody noticed"),
)


@app.command(epilog=examples("apex-exec demo", "apex-exec demo --json"))
def demo(as_json: AsJson = False) -> None:
    """Demonstrates hooks, limits and failures in a few seconds.

    Starts a daemon in a temporary folder, runs every hook of the example plugins, then the plugins that misbehave,
    and shows each outcome. Changes nothing on this machine.
    """
    need_linux()
    with _daemon() as client:
        welcome = client.hello()
        if not as_json:
            say(f"{welcome['server']} runs in a temporary folder, isolation {welcome['isolation']} "
                  "(`apex-exec doctor` says why).\n")
        outcomes = [_run(client, step, as_json) for step in STEPS]
        together = client.dispatch("onDashboardLoad", USER, {"dashboardId": "main"})
    widgets = [widget["id"] for widget in together["result"]["customWidgets"]]
    failed = [outcome["plugin"] for outcome in together["outcomes"] if not outcome["ok"]]
    if as_json:
        print_json({"welcome": welcome, "steps": outcomes, "dispatch": {"widgets": widgets, "failed": failed}})
    else:
        say(f"\nOne dispatch of onDashboardLoad to all: {len(widgets)} widgets ({', '.join(widgets)}); "
              f"failed, and kept apart: {', '.join(failed)}.")
        say("Next: `apex-exec plugin new my-plugin`, or the README's five-minute tour.")
        say("Tests, in a clone of the repository (about five minutes): "
            ".venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest -q")
    if failed != ["liar"] or not all(outcome["asExpected"] for outcome in outcomes):
        fail("an outcome is not the expected one; see the lines marked NOT EXPECTED", EXIT_NO)


def _run(client: Client, step: Step, as_json: bool) -> dict[str, Any]:
    from apex_exec.client import CallError

    begun = time.perf_counter()
    try:
        outcome, shown = "ok", str(client.invoke(step.plugin, step.hook, USER, step.payload)["result"])
    except CallError as error:
        outcome, shown = error.code, error.message
    took_ms = (time.perf_counter() - begun) * 1000
    good = outcome == step.expected
    if not as_json:
        mark = "" if good else f"   NOT EXPECTED: {step.expected}"
        say(f"{step.plugin:<17} {step.hook:<16} {outcome:<15} {took_ms:7.1f} ms  {step.why}{mark}")
        say(f"{'':<17} {clean(shown)[:100]}", flush=True)
    return {"plugin": step.plugin, "hook": step.hook, "outcome": outcome, "tookMs": round(took_ms, 1),
            "asExpected": good, "shows": step.why, "reply": shown}


@contextmanager
def _daemon() -> Iterator[Client]:
    """A client of a daemon that lives in a temporary folder; both are gone afterwards, on ctrl-C too."""
    import apex_exec
    from apex_exec.testing import Daemon

    plugins = Path(apex_exec.__file__).parent / "examples" / "plugins"
    # The examples are ours, so they may run on any machine; the demonstration says at which level.
    short = tempfile.TemporaryDirectory(prefix="apex-exec-demo-", dir=short_base(), ignore_cleanup_errors=True)
    with ended_in_order(), short as folder:
        with running(Daemon(folder, plugins_dir=plugins, config={"sandbox.min_level": "L0"})) as daemon:
            yield daemon.client
