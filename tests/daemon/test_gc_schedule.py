"""The collector's time-table, in a process of its own: it is the whole process's collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import gc, weakref
from apex_exec.daemon.gc_schedule import REST_NS, WHOLE_NS, WHOLE_NS_MAX, GcSchedule

full = []
gc.callbacks.append(lambda phase, info: phase == "stop" and info["generation"] == 2 and full.append(info["collected"]))

class Node:
    pass

def cycle():
    node = Node()
    node.self = node
    return node, weakref.ref(node)

gc.set_threshold(20, 2, 2)
heap = GcSchedule()
old, old_ref = cycle()
heap.settle(0)
assert len(full) == 1
"""


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_no_full_collection_comes_by_itself_and_young_cycles_are_still_collected() -> None:
    _run("kept = [[] for _ in range(100_000)]\nassert len(full) == 1, full\n"
         "young, young_ref = cycle()\ndel young\nkept += [[] for _ in range(1000)]\nassert young_ref() is None\n"
         "gc.set_threshold(20, 2, 2)\nkept += [[] for _ in range(500_000)]\n"
         "assert len(full) > 1, 'such allocations start one where it may come by itself'")


def test_what_was_set_aside_is_walked_once_an_hour_at_rest() -> None:
    _run("del old\nheap.upkeep(1, 1, 0)\nheap.upkeep(WHOLE_NS - 1, 1, 0)\nassert old_ref() is not None\n"
         "heap.upkeep(WHOLE_NS, 1, 0)\nassert old_ref() is None and gc.get_freeze_count() > 0\n"
         "heap.upkeep(2 * WHOLE_NS - 1, 2, 0)\nheap.upkeep(2 * WHOLE_NS - 1 + REST_NS, 2, 0)\nassert len(full) == 3")


@pytest.mark.parametrize(("calls", "pending"), [("n", 0), (1, 1)])
def test_where_there_is_no_rest_it_waits_up_to_two_hours(calls: object, pending: int) -> None:
    _run("seen = []\nfor n in range(1, 4 * WHOLE_NS_MAX // REST_NS):\n"
         f"    heap.upkeep(n * REST_NS // 2, {calls}, {pending})\n"
         "    if len(full) > 1 and not seen:\n        seen.append(n * REST_NS // 2)\n"
         "assert seen == [WHOLE_NS_MAX], seen")


def test_rest_begins_only_a_while_after_the_last_call() -> None:
    _run("heap.upkeep(WHOLE_NS, 1, 0)\nheap.upkeep(WHOLE_NS + REST_NS - 1, 1, 0)\nassert len(full) == 1\n"
         "heap.upkeep(WHOLE_NS + REST_NS, 1, 0)\nassert len(full) == 2")


def test_without_a_call_since_there_is_nothing_to_walk_for() -> None:
    _run("heap.upkeep(10 * WHOLE_NS_MAX, 0, 0)\nassert len(full) == 1")
