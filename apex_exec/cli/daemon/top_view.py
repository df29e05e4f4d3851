"""What `top` shows and what its keys do: the list of plugins, and one plugin. Pure: looks and keys in, lines out.

A frame is never larger than the terminal, and its last line says which keys there are. Columns that a narrow terminal
has no room for go in the order of ``SPARED``; ids, states and numbers are not cut.
"""

from __future__ import annotations

from typing import Any

from apex_exec.cli.cells import cell_len, chop_cells
from apex_exec.cli.daemon.status import COLUMNS, SORTS, Row, SortKey, condition, headline, ordered, rows
from apex_exec.cli.output import cell, one_line
from apex_exec.common.words import duration

HOTKEYS: dict[str, SortKey] = {"i": "id", "s": "state", "c": "calls", "5": "p50", "9": "p99", "u": "queue", "p": "cpu",
                               "m": "memory", "t": "throttled", "f": "failures", "r": "restarts"}
HELP = "sort i s c 5 9 u p m t f r | x failing only | up down enter: one plugin | q ends"
HELP_ONE = "esc back | up down: its neighbours | q ends"
WIDE = {"lastFailure": "last failure"}
SPARED = ("lastFailure", "breaker", "inFlight", "throttled", "restarts", "p50", "queue")
"""The columns that `top` leaves out if the terminal is too narrow, in this order. The breaker may go early, since the
column of the state shows an open one."""
LEFT = ("id", "condition", "breaker", "lastFailure")
ID_WIDTH_MIN = 14
WIDTH_MIN, HEIGHT_MIN = 40, 6
BAR_CELLS = 20
LOG_LINES = 200
Lines = list[tuple[str, str]]
"""Each line with its style, as ``output.Screen`` draws them."""
_ESCAPES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[D": "back",
            b"\x1b[C": "enter", b"\x1b[5~": "page up", b"\x1b[6~": "page down"}
_NAMED = {"\r": "enter", "\n": "enter", "\x7f": "back", "\x08": "back", "b": "back", "k": "up", "j": "down",
          "\x04": "q", "\x1b": "back"}


def keys_of(data: bytes) -> list[str]:
    """The keys that a terminal has sent, by name; an escape sequence that nobody knows is none."""
    found = []
    while data:
        known = next((one for one in _ESCAPES if data.startswith(one)), b"")
        if known:
            found.append(_ESCAPES[known])
        elif data.startswith((b"\x1b[", b"\x1bO")):
            known = data  # the rest belongs to it, for all that is known
        else:
            known = data[:1]
            key = known.decode("latin-1")
            found.append(_NAMED.get(key, key))
        data = data[len(known):]
    return found


class View:
    """What a person looks at: ``opened`` is the plugin that fills the screen, "" for the list."""

    def __init__(self, sort: SortKey) -> None:
        self.sort: SortKey = sort
        self.failing = False
        self.chosen = ""
        self.opened = ""
        self._first = 0
        self._ids: list[str] = []
        self._room = 1

    def press(self, key: str) -> bool:
        """Does what a key is for; False if it ends `top`."""
        if key == "q":
            return False
        if key == "back":
            self.opened = ""
        elif key in ("up", "down", "page up", "page down"):
            self._move({"up": -1, "down": 1, "page up": -self._room, "page down": self._room}[key])
        elif key == "enter":
            self.opened = self.chosen
        elif not self.opened and key == "x":
            self.failing = not self.failing
        elif not self.opened:
            self.sort = HOTKEYS.get(key, self.sort)
        return True

    def _move(self, by: int) -> None:
        if self._ids:
            at = self._ids.index(self.chosen) if self.chosen in self._ids else 0
            self.chosen = self._ids[max(0, min(len(self._ids) - 1, at + by))]
            if self.opened:
                self.opened = self.chosen

    def frame(self, now: Row, before: Row | None, one: dict[str, Any] | None, width: int, height: int,
              trouble: str = "") -> Lines:
        """The lines of one look. ``one`` is what is known of the opened plugin: ``live``, ``lines`` and ``unread``, why
        there are no lines. ``trouble`` is why this look is not a new one."""
        width, height = max(WIDTH_MIN, width), max(HEIGHT_MIN, height)
        table = ordered(rows(now, before), self.sort)
        if self.failing:
            table = [row for row in table if row["failures"] or row["breaker"] != "closed"]
        self._ids = [row["id"] for row in table]
        if self.opened:
            row = next((row for row in rows(now, before) if row["id"] == self.opened), None)
            body, keys = one_plugin(self.opened, row, one or {}, width, height - 1), HELP_ONE
        else:
            body, keys = self._list(now, table, width, height - 1 - bool(trouble)), HELP
        if trouble:
            body.insert(0, ("warning", f"NO ANSWER  {trouble}"))
        body = body[:height - 1] + [("", "")] * (height - 1 - len(body))
        return [*body, ("heading", _padded(keys, width))]

    def _list(self, now: Row, table: list[Row], width: int, height: int) -> Lines:
        if self.chosen not in self._ids:
            self.chosen = self._ids[0] if self._ids else ""
        head: Lines = [("", text) for text in headline(now).split("\n")]
        columns, widths, cells = _fitting(table, self.sort, width)
        head.append(("heading", _line(list(columns.values()), list(columns), widths)))
        room = self._room = max(1, height - len(head))
        at = self._ids.index(self.chosen) if self.chosen else 0
        self._first = max(0, min(self._first, at, len(table) - room), at - room + 1)
        if not table:
            return [*head, ("", "no plugin fails; x shows all of them" if self.failing else "no plugin is registered")]
        lines = []
        for row, texts in list(zip(table, cells, strict=True))[self._first:self._first + room]:
            bad = row["breaker"] != "closed" or row["state"] != "enabled" or row["failures"]
            style = "chosen" if row["id"] == self.chosen else "warning" if bad else ""
            lines.append((style, _line(texts, list(columns), widths)))
        return [*head, *lines]


