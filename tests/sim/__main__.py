"""``python -m tests.sim --seed N`` plays a history with its story, ``--count N`` plays many, ``--mutants`` scores.

``--seed N --record FILE`` writes the history to a file, ``--replay FILE`` plays it from there on a pool alone."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.sim import mutants


def main() -> int:
    """0 where every history holds (or every mutant is found)."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this history and tell its story")
    parser.add_argument("--record", type=Path, metavar="FILE", help="with --seed: write the history to this file")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play a history that was recorded, with its story")
    parser.add_argument("--count", type=int, default=1000, help="histories to play (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--mutant", help="break the core in this way first")
    parser.add_argument("--mutants", action="store_true", help="break the core in every known way and print the score")
    chosen = parser.parse_args()
    if chosen.mutants:
        return mutants.score(print)
    if chosen.mutant:
        mutants.install(chosen.mutant)
    from tests.sim import history, recording  # after the mutant: these import the core

    if chosen.replay is not None:
        print(f"{recording.replay(chosen.replay, print)} steps, each with the actions that were recorded")
        return 0
    if chosen.seed is not None:
        history.run(chosen.seed, print, chosen.record)
        return 0
    begun = time.monotonic()
    for seed in range(chosen.start, chosen.start + chosen.count):
        try:
            history.run(seed)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
    print(f"{chosen.count} histories hold ({time.monotonic() - begun:.1f} s)")
    return 0


sys.exit(main())
