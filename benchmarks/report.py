"""Makes ``benchmarks/README.md`` and its plots from the results: nothing in it is written by hand but ``PREFACE``."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks import soak
from benchmarks.lab import Lab, Row
from benchmarks.targets import TARGETS, judged

PREFACE = """# Benchmarks

Made by `python -m benchmarks report` from the JSON in `results/`; change the code, not this page.

```
pip install '.[test,bench]'
python -m benchmarks              # all of it, about half an hour; --quick for a smoke run
python -m benchmarks roundtrip    # one by name
python -m benchmarks report       # this page and the plots, from the results
```

Every contender is driven by the same kind of client, one Python process, which shares the machine's cores with what
it measures. Contenders take turns within each repetition; a figure is the median of the repetitions, in brackets the
least and the greatest. apex-exec runs with everything on: jail at the machine's best level, validation of every
payload and result, audit, governor, a scrape a second. The peers do none of that.

How these results came about: one run of everything on a fresh clone, three repetitions, nothing else running, and at
once after it the open loop a second time, of three. Of its six values at half the maximum rate two are above 5 ms.
Density was measured again, by itself, after a change of what workers share. The ten-minute soak is of four days before.
The machine is a shared one: from one quarter of an hour to the next everything on it, the peers too, changes by a
third. The clients of pools and of sockets are alike: each waits for the next answer, not for all that is pending (with
a client that looked at every pending call, as ours once was, pebble reached 12,000 calls/s). Clients that keep a fixed
rate sleep between calls: one that looks awake instead takes a core of two from what it measures.
"""


BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def load(folder: Path) -> dict[str, Lab]:
    """The results below ``folder``, by name."""
    labs: dict[str, Lab] = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem == soak.NAME:
            continue  # another form: `soak.table` knows it
        body = json.loads(path.read_text("utf-8"))
        lab = Lab(body["name"], body["quick"], 1)
        lab.notes = body["notes"]
        lab.rows = [Row(r["contender"], r["figure"], r["unit"], r["conditions"], r["values"]) for r in body["rows"]]
        labs[lab.name] = lab
    return labs


def write(folder: Path, readme: Path) -> None:
    """Writes the page to ``readme`` and the plots beside the results. Raises SystemExit where there are none."""
    labs = load(folder)
    if not labs:
        raise SystemExit(f"no results in {folder}; run `python -m benchmarks` first")
    first = json.loads((folder / f"{next(iter(labs))}.json").read_text("utf-8"))
    parts = [PREFACE, _machine(first), "## Targets\n\n" + _targets(labs)]
    plots = _plots(labs, folder)
    for name, lab in labs.items():
        title = getattr(_module(name), "TITLE", name)
        text = f"## {title}\n\n`python -m benchmarks {name}`\n\n"
        if name in plots:
            text += f"![{title}](results/{plots[name]})\n\n"
        text += lab.table() + "\n"
        if lab.notes:
            text += "\n" + "\n".join(f"- {note}" for note in lab.notes) + "\n"
        if lab.quick:
            text += "\n**A quick run: proportions only.**\n"
        parts.append(text)
    soaked = folder / f"{soak.NAME}.json"
    if soaked.exists():
        figures = json.loads(soaked.read_text("utf-8"))
        parts.append(f"## {soak.TITLE}\n\n{soak.usage(figures)}\n\n{soak.table(figures)}\n")
    readme.write_text("\n".join(parts), "utf-8")
    print(f"written: {readme}")
    _figures(readme.parent.parent / "README.md", _machine(first), _targets(labs))


def _figures(page: Path, machine: str, targets: str) -> None:
    """Puts the table of targets between the marks of the project's own page."""
    head, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the figures: {BEGIN} … {END}")
    page.write_text(f"{head}{BEGIN}\n{machine}\n{targets}{END}{tail}", "utf-8")
    print(f"written: {page}")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"benchmarks.bench_{name}")
    except ImportError:
        return None


def _machine(body: dict[str, Any]) -> str:
    machine = body["machine"]
    return (f"Measured on {body['date']}: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
            f"CPython {machine['python']}.\n")


def _targets(labs: dict[str, Lab]) -> str:
    lines = ["| what | target | measured | |", "|---|---|---|---|"]
    for target in TARGETS:
        measured, met = judged(target, labs)
        verdict = "not measured" if met is None else "reached" if met else f"**missed**: {target.why or 'see below'}"
        lines.append(f"| {target.what} | {target.text} | {measured} | {verdict} |")
    return "\n".join(lines) + "\n"


def _plots(labs: dict[str, Lab], folder: Path) -> dict[str, str]:
    """One SVG for each benchmark that has something to look at; {} where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed (extra `bench`): no plots")
        return {}
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "apex-exec"  # the same figures give the same file
    from matplotlib import pyplot

    made: dict[str, str] = {}
    for name, x_key, figure, title in (
        ("roundtrip", "in flight", "calls/s", "calls per second, payload 100 B"),
        ("density", "live workers", "calls/s", "calls per second by live workers"),
    ):
        lab = labs.get(name)
        if lab is None:
            continue
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in lab.rows:
            size = row.conditions.get("payload", "100 B")
            fits = row.figure == figure and x_key in row.conditions and size == "100 B"
            if fits:
                lines.setdefault(row.contender, []).append((row.conditions[x_key], row.median))
        figure_, axes = pyplot.subplots(figsize=(7, 4))
        for contender, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=contender,
                      linewidth=2.5 if contender.startswith("apex-exec") else 1.2)
        axes.set(xscale="log", xlabel=x_key, ylabel=figure, title=title)
        axes.set_xticks([x for x, _ in max(lines.values(), key=len)])
        axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        figure_.tight_layout()
        made[name] = f"{name}.svg"
        figure_.savefig(folder / made[name], metadata={"Date": None})
        pyplot.close(figure_)
    return made