def _fitting(table: list[Row], sort: SortKey, width: int) -> tuple[dict[str, str], list[int], list[list[str]]]:
    """The columns for which there is room, with their headings, widths and texts; that of ids takes what is left."""
    names = {**COLUMNS, **WIDE}
    marked = {key: f"*{heading}" if SORTS.get(sort, sort) == key else heading for key, heading in names.items()}
    spared = list(SPARED)
    columns = dict(marked)
    while True:
        cells = [[one_line(cell(row.get(key))) for key in columns] for row in table]
        widths = [max(map(cell_len, column)) for column in zip(columns.values(), *cells, strict=True)]
        widths[0] = max(ID_WIDTH_MIN, widths[0])
        if sum(widths) + len(widths) - 1 <= width or not spared:
            break
        columns.pop(spared.pop(0))
    widths[0] = max(ID_WIDTH_MIN, width - sum(widths[1:]) - len(widths) + 1)
    return columns, widths, cells


def _line(texts: list[str], columns: list[str], widths: list[int]) -> str:
    return " ".join(_padded(text, room, left=key in LEFT)
                    for key, text, room in zip(columns, texts, widths, strict=True))


def _padded(text: str, room: int, *, left: bool = True) -> str:
    text = (chop_cells(text, room) or [""])[0]
    space = " " * (room - cell_len(text))
    return text + space if left else space + text


def one_plugin(id_: str, row: Row | None, one: dict[str, Any], width: int, height: int) -> Lines:
    """All that is known of one plugin: what it uses of its limits, its last failures, the end of its log."""
    live = one.get("live")
    if row is None or live is None:
        return [("warning", f"{id_} is not served any more")]
    limits = live["limits"]
    ages = [f"pid {pid}" + (f" ({duration(age)} old)" if age is not None else "")
            for pid, age in zip(live["pids"], [*live["ages"], *[None] * len(live["pids"])], strict=False)]
    bad = live["state"] != "enabled" or live["breaker"] != "closed"
    trial = live.get("trial")
    lines: Lines = [
        ("heading", _padded(f"{id_}  {live['version']}", width)),
        ("warning" if bad else "", f"state     {condition(live)}" + (f": {live['reason']}" if live["reason"] else "")),
        ("", f"worker    {', '.join(ages) or 'none; the next call starts one'}; {live['inFlight']} of "
             f"{live['concurrency']} at once, {live['queued']} waiting"),
        *([("warning", f"trial     version {trial['version']}: its worker is {trial['worker']}")] if trial else []),
        ("", f"calls     {row['calls']:g} a second, {live['calls']:,} in all, {live['failed']:,} failed"),
        ("warning" if live["failedRecently"] else "", f"failures  {live['failedRecently']} in five minutes"
         + (f"; the last was {live['lastFailure']}" if live["lastFailure"] else "")),
        _measure("time", live["p99Ms"], limits["timeout_ms"], "ms", f"p99; p50 {cell(live['p50Ms'])} ms"),
        _measure("memory", live["memoryMb"], limits["memory_mb"], "MB", ""),
        _measure("cpu", row["cpu"], limits["cpu_percent"], "% of a core", f"throttled {row['throttled']:g} %"),
        ("", f"network   {live['network']:g} requests refused; {limits['network_per_minute']} a minute are allowed"),
        ("", f"restarts  {live['restarts']}, each after a worker that died or was killed"), ("", "")]
    if one.get("unread"):
        return [*lines, ("", one["unread"])]
    said = one.get("lines", [])
    failures = [line for line in said if line["level"] == "error"]
    room = max(2, height - len(lines) - 2)
    if failures:
        lines.append(("heading", _padded("last failures", width)))
        lines += [("warning", f"{_at(line)} {line['text']}") for line in failures[-max(1, room // 2):]]
    lines.append(("heading", _padded("log", width)))
    left = max(1, height - len(lines))
    return [*lines, *([("", f"{_at(line)} {line['level']} {line['text']}") for line in said[-left:]]
                      or [("", "it has written nothing so far")])]


def _measure(name: str, value: float | None, most: float, unit: str, more: str) -> tuple[str, str]:
    """A value beside its limit, as a bar and in numbers."""
    share = 0.0 if value is None or most <= 0 else min(1.0, value / most)
    filled = round(BAR_CELLS * share)
    text = (f"{name:<9} [{'#' * filled}{'.' * (BAR_CELLS - filled)}] {cell(value) or '-'} of {most:g} {unit}"
            + (f"; {more}" if more else ""))
    return "warning" if share >= 0.9 else "", text


def _at(line: dict[str, Any]) -> str:
    return str(line["at"])[11:19]
