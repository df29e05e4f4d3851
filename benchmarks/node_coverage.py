"""Which lines of a file node's own coverage (V8's) finds not run by tests: the peer of our counters."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SECONDS_MAX = 300


def missed_lines(folder: Path, name: str, test: str) -> set[int]:
    """The lines of ``folder/name`` of which nothing was run by the test file ``test``. Blocks; raises OSError and
    CalledProcessError.

    V8 tells ranges with how often each was run. Node's table of them takes a line as run whose indentation was: a
    statement without braces on a line of its own. Here indentation does not count.
    """
    source = (folder / name).read_text("utf-8")
    with tempfile.TemporaryDirectory() as where:
        subprocess.run(["node", "--test", test], cwd=folder, check=True, capture_output=True, timeout=SECONDS_MAX,
                       env={**os.environ, "NODE_V8_COVERAGE": where})
        reports = [json.loads(path.read_text("utf-8")) for path in Path(where).glob("*.json")]
    run: set[int] = set()
    wanted = (folder / name).resolve().as_uri()
    seen = [script for report in reports for script in report["result"] if script["url"] == wanted]
    if not seen:
        raise OSError(f"node has no coverage of {name}")
    for script in seen:
        run |= _run_lines(source, script["functions"])
    return set(range(1, source.count("\n") + 2)) - run


def _run_lines(source: str, functions: list[dict[str, Any]]) -> set[int]:
    units = len(source.encode("utf-16-le")) // 2
    counted = bytearray(units)
    for function in functions:  # the outer ones first, and so are the ranges of each
        for part in function["ranges"]:
            begin, end = part["startOffset"], min(part["endOffset"], units)
            counted[begin:end] = bytes([bool(part["count"])]) * (end - begin)
    run: set[int] = set()
    at = 0
    for number, line in enumerate(source.split("\n"), 1):
        size = len(line.encode("utf-16-le")) // 2
        first = at + len(line) - len(line.lstrip())
        if any(counted[first:at + size]):
            run.add(number)
        at += size + 1
    return run
