"""How the page's plots are drawn: lines over a varied condition, and bars with a mark for the tail.

A plot is an SVG beside the results. The same results give the same file, byte for byte. A figure is the median of the
repetitions, and a thin line reaches from the least to the greatest of them. Ours is blue, everything else is grey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lab import Lab, Row

OURS, PEERS = "#1f6fb4", ("#444444", "#888888", "#aaaaaa", "#666666", "#bbbbbb", "#999999")
MARKERS = "osD^vX"
WIDTH_INCHES = 7.5

Draw = Callable[[Any, Lab], None]
"""Draws a benchmark's rows on matplotlib's axes."""


def save(draw: Draw, lab: Lab, path: Path, height_inches: float) -> bool:
    """Draws ``lab`` to the SVG ``path``; False if matplotlib (extra ``bench``) is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "apex-exec", "svg.fonttype": "path", "font.size": 9,
                                "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, height_inches))
    draw(axes, lab)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
    pyplot.close(figure)
    return True


class Point(NamedTuple):
    """One figure of a line or a bar: the median, and the least and the greatest of the repetitions."""

    x: Any
    median: float
    least: float
    greatest: float


def point(row: Row, x: Any = 0.0, scale: float = 1.0) -> Point:
    """``row`` at ``x``, its values times ``scale``."""
    return Point(x, row.median * scale, min(row.values) * scale, max(row.values) * scale)


def lines(axes: Any, series: dict[str, list[Point]], *, xlabel: str, ylabel: str, ours: str = "apex-exec",
          xscale: str = "log", yscale: str = "linear") -> None:
    """One line a contender; ``ours`` is the one whose name begins so."""
    peers = 0
    for name, points in series.items():
        points = sorted(points)
        is_ours = name.startswith(ours)
        color = OURS if is_ours else PEERS[peers % len(PEERS)]
        marker = "o" if is_ours else MARKERS[1 + peers % (len(MARKERS) - 1)]
        peers += not is_ours
        medians = [found.median for found in points]
        spread = [[found.median - found.least for found in points], [found.greatest - found.median for found in points]]
        axes.errorbar([found.x for found in points], medians, yerr=spread, label=name, color=color, marker=marker,
                      markersize=5, linewidth=2.4 if is_ours else 1.2, elinewidth=0.8, capsize=2,
                      zorder=3 if is_ours else 2)
    axes.set(xscale=xscale, yscale=yscale, xlabel=xlabel, ylabel=ylabel)
    ticks = sorted({found.x for points in series.values() for found in points})
    if len(ticks) <= 8:
        axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
        axes.minorticks_off()
    if yscale == "linear":
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_plain)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


class Bar(NamedTuple):
    """One bar: its name, the typical value, the tail that a mark shows (None: none), and whether it is ours."""

    name: str
    typical: Point
    tail: float | None = None
    is_ours: bool = True


def bars(axes: Any, found: Sequence[Bar], *, xlabel: str, xscale: str = "linear") -> None:
    """Horizontal bars from the top, and a mark for each tail; the numbers stand beside them."""
    for place, bar in enumerate(found):
        color = OURS if bar.is_ours else PEERS[2]
        low, high = bar.typical.median - bar.typical.least, bar.typical.greatest - bar.typical.median
        axes.barh(place, bar.typical.median, color=color, height=0.6, zorder=2)
        if low or high:
            axes.errorbar(bar.typical.median, place, xerr=[[low], [high]], color="black", elinewidth=0.8, capsize=2,
                          zorder=3)
        if bar.tail is not None:
            axes.plot(bar.tail, place, marker="|", color="#c03d2f", markersize=13, markeredgewidth=2.2, zorder=4)
        ends = [bar.typical.greatest, *([bar.tail] if bar.tail is not None else [])]
        text = " · ".join(_number(value) for value in (bar.typical.median, bar.tail) if value is not None)
        axes.annotate(text, (max(ends), place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [bar.name for bar in found])
    axes.invert_yaxis()
    axes.set(xscale=xscale, xlabel=f"{xlabel}; bar: p50, red mark: p99" if any(bar.tail for bar in found) else xlabel)
    if xscale == "linear":
        axes.set_xlim(0, axes.get_xlim()[1] * 1.16)
    else:
        axes.set_xlim(10 ** floor(log10(min(bar.typical.least for bar in found))), axes.get_xlim()[1] * 4)
    axes.xaxis.set_major_formatter(_plain)
    axes.grid(axis="x", alpha=0.25)


def _plain(value: float, _position: int) -> str:
    """A tick in plain digits."""
    return f"{value:,g}" if value < 1000 else f"{value:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
