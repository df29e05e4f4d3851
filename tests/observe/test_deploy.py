"""Alerts and the dashboard: their queries name what is exported, and each alert fires when it should and not before."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apex_exec.observe.alerts import ALERTS, rules
from apex_exec.observe.dashboard import ROWS, dashboard
from apex_exec.observe.metrics import METRICS, PREFIX
from tests.support import need
from tests.support.daemon import ROOT, Daemon, write_plugin
from tests.support.host import Host
from tests.support.prometheus import scraping

BUSY = '''
@plugin.hook("onActionExecute")
async def act(context, params):
    await context.api.emit("a", 1)
    try:
        await context.api.fetch("https://b.example/")
    except Exception:
        pass
    return {"result": sum(range(15_000_000)), "metadata": {}}
'''
JOB = 'job="apex-exec"'
CALLS = f'{PREFIX}invocations_total{{{JOB},plugin="p",hook="h",outcome="%s"}}'
LATE = 'loop_lag_seconds_bucket{le="%s"}'
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ApexExecDown": ({f"up{{{JOB}}}": "0x60"}, {f"up{{{JOB}}}": "1x60"}),
    "ApexExecNotReady": ({"ready": "0x60"}, {"ready": "1x60"}),
    "ApexExecIsolationLow": ({"isolation_level": "2x60", "isolation_level_min": "3x60"},
                             {"isolation_level": "3x60", "isolation_level_min": "3x60"}),
    "ApexExecAuditNotWritable": ({"audit_writable": "0x60"}, {"audit_writable": "1x60"}),
    "ApexExecAuditLag": ({"audit_lag_seconds": "4x60"}, {"audit_lag_seconds": "0.1x60"}),
    "ApexExecBreakerOpen": ({'breaker_state{plugin="p",state="open"}': "1x60"},
                            {'breaker_state{plugin="p",state="open"}': "0x60"}),
    "ApexExecWorkersEnd": ({'worker_exits_total{plugin="p",reason="deadline"}': "0+2x60"},
                           {'worker_exits_total{plugin="p",reason="idle"}': "0+2x60"}),
    "ApexExecUserPaused": ({'user_limited_total{plugin="p",limit="breaker"}': "0+1x60"},
                           {'user_limited_total{plugin="p",limit="network"}': "0+1x60"}),
    "ApexExecThrottled": ({'worker_throttled_seconds_total{plugin="p"}': "0+50x60"},
                          {'worker_throttled_seconds_total{plugin="p"}': "0+5x60"}),
    "ApexExecBudgetBurnsFast": ({CALLS % "ok": "0+100x400", CALLS % "INTERNAL": "0+5x400"},
                                {CALLS % "ok": "0+100x400", CALLS % "PLUGIN_ERROR": "0+50x400"}),
    "ApexExecBudgetBurns": ({CALLS % "ok": "0+100x400", CALLS % "OVERLOADED": "0+1x400"},
                            {CALLS % "ok": "0+1000x400", CALLS % "OVERLOADED": "0+1x400"}),
    "ApexExecLoopLags": ({LATE % "0.05": "0+1x60", LATE % "0.5": "0+9x60", LATE % "+Inf": "0+9x60"},
                         {LATE % "0.05": "0+9x60", LATE % "0.5": "0+9x60", LATE % "+Inf": "0+9x60"}),
    "ApexExecSideProcessDies": ({'side_process_restarts_total{process="ledger"}': "0+1x60"},
                                {'side_process_restarts_total{process="ledger"}': "0x50 1x10"}),
    "ApexExecDutyFails": ({'duty_failures_total{duty="x"}': "0+1x60"}, {'duty_failures_total{duty="x"}': "3x60"}),
    "ApexExecLedgerGrows": ({"audit_database_bytes": "0+5e6x600"}, {"audit_database_bytes": "0+1e6x600"}),
    "ApexExecBackupOld": ({"backup_last_success_seconds": "1x3700"}, {"backup_last_success_seconds": "0x3700"}),
    "ApexExecReloadFailed": ({"config_last_reload_successful": "0x60"}, {"config_last_reload_successful": "1x60"}),
    "ApexExecMarketIndexStale": ({"market_index_stale": "1x60"}, {"market_index_stale": "0x60"}),
    "ApexExecMarketIndexExpires": ({"market_index_expires_timestamp_seconds": "1000x200"},
                                   {"market_index_expires_timestamp_seconds": "0x200"}),
    "ApexExecTracesLost": ({'trace_spans_total{outcome="dropped"}': "0+1x60"},
                           {'trace_spans_total{outcome="exported"}': "0+9x60",
                            'trace_spans_total{outcome="undelivered"}': "7x60"}),
    "ApexExecHaltedServed": ({"market_halted_served": "1x60"}, {"market_halted_served": "1x10 0x50"}),
    "ApexExecTicketsNear": ({'market_tickets{state="near"}': "2x60"},
                            {'market_tickets{state="near"}': "0x60", 'market_tickets{state="late"}': "1x60"}),
    "ApexExecTicketsLate": ({'market_tickets{state="late"}': "1x60"},
                            {'market_tickets{state="late"}': "1x40 0x20", 'market_tickets{state="near"}': "1x60"}),
}
"""Alert → (series in which it fires in the end, series in which it does not)."""
MINUTES = {"ApexExecLedgerGrows": 550, "ApexExecBackupOld": 3600, "ApexExecBudgetBurns": 390,
           "ApexExecBudgetBurnsFast": 390, "ApexExecMarketIndexExpires": 150}
"""When the case of an alert is looked at, in minutes; in the 55th for the others."""


def named_in(expression: str) -> set[str]:
    """The metrics that PromQL of ours names, without the suffix of a histogram's series."""
    return {re.sub(r"_bucket$", "", name) for name in re.findall(rf"{PREFIX}(\w+)", expression)}


