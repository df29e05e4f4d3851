"""The dashboard for Grafana: an overview of the daemon, the plugins that hurt most, and one plugin in detail.

One row a panel; ``dashboard`` makes the JSON that Grafana imports. Panels query metrics of ``metrics.METRICS`` only,
which a test holds, and another test runs each query against a real Prometheus.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from apex_exec.observe.alerts import UNWANTED, expression

SCHEMA_VERSION = 39
"""Of Grafana 11; later versions bring older dashboards up to date as they load them."""
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    """``queries`` maps legends to PromQL (see ``alerts.Alert``); ``unit`` and ``kind`` (of a panel) are Grafana's."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    what: str = ""



def _percentiles(histogram: str) -> dict[str, str]:
    return {f"p{percent}": f"histogram_quantile(0.{percent}, sum by (le) "
                           "(rate({P}" + histogram + "_bucket{J}[$__rate_interval])))" for percent in (50, 99)}


OVERVIEW = (
    Panel("Ready", {"": "{P}ready{J}"}, "bool_yes_no", "stat", 4, "1 while /readyz answers 200."),
    Panel("Isolation level", {"": "{P}isolation_level{J}"}, "none", "stat", 4, "0 to 4; doctor says what each stops."),
    Panel("Ledger writable", {"": "{P}audit_writable{J}"}, "bool_yes_no", "stat", 4),
    Panel("Workers", {"": "sum({P}workers{J})"}, "none", "stat", 4),
    Panel("Hosts", {"": "{P}host_connections{J}"}, "none", "stat", 4),
    Panel("Plugins paused", {"": 'sum({P}breaker_state{J,state="open"})'}, "none", "stat", 4),
    Panel("Calls", {"{{outcome}}": "sum by (outcome) (rate({P}invocations_total{J}[$__rate_interval]))"}, "reqps"),
    Panel("Duration of hooks", _percentiles("invocation_duration_seconds"), "s"),
    Panel("Wait before a hook", _percentiles("queue_duration_seconds"), "s"),
    Panel("Workers by state", {"{{state}}": "sum by (state) ({P}workers{J})"}),
    Panel("How late the loop wakes up", _percentiles("loop_lag_seconds"), "s"),
    Panel("Ledger", {"records/s": "sum(rate({P}audit_events_total{J}[$__rate_interval]))"}, "wps"),
)
HURT = (
    Panel("Failures", {"{{plugin}}": "topk(5, {P}recent_failures{J})"}, kind="bargauge",
          what="In the last five minutes."),
    Panel("CPU of workers", {"{{plugin}}": "topk(5, rate({P}worker_cpu_seconds_total{J}[$__rate_interval]))"},
          "percentunit", "bargauge"),
    Panel("CPU of the daemon for it", {
        "{{plugin}}": "topk(5, sum by (plugin) (rate({P}plugin_overhead_seconds_total{J}[$__rate_interval])))"},
        "percentunit", "bargauge"),
    Panel("Memory", {"{{plugin}}": "topk(5, {P}worker_memory_bytes{J})"}, "bytes", "bargauge"),
    Panel("Workers ended", {
        "{{plugin}}": 'topk(5, sum by (plugin) (increase({P}worker_exits_total{J,reason=~"' + UNWANTED + '"}[1h])))'},
        kind="bargauge", what="In the last hour, by a fault of the plugin."),
    Panel("Refusals by a limit", {
        "{{plugin}}": "topk(5, sum by (plugin) (increase({P}rate_limited_total{J}[1h])))"}, kind="bargauge",
        what="In the last hour."),
)
ONE = (
    Panel("Calls", {
        "{{outcome}}": 'sum by (outcome) (rate({P}invocations_total{J,plugin="$plugin"}[$__rate_interval]))'}, "reqps"),
    Panel("In flight and queued", {"in flight": '{P}in_flight{J,plugin="$plugin"}',
                                   "queued": '{P}queued{J,plugin="$plugin"}'}),
    Panel("Memory", {"": '{P}worker_memory_bytes{J,plugin="$plugin"}'}, "bytes"),
    Panel("CPU", {"worker": 'rate({P}worker_cpu_seconds_total{J,plugin="$plugin"}[$__rate_interval])',
                  "held back": 'rate({P}worker_throttled_seconds_total{J,plugin="$plugin"}[$__rate_interval])',
                  "{{where}}": 'rate({P}plugin_overhead_seconds_total{J,plugin="$plugin"}[$__rate_interval])'},
          "percentunit"),
    Panel("API calls", {
        "{{method}} {{outcome}}":
            'sum by (method, outcome) (rate({P}api_calls_total{J,plugin="$plugin"}[$__rate_interval]))'}, "reqps"),
    Panel("Ends of workers", {
        "{{reason}}": 'sum by (reason) (increase({P}worker_exits_total{J,plugin="$plugin"}[$__rate_interval]))'}),
)
ROWS = {"The daemon": OVERVIEW, "The plugins that hurt most": HURT, "Plugin $plugin": ONE}


def dashboard(job: str = "apex-exec") -> dict[str, Any]:
    """Returns the dashboard for the scrape job ``job``; Grafana asks for the data source when it is imported."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []})
        y, x = y + 1, 0
        height = 0
        for panel in row:
            if x + panel.width > WIDTH:
                y, x, height = y + height, 0, 0
            height = max(height, 4 if panel.kind == "stat" else 8)
            panels.append(_panel(panel, len(panels) + 1, x, y, job))
            x += panel.width
        y += height
    plugins = expression("label_values({P}breaker_state{J}, plugin)", job)
    return {
        "title": "apex-exec", "uid": "apex-exec", "tags": ["apex-exec"], "schemaVersion": SCHEMA_VERSION, "version": 1,
        "editable": True, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "",
        "templating": {"list": [
            {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
            {"name": "plugin", "label": "Plugin", "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
             "query": {"query": plugins, "refId": "plugins"}, "definition": plugins}]},
        "panels": panels}


def _panel(panel: Panel, number: int, x: int, y: int, job: str) -> dict[str, Any]:
    return {
        "id": number, "title": panel.title, "type": panel.kind, "description": panel.what, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": 4 if panel.kind == "stat" else 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
        if panel.kind == "timeseries" else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [{"refId": chr(ord("A") + index), "datasource": SOURCE, "legendFormat": legend or "__auto",
                     "expr": expression(query, job)} for index, (legend, query) in enumerate(panel.queries.items())]}
