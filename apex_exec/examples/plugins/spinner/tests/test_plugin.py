"""It does what it is there for: not ending. Shown from outside, in a process that can be killed."""

import multiprocessing

from plugin import spin


def test_it_does_not_return() -> None:
    process = multiprocessing.get_context("fork").Process(target=spin, args=({},))
    process.start()
    process.join(0.3)
    assert process.is_alive()
    process.kill()
    process.join()
