"""It leaves with 3. Shown from outside: it would take the test runner with it."""

import multiprocessing

from plugin import crash


def test_it_ends_its_process() -> None:
    process = multiprocessing.get_context("fork").Process(target=crash, args=({},))
    process.start()
    process.join(5)
    assert process.exitcode == 3
