"""Failures are counted by their kind, in a table with bounds; the place is in the plugin's own code."""

from __future__ import annotations

import pytest

from apex_exec.daemon.failure_places import KINDS_MAX, KINDS_OF_PLUGIN_MAX, FailurePlaces
from apex_exec.executor.outcome import PLACE_CHARS, own_place

PYTHON = '''Traceback (most recent call last):
  File "sums/plugin.py", line 9, in total
    return parse(row)
  File "sums/lib/rows.py", line 31, in parse
    return load(row)
  File "sums/vendor/jsonish/load.py", line 200, in load
    raise ValueError(text)
ValueError: alice@example.com
'''
SCRIPT = '''TypeError: undefined is not a function
    at parse (sums/lib/rows.js:31:7)
    at sums/index.js:9:3
'''


@pytest.mark.parametrize(("traceback", "place"), [
    (PYTHON, "lib/rows.py:31"), (SCRIPT, "lib/rows.js:31"), ("", ""), ("ValueError: x", ""),
    ('  File "sums/vendor/a/b.py", line 2, in x\n', "vendor/a/b.py:2"),
    (SCRIPT.replace("sums/", ""), "lib/rows.js:31")])
def test_the_place_is_the_innermost_line_of_the_plugins_own_code(traceback: str, place: str) -> None:
    assert own_place(traceback, "sums") == place


def test_equal_failures_are_one_kind_and_are_taken_once() -> None:
    places = FailurePlaces()
    for _ in range(3):
        places.add("sums", "d", "PLUGIN_ERROR", "ValueError", PYTHON)
    places.add("sums", "d", "TIMEOUT", "", "")
    assert places.take() == [("sums", "d", "PLUGIN_ERROR", "ValueError", "lib/rows.py:31", 3),
                             ("sums", "d", "TIMEOUT", "", "", 1)]
    assert places.take() == []


def test_a_plugin_that_fails_in_ever_new_ways_takes_no_room_from_others() -> None:
    places = FailurePlaces()
    for number in range(KINDS_MAX):
        places.add("bad", "d", "PLUGIN_ERROR", f"E{number}", "")
    places.add("sums", "d", "PLUGIN_ERROR", "ValueError", PYTHON)
    taken = places.take()
    assert len(taken) == KINDS_OF_PLUGIN_MAX + 2 and sum(row[-1] for row in taken) == KINDS_MAX + 1
    assert ("bad", "d", "PLUGIN_ERROR", "", "", KINDS_MAX - KINDS_OF_PLUGIN_MAX) in taken


def test_many_plugins_that_fail_are_counted_by_their_codes() -> None:
    places = FailurePlaces()
    for number in range(KINDS_MAX + 5):
        places.add(f"p{number}", "d", "PLUGIN_ERROR", "ValueError", "")
    taken = places.take()
    assert len(taken) == KINDS_MAX + 5 and [row[3] for row in taken[-5:]] == [""] * 5


def test_of_a_long_traceback_the_innermost_frames_are_looked_at_and_no_more() -> None:
    own, library = '  File "p/own.py", line 1, in x\n', '  File "p/vendor/a.py", line 2, in x\n'
    assert own_place(own + library * 10, "p") == "own.py:1"
    assert own_place(own + library * (PLACE_CHARS // len(library) + 1), "p") == "vendor/a.py:2"
