"""The collector's time-table, in a process of its own: it is the whole process's collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import gc, weakref
from apex_exec.daemon.heap import FEW, MANY, REST_NS, WHOLE_NS, Heap

full = []
gc.callbacks.append(lambda phase, info: phase == "stop" and info["generation"] == 2 and full.append(info["collected"]))

class Node:
    pass

def cycle():
    node = Node()
    node.self = node
    return node, weakref.ref(node)

def until(count):
    kept = []
    while gc.get_count()[2] < count:
        kept.append([])
    return kept

heap = Heap()
old, old_ref = cycle()
heap.settle(1)
assert len(full) == 1
"""


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEGIN + code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_no_full_collection_comes_by_itself() -> None:
    _run("kept = until(5 * FEW)\nassert len(full) == 1, full\n"
         "gc.set_threshold(700, 10, 10)\nkept += [[] for _ in range(1_000_000)]\n"
         "assert len(full) > 1, 'the same allocations start one where it may come by itself'")


@pytest.mark.parametrize(("calls", "pending"), [(0, 0), (1, 0), (0, 1)])
def test_it_waits_for_enough_to_do_and_longer_while_there_is_work(calls: int, pending: int) -> None:
    limit = "MANY" if calls or pending else "FEW"
    look = f"heap.upkeep(1 + REST_NS, {calls}, {pending})\n"
    _run(f"kept = until({limit} - 1)\n{look}assert len(full) == 1\n"
         f"new, new_ref = cycle()\ndel new\nkept += until({limit})\n{look}"
         "assert len(full) == 2 and new_ref() is None")


def test_rest_begins_only_a_while_after_the_last_call() -> None:
    _run("kept = until(FEW)\nheap.upkeep(REST_NS, 1, 0)\nheap.upkeep(2 * REST_NS - 1, 1, 0)\nassert len(full) == 1\n"
         "heap.upkeep(2 * REST_NS, 1, 0)\nassert len(full) == 2")


def test_what_was_set_aside_is_not_walked_while_there_is_work() -> None:
    _run("del old\nkept = until(MANY)\nheap.upkeep(2 * WHOLE_NS, 1, 0)\n"
         "assert len(full) == 2 and old_ref() is not None\n"
         "kept += until(FEW)\nheap.upkeep(2 * WHOLE_NS + REST_NS, 1, 0)\n"
         "assert old_ref() is None and gc.get_freeze_count() > 0")


def test_it_is_walked_once_an_hour_at_most() -> None:
    _run("del old\nkept = until(FEW)\nheap.upkeep(WHOLE_NS, 0, 0)\nassert old_ref() is not None\n"
         "kept += until(FEW)\nheap.upkeep(WHOLE_NS + 1, 0, 0)\nassert old_ref() is None")
