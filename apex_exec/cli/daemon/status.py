"""``status`` and ``top``: what the daemon and its plugins are doing, once or continuously."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, Literal

from apex_exec.cli import connect
from apex_exec.cli.cells import cell_len, chop_cells
from apex_exec.cli.output import Screen, cell, print_json, print_table, say
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, app, examples
from apex_exec.cli.verbs import Option
from apex_exec.common.words import clean, duration

Row = dict[str, Any]
SortKey = Literal["id", "state", "calls", "p50", "p99", "queue", "cpu", "memory", "throttled", "failures",
                  "restarts"]
COLUMNS = {"id": "plugin", "condition": "state", "calls": "calls/s", "p50": "p50 ms", "p99": "p99 ms",
           "queue": "queue", "cpu": "cpu %", "memory": "mem MB", "throttled": "thr %", "breaker": "breaker",
           "failures": "fail 5m", "restarts": "rst"}
NARROW = 96
"""Below this width `top` leaves out the breaker's column; the state shows an open breaker."""
HOTKEYS: dict[str, SortKey] = {"i": "id", "s": "state", "c": "calls", "5": "p50", "9": "p99", "u": "queue", "p": "cpu",
                               "m": "memory", "t": "throttled", "f": "failures",
                               "r": "restarts"}
ASCENDING = ("id", "state")
LEFT = ("id", "condition", "breaker")
ID_WIDTH_MIN = 14
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


@app.command(epilog=examples("apex-exec top", "apex-exec top --sort cpu --seconds 5"))
def top(
    sort: Sort = "calls",
    seconds: Annotated[float, Option(min=0.2, help="Time between two looks.")] = 2.0,
    as_json: AsJson = False,
    runtime_dir: RuntimeDir = None,
    config: ConfigFile = None,
) -> None:
    """Shows what plugins are doing, live.

    Keys sort: i id, s state, c calls, 5 p50, 9 p99, u queue, p cpu, m memory, t throttled, f failures, r restarts;
    q ends.
    Without a terminal, or with --json, it reads the status twice and prints the table once.
    """
    with connect.admin(config, runtime_dir) as client:
        before = client.request("daemon.status")
        if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
            time.sleep(seconds)
            now = client.request("daemon.status")
            if not as_json:
                say(headline(now))
            print_table(ordered(rows(now, before), sort), COLUMNS, as_json=as_json, empty="no plugin is registered")
            return
        _live(lambda: client.request("daemon.status"), before, sort, seconds)


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
            "queue": plugin["queued"] + plugin["inFlight"], "cpu": round(100 * rate("cpuSeconds"), 1),
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


def _live(look: Any, before: Row, sort: SortKey, seconds: float) -> None:
    """Redraws every ``seconds`` and at a key, one frame at a time, so that a slow terminal gets fewer frames."""
    import select
    import shutil
    import termios
    import tty

    stdin = sys.stdin.fileno()
    saved = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        with Screen() as screen:
            now, due = before, time.monotonic() + min(1.0, seconds)  # the first rates come soon
            while True:
                screen.draw(_frame(now, before, sort, shutil.get_terminal_size().columns))
                ready, _, _ = select.select([stdin], [], [], max(0.0, due - time.monotonic()))
                if ready:
                    key = sys.stdin.read(1)
                    if key in ("q", ""):
                        return
                    sort = HOTKEYS.get(key, sort)
                    continue
                before, now = now, look()
                due = time.monotonic() + seconds
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, saved)


def _frame(now: Row, before: Row, sort: SortKey, width: int) -> list[tuple[str, str]]:
    """The lines of one look, each with its style; the column of ids takes the room that is left."""
    columns = {key: heading for key, heading in COLUMNS.items() if width >= NARROW or key != "breaker"}
    names = [f"*{heading}" if key == sort or (key == "condition" and sort == "state") else heading
             for key, heading in columns.items()]
    shown = ordered(rows(now, before if before is not now else None), sort)
    table = [[" ".join(cell(row[key]).split()) for key in columns] for row in shown]
    widths = [max(map(cell_len, column)) for column in zip(names, *table, strict=True)]
    widths[0] = max(ID_WIDTH_MIN, width - sum(widths[1:]) - len(widths) + 1)

    def line(cells: list[str]) -> str:
        padded = []
        for key, text, room in zip(columns, cells, widths, strict=True):
            text = (chop_cells(text, room) or [""])[0]
            space = " " * (room - cell_len(text))
            padded.append(text + space if key in LEFT else space + text)
        return " ".join(padded)

    lines = [("", text) for text in headline(now).split("\n")] + [("heading", line(names))]
    for row, cells in zip(shown, table, strict=True):
        bad = row["breaker"] != "closed" or row["state"] != "enabled"
        lines.append(("warning" if bad else "", line(cells)))
    return lines
