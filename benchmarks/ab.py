"""``python -m benchmarks ab OLD NEW [WORKLOAD …]``: an old commit against a new one, by one client, in turn.

Both commits are unpacked beside each other, and both daemons run for the whole time. Each round asks the old one,
then the new one, so that a noisy minute falls on both. CPU is the kernel's account (``/proc/PID/task/TID/schedstat``)
of every process of a daemon. OLD and NEW are anything that git takes for a commit, or a folder with the code.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ab_data, ab_workloads
from benchmarks.daemon import Daemon, Host
from benchmarks.lab import Lab, Round

ROOT = Path(__file__).parent.parent
NAMES = (*ab_workloads.NAMES, *ab_data.NAMES)
TITLE = "What has become faster: an old commit beside this one"
REPETITIONS = 5
TARGET_RATIO = 1.5
"""A query of a user with 100,000 rows costs at most this many times what it costs with 100."""


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ab", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit, or a folder with the code")
    parser.add_argument("new", help="another; `.` is the code here, with what is not committed")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD",
                        help=f"some of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="rounds each (default 5)")
    parser.add_argument("--calls", type=int, default=ab_workloads.CALLS, metavar="N", help="API calls a round")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go as JSON (default: nowhere)")
    given = parser.parse_args(arguments)
    chosen = given.workloads or list(NAMES)
    if unknown := sorted(set(chosen) - set(NAMES)):
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    lab = Lab("ab", False, given.repetitions)
    with ExitStack() as stack:
        sides = {label: stack.enter_context(_tree(commit)) for label, commit in (("old", given.old),
                                                                                 ("new", given.new))}
        for name in chosen:
            with (ab_data if name in ab_data.NAMES else ab_workloads).prepared(lab, name) as workload:
                if workload is not None:
                    _measure(lab, name, workload, sides, given.calls)
    print(f"\n{lab.table()}\n\n{_ratios(lab)}")
    if given.out is not None:
        lab.note(f"old is {given.old}, new is {given.new}")
        print(f"written: {lab.save(given.out)}", file=sys.stderr)
    return 0


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """A folder with the code of ``commit``. Raises SystemExit if git has no such commit."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    made = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if made.returncode:
        raise SystemExit(f"{commit}: {made.stderr.decode(errors='replace').strip()}")
    with tempfile.TemporaryDirectory(prefix="apxab") as folder:
        with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _measure(lab: Lab, name: str, workload: Any, sides: dict[str, Path], calls: int) -> None:
    with ExitStack() as stack:
        asked = {}
        for label, tree in sides.items():
            daemon = _Side(workload, label, tree)
            if daemon.left_out:
                lab.note(f"{name}: the {label} code has no {', '.join(daemon.left_out)}, and runs without")
            stack.enter_context(daemon)
            host = Host(daemon.endpoint)
            stack.callback(host.close)
            daemon.check()
            asked[label] = (daemon, host)
        for case in workload.cases:
            for _, host in asked.values():
                case.warm(host)

            def measure(label: str, case: Any = case) -> None:
                daemon, host = asked[label]
                cpu_us, begun = _cpu_us(daemon), time.perf_counter()
                took = case.run(host, calls)
                lab.add_round(label, Round(len(took) / (time.perf_counter() - begun), took), workload=name,
                              case=case.name)
                lab.add(label, "CPU", "µs", (_cpu_us(daemon) - cpu_us) / len(took), workload=name, case=case.name)

            lab.interleave({label: lambda label=label: measure(label) for label in sides})  # type: ignore[misc]  # mypy infers no lambda with a default


class _Side(Daemon):
    """A daemon that runs the code in ``tree``, whatever is installed and wherever the client runs. ``left_out`` are
    keys of the workload's configuration that this code does not have."""

    def __init__(self, workload: Any, label: str, tree: Path) -> None:
        known = _keys_of(tree)
        config = {key: value for key, value in workload.config.items() if key in known}
        self.left_out = sorted(set(workload.config) - known)
        if urls := getattr(workload, "urls", None):
            config["data.url"] = urls[label]
        plugins = getattr(workload, "folders", {}).get(label, workload.plugins)
        super().__init__(plugins, ("-m", "apex_exec"), config)
        self._tree = tree
        self.env["PYTHONPATH"] = str(tree)  # before the installed code, in every process of the daemon

    def process_options(self) -> dict[str, Any]:
        """Python's ``-m`` looks into the working folder first."""
        return {**super().process_options(), "cwd": self._tree}

    def check(self) -> None:
        """Raises SystemExit unless the daemon has the code in the tree."""
        found = subprocess.run([sys.executable, "-c", "import apex_exec; print(apex_exec.__file__)"], text=True,
                               capture_output=True, env=self.environment(), cwd=self._tree)
        runs_in = Path(f"/proc/{self.process.pid}/cwd").resolve()
        if not Path(found.stdout.strip()).is_relative_to(self._tree) or runs_in != self._tree.resolve():
            raise SystemExit(f"the daemon would run {found.stdout.strip()}, not the code in {self._tree}")


_PRINT_KEYS = """
from apex_exec.config import Settings

def keys(section, before=""):
    for name, field in section.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            keys(field.annotation, f"{before}{name}.")
        else:
            print(before + name)

keys(Settings)
"""


def _keys_of(tree: Path) -> set[str]:
    """The keys of the configuration that the code in ``tree`` has, by its own word: where it declares them has changed,
    and a limit that is left out by mistake makes a figure of something else. Raises SystemExit."""
    found = subprocess.run([sys.executable, "-c", _PRINT_KEYS], text=True, capture_output=True, cwd=tree,
                           env={**os.environ, "PYTHONPATH": str(tree)})
    if found.returncode:
        raise SystemExit(f"the code in {tree} does not say what its configuration has: {found.stderr[-500:]}")
    return set(found.stdout.split())


def _cpu_us(daemon: Daemon) -> float:
    """The CPU time so far of all processes of the daemon that live, in µs."""
    root = psutil.Process(daemon.process.pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    return total / 1000


def _ratios(lab: Lab) -> str:
    """New by old, case by case, and large by small where a workload has both."""
    lines = ["| workload | case | calls/s, new : old | CPU, new : old | p50, new : old | "
             "new, p50 with 100,000 rows : with 100 |", "|---|---|---|---|---|---|"]
    cases: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in lab.rows:
        key = (row.conditions["workload"], row.conditions["case"])
        cases.setdefault(key, {})[row.contender, row.figure] = row.median
    for (workload, case), found in cases.items():
        small = cases.get((workload.replace("100,000", "100"), case), {})
        grown = found["new", "p50"] / small["new", "p50"] if "100,000" in workload and small else None
        rate, cpu, p50 = (found["new", figure] / found["old", figure] for figure in ("calls/s", "CPU", "p50"))
        large = f"{grown:.2f}" if grown else ""
        lines.append(f"| {workload} | {case} | {rate:.2f} | {cpu:.2f} | {p50:.2f} | {large} |")
    return "\n".join([*lines, "", f"A query of 100,000 own rows is to cost at most {TARGET_RATIO} × that of 100."])
