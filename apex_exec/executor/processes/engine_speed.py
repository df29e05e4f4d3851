"""Finds out how fast the installed JavaScript engine was built, by measuring it in a child of ours.

The published wheel of quickjs-ng is compiled in a way that makes its interpreter two to three times slower than the
same source compiled here (gcc 12, -O3); its C code, such as ``JSON.parse``, is as fast. So the time of a short loop is
compared with that of a short ``JSON.parse``: the quotient says the same on a fast machine and a slow one. Run as a
module it prints the two times in nanoseconds.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from apex_exec.common.child_process import Ended, run_module

LOOP_TURNS = 30_000
SLOW_QUOTIENT = 4.5
"""The published wheel 0.17.0.2 for x86_64 has 6.7 to 8.7, the same source built by gcc 12 has 1.9 to 3.0."""
REPEATS = 40
"""Of each measurement; the shortest counts, since whatever else the machine does only adds."""
SECONDS_MAX = 20.0
BUILD = "pip install --force-reinstall --no-deps --no-binary quickjs-ng 'quickjs-ng>=0.17,<0.18'"
"""Compiles the engine here; takes a C compiler and some minutes."""

_PREPARE = """globalThis.text = JSON.stringify(Array.from({length: 300}, (_, i) => (
    {id: i, name: 'name ' + i, tags: ['a', 'b'], n: i * 1.5}))); 0"""
_LOOP = f"(() => {{ let sum = 0; for (let i = 0; i < {LOOP_TURNS}; i++) sum += i & 7; return sum; }})()"
_PARSE = "JSON.parse(text).length"


class Speed(NamedTuple):
    """What one turn of an empty loop takes, and whether the engine is the slow build."""

    turn_ns: float
    slow: bool


def measure(run: Callable[..., Ended] = run_module) -> Speed | None:
    """Measures the installed engine. None if there is none, or the child did not answer. ``run`` runs a module as a
    child. Blocks for half a second."""
    try:
        done = run(__name__, seconds=SECONDS_MAX)
        loop_ns, parse_ns = map(int, done.output.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Speed(loop_ns / LOOP_TURNS, loop_ns > SLOW_QUOTIENT * parse_ns)


def _shortest_ns(context: Any, code: str) -> int:
    found = []
    for _ in range(REPEATS):
        begun_ns = time.process_time_ns()
        context.eval(code)
        found.append(time.process_time_ns() - begun_ns)
    return min(found)


def main() -> None:
    """Prints the shortest times of the loop and of the parse."""
    import _quickjs  # the engine without the wheel's Python face, which starts a thread

    context = _quickjs.Context()
    context.eval(_PREPARE)
    print(_shortest_ns(context, _LOOP), _shortest_ns(context, _PARSE))  # noqa: T201 - read by ``measure``


if __name__ == "__main__":
    main()
