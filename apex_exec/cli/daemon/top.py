"""``top``: what plugins are doing, live: the list, sorted at a key, and one plugin at Enter."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.daemon.status import COLUMNS, Row, Sort, SortKey, headline, ordered, rows
from apex_exec.cli.daemon.top_view import LOG_LINES, View, keys_of
from apex_exec.cli.output import Screen, print_table, say
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, app, examples
from apex_exec.cli.verbs import Option

if TYPE_CHECKING:
    from apex_exec.client import AdminClient

KEYS_BYTES = 64
LOOK_MS = 5_000
LOG_MS = 2_000
"""The daemon may have to start a process of its own for a log; the figures do not wait for it."""


@app.command(epilog=examples("apex-exec top", "apex-exec top --sort cpu --seconds 5",
                             "apex-exec top --json | jq '.[0]'"))
def top(
    sort: Sort = "calls",
    seconds: Annotated[float, Option(min=0.2, help="Time between two looks.")] = 2.0,
    as_json: AsJson = False,
    runtime_dir: RuntimeDir = None,
    config: ConfigFile = None,
) -> None:
    """Shows what plugins are doing, live.

    Keys sort: i id, s state, c calls, 5 p50, 9 p99, u queue, p cpu, m memory, t throttled, f failures, r restarts.
    Up, down and Enter open one plugin: limits, last failures, log; Esc goes back. x shows failing plugins only; q ends.
    Without a terminal, or with --json, it reads the status twice and prints the table once.
    """
    with connect.admin(config, runtime_dir) as client:
        before = client.request("daemon.status")
        if as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
            time.sleep(seconds)
            now = client.request("daemon.status")
            if not as_json:
                say("top needs a terminal to be live, so this is one look; programs read `apex-exec top --json`, "
                    "`apex-exec status --json` or the metrics", file=sys.stderr)
                say(headline(now))
            print_table(ordered(rows(now, before), sort), COLUMNS, as_json=as_json, empty="no plugin is registered")
            return
        _live(client, before, sort, seconds)


def _live(client: AdminClient, before: Row, sort: SortKey, seconds: float) -> None:
    """Redraws every ``seconds`` and at a key, one frame at a time, so that a slow terminal gets fewer frames. A daemon
    that does not answer is said to be away, and looked for again."""
    import os
    import select
    import shutil
    import termios
    import tty

    stdin = sys.stdin.fileno()
    saved = termios.tcgetattr(stdin)
    view, looks = View(sort), _Looks(client, before)
    try:
        tty.setcbreak(stdin)
        with Screen() as screen:
            due = time.monotonic() + min(1.0, seconds)  # the first rates come soon
            while True:
                width, height = shutil.get_terminal_size()
                screen.draw(view.frame(looks.now, looks.before, looks.one, width, height, looks.trouble))
                ready, _, _ = select.select([stdin], [], [], max(0.0, due - time.monotonic()))
                if ready:
                    opened, data = view.opened, os.read(stdin, KEYS_BYTES)
                    if not data or not all([view.press(key) for key in keys_of(data)]):
                        return
                    if view.opened != opened:
                        looks.look_at(view.opened)
                    continue
                looks.look()
                looks.look_at(view.opened)
                due = time.monotonic() + seconds
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, saved)


class _Looks:
    """The latest two looks at the daemon, and the latest at one plugin. ``trouble`` says since when there is none."""

    def __init__(self, client: AdminClient, first: Row) -> None:
        self._client = client
        self._at = time.monotonic()
        self.now = first
        self.before: Row | None = None
        self.one: dict[str, Any] | None = None
        self.trouble = ""

    def look(self) -> None:
        """Takes another look; if none comes, the one before stays, and ``trouble`` says so."""
        from apex_exec.client import CallError, ConnectionLost

        try:
            now = self._client.request("daemon.status", {}, LOOK_MS)
        except (CallError, ConnectionLost) as error:
            self.trouble = f"{error}; this is {time.monotonic() - self._at:.0f} s old"
            return
        before, self.now, self.trouble, self._at = self.now, now, "", time.monotonic()
        self.before = before if before["uptimeSeconds"] < now["uptimeSeconds"] else None  # it was started again

    def look_at(self, plugin: str) -> None:
        """What is known of one plugin now, as ``View.frame`` takes it; None for "", and for one that is gone."""
        from apex_exec.client import CallError, ConnectionLost

        if not plugin:
            self.one = None
            return
        try:
            live = self._client.request("plugin.live", {"id": plugin}, LOOK_MS)
        except CallError:
            self.one = None
            return
        except ConnectionLost as error:
            self.trouble = str(error)
            return
        try:
            said = self._client.request("plugin.logs", {"id": plugin, "lines": LOG_LINES}, LOG_MS)
            self.one = {"live": live, "lines": said["lines"]}
        except CallError as error:
            self.one = {"live": live, "unread": f"its log cannot be shown: {error.message}"}
        except ConnectionLost:
            self.one = {"live": live, "unread": "its log has not come yet; the next look asks for it again"}
