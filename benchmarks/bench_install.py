"""What an installation of the base costs: packages, megabytes, and the time from ``serve`` to the first answer.

    python -m benchmarks.bench_install [--before 181b729] [--rounds 15] [--keep FOLDER]

Two environments are made with pip, as the README has it: the working tree's base, and the commit ``--before`` in which
nothing was optional. Their daemons are started in turn, so that what the machine does meanwhile falls on both. The
first answer is that of one hook of one plugin, over the host endpoint, from the moment the process is executed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from apex_exec.client import Client, ConnectionLost
from benchmarks.lab import Lab

TITLE = "What the base installs, and how soon it answers"
ROOT = Path(__file__).parent.parent
BEFORE = "181b729"
"""The commit before extras: one installation of everything."""
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""What a new environment of Python 3.11 has before anything is installed."""
PACKAGES_MAX, MEGABYTES_MAX, RATIO_MAX = 22, 45.0, 0.6
"""What we want of the base; the ratio is that of the first answers, now to before."""
USER = "11111111-2222-4333-8444-555555555555"
ANSWER_SECONDS_MAX = 60.0


def install(folder: Path, commit: str) -> Path:
    """The interpreter of a new environment with ``commit`` in it; "" is the working tree."""
    source = folder / "source"
    source.mkdir(parents=True)
    files = f"git -C '{ROOT}' " + (f"archive {commit}" if commit else "ls-files -z | tar -C "
                                   f"'{ROOT}' --null --ignore-failed-read -c -T -")
    subprocess.run(["bash", "-c", f"{files} | tar -x -C '{source}'"], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    subprocess.run([folder / "env/bin/pip", "install", "-q", source], check=True)
    return folder / "env/bin/python"


def weigh(python: Path) -> tuple[int, float]:
    """(packages, megabytes) beside pip and what comes with it; a megabyte is a million bytes."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True).stdout
    packages = [package for package in json.loads(listed) if package["name"] not in TOOLS]
    (place,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    size = sum(path.stat().st_size for path in place.rglob("*")
               if path.is_file() and path.relative_to(place).parts[0].partition("-")[0] not in TOOLS)
    return len(packages), size / 1e6


def first_answer(python: Path) -> float:
    """Seconds from the execution of ``serve`` to the reply of its first call."""
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    examples = next((python.parent.parent / "lib").glob("python3*/site-packages/apex_exec/examples/plugins"))
    shutil.copytree(examples / "hello-world", folder / "plugins/hello-world")
    begun = time.perf_counter()
    daemon = subprocess.Popen(
        [python, "-m", "apex_exec", "serve", "--runtime-dir", folder / "run", "--state-dir", folder / "state",
         "--plugins-dir", folder / "plugins", "--http-address", "127.0.0.1:0", "--set", "sandbox.min_level=L0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        socket = folder / "run/host.sock"
        while not socket.exists():
            if daemon.poll() is not None or time.perf_counter() - begun > ANSWER_SECONDS_MAX:
                raise RuntimeError("the daemon did not start")
            time.sleep(0.001)
        with Client(f"ipc://{socket}") as host:
            host.invoke("hello-world", "onDashboardLoad", USER, {"dashboardId": "main"})
        return time.perf_counter() - begun
    except ConnectionLost as error:
        raise RuntimeError(f"the first call was not answered: {error}") from error
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def compare(before: str, rounds: int, keep: Path | None = None) -> dict[str, tuple[int, float, list[float]]]:
    """Packages, megabytes and the seconds of each round, of "base" and "before", started in turn."""
    with tempfile.TemporaryDirectory(prefix="apex-install-") as temporary:
        home = keep or Path(temporary)
        pythons = {name: home / name / "env/bin/python" for name in ("base", "before")}
        for name, python in pythons.items():
            if not python.exists():
                install(home / name, before if name == "before" else "")
        times: dict[str, list[float]] = {name: [] for name in pythons}
        for round_ in range(rounds + 1):
            for name, python in pythons.items():
                seconds = first_answer(python)
                if round_:  # the first reads the files from the disk
                    times[name].append(seconds)
        return {name: (*weigh(python), times[name]) for name, python in pythons.items()}


def run(lab: Lab) -> None:
    """Adds the rows."""
    for name, (packages, megabytes, times) in compare(BEFORE, lab.repetitions).items():
        lab.add(name, "packages", "", packages)
        lab.add(name, "size without pip", "MB", megabytes)
        for seconds in times:
            lab.add(name, "first answer", "ms", seconds * 1000)
    lab.note(f"base is `pip install .` without extras; before is the commit {BEFORE}, in which nothing was optional")


def main() -> None:
    """Prints one line for each environment and whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="a folder for the environments; used again if they are there")
    given = parser.parse_args()
    found = compare(given.before, given.rounds, given.keep)
    for name, (packages, megabytes, times) in found.items():
        print(f"{name}: {packages} packages, {megabytes:.1f} MB without pip, first answer after "
              f"{statistics.median(times) * 1000:.0f} ms [{min(times) * 1000:.0f}–{max(times) * 1000:.0f}], "
              f"{given.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    packages, megabytes, times = found["base"]
    ratio = statistics.median(times) / statistics.median(found["before"][2])
    for what, value, limit in (("packages", packages, PACKAGES_MAX), ("megabytes", megabytes, MEGABYTES_MAX),
                               (f"first answer, of that of {given.before}", ratio, RATIO_MAX)):
        print(f"{what}: {value:.4g}, at most {limit:g}: {'reached' if value <= limit else 'missed'}")


if __name__ == "__main__":
    main()
