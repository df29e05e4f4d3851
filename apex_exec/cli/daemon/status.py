"""``status``: what the daemon and its plugins are doing, once. ``top`` shows the same rows, live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from apex_exec.cli import connect
from apex_exec.cli.output import print_json, print_table, say
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, app, examples
from apex_exec.cli.verbs import Option
from apex_exec.common.words import clean, duration

Row = dict[str, Any]
SortKey = Literal["id", "state", "calls", "p50", "p99", "queue", "cpu", "memory", "throttled", "failures",
                  "restarts"]
COLUMNS = {"id": "plugin", "condition": "state", "calls": "calls/s", "p50": "p50 ms", "p99": "p99 ms",
           "queue": "queue", "inFlight": "at once", "cpu": "cpu %", "memory": "mem MB", "throttled": "thr %",
           "breaker": "breaker",
           "failures": "fail 5m", "restarts": "rst"}
ASCENDING = ("id", "state")
SORTS = {"state": "condition"}
"""The column that shows what is sorted by, where it has another name."""
Sort = Annotated[SortKey, Option("--sort", help="The column to sort by; numbers from high to low.")]


@app.command(epilog=examples("apex-exec status", "apex-exec status --json | jq .health"))
def status(as_json: AsJson = False, sort: Sort = "id", runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Shows the daemon and its plugins.

    Rates are averages since the daemon started; `top` shows the current ones. Quantiles are of the latest calls.
    Failures are the plugin's own in the last five minutes; `plugin logs ID` shows each of them with its reason.
    """
    with connect.admin(config, runtime_dir) as client:
        now = client.request("daemon.status")
    if as_json:
        print_json(now)
        return
    say(headline(now))
    print_table(ordered(rows(now, None), sort), COLUMNS, as_json=False, empty="no plugin is registered")


def rows(now: Row, before: Row | None) -> list[Row]:
    """One row for each plugin, with rates between two looks, or since the start if there is only one look."""
    past = {plugin["id"]: plugin for plugin in before["plugins"]} if before else {}
    since = before["uptimeSeconds"] if before else 0.0
    elapsed: float = max(1e-3, now["uptimeSeconds"] - since)
    out = []
    for plugin in now["plugins"]:
        earlier = past.get(plugin["id"], {})

        def rate(key: str, plugin: Row = plugin, earlier: Row = earlier) -> float:
            return max(0.0, float(plugin[key]) - float(earlier.get(key, 0))) / elapsed

        out.append({
            "id": plugin["id"], "version": plugin["version"], "state": plugin["state"], "worker": plugin["worker"],
            "condition": condition(plugin),
            "calls": round(rate("calls"), 1), "p50": plugin["p50Ms"], "p99": plugin["p99Ms"],
            "queue": plugin["queued"] + plugin["inFlight"],
            "inFlight": f"{plugin['inFlight']}/{plugin['concurrency']}" if plugin.get("concurrency", 1) > 1 else "",
            "cpu": round(100 * rate("cpuSeconds"), 1),
            "memory": round(plugin["memoryMb"], 1), "throttled": round(100 * rate("throttledSeconds"), 1),
            "breaker": plugin["breaker"], "failures": plugin["failedRecently"], "lastFailure": plugin["lastFailure"],
            "restarts": plugin["restarts"]})
    return out


def condition(plugin: Row) -> str:
    """The one word that matters most: why it is not served, its breaker, or what its worker does."""
    if plugin["state"] != "enabled":
        return str(plugin["state"])
    if plugin["breaker"] != "closed":
        return f"breaker {plugin['breaker']}"
    if plugin.get("pausedUsers"):
        return "users paused"
    return "idle" if plugin["worker"] == "none" else str(plugin["worker"])


def ordered(table: list[Row], key: str) -> list[Row]:
    """Sorted by ``key``: names from a to z, numbers from high to low, unknown values last."""
    if key in ASCENDING:
        return sorted(table, key=lambda row: (str(row[key]), row["id"]))
    return sorted(table, key=lambda row: (row[key] is None, -(row[key] or 0), row["id"]))


def headline(now: Row) -> str:
    """The daemon in one line, and a second line with its problems if it has any."""
    plugins = now["plugins"]
    workers = sum(len(plugin["pids"]) for plugin in plugins)
    calls = sum(plugin["calls"] for plugin in plugins)
    line = (f"{now.get('server', 'apex-exec')}  isolation {now.get('isolation', '?')}  "
            f"up {duration(now['uptimeSeconds'])}  {len(plugins)} plugins  {workers} workers  "
            f"{now['connections']} connections  {now['pending']} pending  {calls} calls")
    wrong = [f"{name}: {reason}" for name, reason in now["health"].items()]
    if now["draining"]:
        wrong.append("draining")
    return line + ("\nNOT READY  " + clean("; ".join(wrong)) if wrong else "")
