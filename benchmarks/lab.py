"""What every benchmark shares: the machine's description, interleaved repetitions, medians with spread, JSON, tables.

A benchmark is a function ``run(lab)`` that adds rows. A row is one figure of one contender under named conditions;
its value is the median over the repetitions, its spread the least and the greatest of them. Contenders are
measured in turn within each repetition, so that a noisy minute falls on all of them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAYLOADS = {"100 B": 100, "1 KiB": 1024, "64 KiB": 65_536}


@dataclass
class Row:
    """``values`` are the repetitions' figures in ``unit``; ``conditions`` name what was varied."""

    contender: str
    figure: str
    unit: str
    conditions: dict[str, Any]
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of the repetitions."""
        return statistics.median(self.values)


@dataclass
class Round:
    """What one round of calls gave: calls per second, each call's latency in µs, how many were answered by an error,
    and by which; and, where it was asked for, the CPU that the worker used for each call, in µs."""

    rate: float
    latencies_us: list[float]
    failed: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    cpus_us: list[float] = field(default_factory=list)

    def percentile(self, percent: float) -> float:
        """The latency below which ``percent`` of the calls lie (nearest rank)."""
        ordered = sorted(self.latencies_us)
        return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]


class Lab:
    """Collects the rows of one benchmark. ``quick`` divides the amount of work by ten, for a smoke run."""

    def __init__(self, name: str, quick: bool, repetitions: int) -> None:
        self.name = name
        self.quick = quick
        self.repetitions = 1 if quick else repetitions
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def scaled(self, amount: int) -> int:
        """``amount`` of work, less in a quick run."""
        return max(1, amount // 10) if self.quick else amount

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"[{self.name}] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A sentence that belongs under the table."""
        self.notes.append(text)
        self.say(text)

    def add(self, contender: str, figure: str, unit: str, value: float, **conditions: Any) -> None:
        """One repetition's figure."""
        row = self.row(contender, figure, **conditions)
        if row is None:
            self.rows.append(Row(contender, figure, unit, conditions, [value]))
        else:
            row.values.append(value)

    def add_round(self, contender: str, round_: Round, percents: Iterable[float] = (50, 99), **conditions: Any) -> None:
        """The rate and the latency percentiles of one round."""
        self.add(contender, "calls/s", "1/s", round_.rate, **conditions)
        for percent in percents:
            self.add(contender, f"p{percent:g}", "µs", round_.percentile(percent), **conditions)

    def interleave(self, contenders: dict[str, Callable[[], None]]) -> None:
        """Runs each contender once a repetition, in turn."""
        for repetition in range(self.repetitions):
            for name, run in contenders.items():
                self.say(f"{repetition + 1}/{self.repetitions} {name}")
                run()

    def value(self, contender: str, figure: str, **conditions: Any) -> float | None:
        """The median of one row, None where it was not measured."""
        row = self.row(contender, figure, **conditions)
        return row.median if row else None

    def row(self, contender: str, figure: str, **conditions: Any) -> Row | None:
        """One row, None where it was not measured."""
        for row in self.rows:
            if (row.contender, row.figure, row.conditions) == (contender, figure, conditions):
                return row
        return None

    def table(self) -> str:
        """The rows as Markdown tables, one for each set of conditions: one line a contender, one column a figure."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row.conditions), []).append(row)
        return "\n\n".join(_table(list(keys), rows) for keys, rows in groups.items())

    def save(self, folder: Path) -> Path:
        """Writes ``<name>.json`` below ``folder`` and gives its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        body = {"name": self.name, "date": time.strftime("%Y-%m-%d"), "quick": self.quick, "machine": machine(),
                "notes": self.notes, "rows": [asdict(row) | {"median": row.median} for row in self.rows]}
        path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path


def _table(keys: list[str], rows: list[Row]) -> str:
    columns = list(dict.fromkeys((row.figure, row.unit) for row in rows))
    lines: dict[tuple[Any, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        line = (row.contender, *(row.conditions[key] for key in keys))
        lines.setdefault(line, {})[row.figure, row.unit] = row
    head = ["who", *keys, *(f"{figure} ({unit})" if unit else figure for figure, unit in columns)]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line, cells in lines.items():
        shown = [_shown(cells[column]) if column in cells else "" for column in columns]
        out.append("| " + " | ".join([*map(str, line), *shown]) + " |")
    return "\n".join(out)


def _shown(row: Row) -> str:
    text = f"{row.median:,.0f}" if abs(row.median) >= 100 else f"{row.median:.3g}"
    if len(row.values) > 1:
        low, high = min(row.values), max(row.values)
        text += f" [{low:,.0f}–{high:,.0f}]" if high >= 100 else f" [{low:.3g}–{high:.3g}]"
    return text


def machine() -> dict[str, Any]:
    """The machine on which the figures were measured: the properties that matter for them."""
    model = ""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    kernel = ".".join(platform.release().split(".")[:2])
    return {"cpu": model or platform.machine(), "cores": os.cpu_count(), "kernel": kernel,
            "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 2)}
