"""Makes ``benchmarks/README.md`` and its plots from the results; only ``INTRODUCTION`` and ``HOW`` are written by hand.

A question is a heading, a sentence with the figures, and a plot (``questions.py``); all figures are folded away below.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks import soak
from benchmarks.lab import Lab, Row
from benchmarks.plots import save
from benchmarks.questions import QUESTIONS, Question
from benchmarks.targets import TARGETS, judged

INTRODUCTION = """# Benchmarks

How fast apex-exec is, beside its peers and against its targets. Made by `python -m benchmarks report` from the JSON in
`results/`; change the code, not this page.
"""

LEGEND = """In the plots apex-exec is blue and everything else grey. A point or a bar is the median of the repetitions,
a thin line reaches from the least to the greatest of them, and a red mark is p99.
"""

HOW = """## How it is measured

```
pip install '.[test,bench]'
python -m benchmarks              # all of it, about half an hour; --quick for a smoke run
python -m benchmarks roundtrip    # one by name
python -m benchmarks report       # this page and the plots, from the results
```

- Every contender is driven by the same kind of client, one Python process, which shares the machine's cores with what
  it measures.
- apex-exec runs with everything on: the jail at the machine's best level, validation of every payload and result,
  audit, governor, a scrape a second. The peers do none of that.
- Contenders take turns within each repetition. A figure is the median of the repetitions; the brackets in a table have
  the least and the greatest.
- A client at a fixed rate sleeps between calls: one that looks awake instead takes a core of two from what it measures.
  The clients of pools and of sockets are alike: each waits for the next answer, not for all that is pending.

<details>
<summary>How these results came about</summary>

One run of everything on a fresh clone, three repetitions, nothing else running, and at once after it the open loop a
second time, of three. Of its six values at half the maximum rate two are above 5 ms. Density was measured again, by
itself, after a change of what workers share. The ten-minute soak is of four days before. The machine is a shared one:
from one quarter of an hour to the next everything on it, the peers too, changes by a third. (With a client that looked
at every pending call, as ours once was, pebble reached 12,000 calls/s.)

</details>
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
    """Writes the page to ``readme`` and the plots beside the results. Raises SystemExit if there are none."""
    labs = load(folder)
    if not labs:
        raise SystemExit(f"no results in {folder}; run `python -m benchmarks` first")
    machine = _machine(json.loads((folder / f"{next(iter(labs))}.json").read_text("utf-8")))
    parts = [INTRODUCTION, machine, "## Targets\n\n" + _targets(labs), LEGEND]
    asked = [question for question in QUESTIONS if question.name in labs]
    parts += [_question(question, labs[question.name], folder) for question in asked]
    rest = [lab for name, lab in labs.items() if name not in {question.name for question in asked}]
    parts += [HOW, "## What else is measured\n"]
    parts += [_folded(getattr(_module(lab.name), "TITLE", lab.name), _tables(lab)) for lab in rest]
    soaked = folder / f"{soak.NAME}.json"
    if soaked.exists():
        figures = json.loads(soaked.read_text("utf-8"))
        parts.append(_folded(soak.TITLE, f"{soak.usage(figures)}\n\n{soak.table(figures)}"))
    readme.write_text("\n".join(parts), "utf-8")
    print(f"written: {readme}")
    _figures(readme.parent.parent / "README.md", machine, _targets(labs))


def _question(question: Question, lab: Lab, folder: Path) -> str:
    """One question: its answer in a sentence, its plot, and every figure folded away."""
    try:
        answer = question.answer(lab)
    except LookupError as error:
        answer = f"Not measured in this run: {error}."
    if not save(question.draw, lab, folder / f"{lab.name}.svg", question.height_inches):
        print("matplotlib is not installed (extra `bench`): the plots are left as they are")
    picture = f"![{question.text}](results/{lab.name}.svg)\n" if (folder / f"{lab.name}.svg").exists() else ""
    return f"## {question.text}\n\n{answer}\n\n{picture}\n" + _folded("All figures", _tables(lab))


def _tables(lab: Lab) -> str:
    """How to measure it, every figure as tables, and what the benchmark noted."""
    text = f"`python -m benchmarks {lab.name}`\n\n{lab.table()}\n"
    if lab.notes:
        text += "\n" + "\n".join(f"- {note}" for note in lab.notes) + "\n"
    return text + ("\n**A quick run: proportions only.**\n" if lab.quick else "")


def _folded(summary: str, text: str) -> str:
    """Shown by a click on ``summary``."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text.strip()}\n\n</details>\n"


def _figures(page: Path, machine: str, targets: str) -> None:
    """Puts the table of targets between the marks of the project's own page."""
    head, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the figures: {BEGIN} … {END}")
    page.write_text(f"{head}{BEGIN}\n{machine}\n{targets}{END}{tail}", "utf-8")
    print(f"written: {page}")


def _module(name: str) -> Any:
    for module in (f"benchmarks.bench_{name}", f"benchmarks.{name}"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module)
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