def test_every_query_names_a_metric_that_is_exported() -> None:
    text = rules() + json.dumps(dashboard())
    assert named_in(text) <= METRICS.keys(), named_in(text) - METRICS.keys()
    assert text.count("job=") >= len(ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_says_what_to_do_here_and_in_the_readme(alert: object) -> None:
    name, first = alert.name, alert.first  # type: ignore[attr-defined]  # of NamedTuple, which pytest's ids cannot tell
    assert f"| `{name}` |" in (ROOT / "apex_exec/observe/README.md").read_text()
    assert first in (ROOT / "apex_exec/observe/README.md").read_text()
    assert name in CASES


def test_the_dashboard_fills_its_rows_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert sum(len(row) for row in ROWS.values()) + len(ROWS) == len(dashboard()["panels"])


def test_the_verbs_print_or_write_and_another_job_is_named(tmp_path: Path) -> None:
    def deploy(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "apex_exec", "deploy", *words], cwd=ROOT, capture_output=True,
                              text=True, timeout=60, check=False)

    assert deploy("alerts").stdout == rules()
    out = tmp_path / "dash board.json"
    assert deploy("grafana", "--job", 'my "job"', "-o", str(out)).returncode == 0
    assert json.loads(out.read_text()) == dashboard('my "job"')
    refused = deploy("alerts", "-o", str(tmp_path / "no" / "where.yml"))
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "cannot be written" in refused.stderr


@pytest.mark.system
@pytest.mark.timeout(400)  # each of its cases makes a database of its own
def test_promtool_takes_the_rules_and_each_fires_in_its_red_case_only(tmp_path: Path) -> None:
    need(shutil.which("promtool"), "promtool (Debian's prometheus)")
    (tmp_path / "rules.yml").write_text(rules())
    def promtool(*words: str) -> None:
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    promtool("check", "rules", "rules.yml")
    tests = []
    for alert in ALERTS:
        for fires, case in zip((True, False), CASES[alert.name], strict=True):
            minute = MINUTES.get(alert.name, 55)
            series = {f"up{{{JOB}}}": f"1x{minute}", **{full(name): values for name, values in case.items()}}
            tests.append({
                "interval": "1m", "name": f"{alert.name} {'fires' if fires else 'is quiet'}",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [{
                    "expr": f'count(ALERTS{{alertname="{alert.name}",alertstate="firing"}}) > 0 or vector(0)',
                    "eval_time": f"{minute}m", "exp_samples": [{"value": int(fires), "labels": "{}"}]}]})
    (tmp_path / "tests.json").write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "5m",
                                                     "tests": tests}))
    promtool("test", "rules", "tests.json")


@pytest.mark.system
def test_every_query_of_the_dashboard_finds_something_in_a_real_prometheus(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    write_plugin(plugins, "busy", BUSY, permissions=("events:emit", "network:fetch"), network={"allow": ["a.example"]},
                 limits={"networkPerMinute": 1})
    write_plugin(plugins, "crash", "import os\n@plugin.hook('onActionExecute')\ndef act():\n    os._exit(3)\n")
    with (Daemon(plugins=plugins, config={"fetch.allow": ["a.example"]}) as daemon, Host(daemon.endpoint) as host,
          scraping(daemon.http.removeprefix("http://"), tmp_path, "apex-exec") as query):
        due, missing = time.monotonic() + 60, ["all of them"]
        while missing and time.monotonic() < due:  # rates need two scrapes, and some series begin late
            host.invoke("busy")
            host.invoke("crash")
            time.sleep(0.5)
            missing = [f"{panel['title']}: {target['expr']}" for panel in dashboard()["panels"]
                       for target in panel.get("targets", ()) if not query(
                           target["expr"].replace("$__rate_interval", "10s").replace("$plugin", "busy"))
                       and 'reason) (increase' not in target["expr"]]
        assert not missing, missing
        ended = next(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
                     if "reason) (increase" in target["expr"])
        assert query(ended.replace("$__rate_interval", "1m").replace("$plugin", "crash"))


def full(name: str) -> str:
    """A series as promtool takes it: with the prefix and the job."""
    if name.startswith(("up{", PREFIX)):
        return name
    bare, _, labels = name.partition("{")
    return f"{PREFIX}{bare}{{{JOB}" + (f",{labels}" if labels else "}")
