"""Whom the kernel lets run first: the loop before the hooks it must stop, each side process as it asks for itself.

All is relative to what the daemon was started with, and takes the right to go below it (root, CAP_SYS_NICE, LimitNICE);
without that everything stays equal. Every process that the daemon starts goes back to the start value first, so that
no worker ever has the loop's. The kernel compares niceness within one CPU control group (or autogroup): against workers
in a group of their own the groups' weights count, and what the loop gains is against hosts and side processes.
"""

from __future__ import annotations

import contextlib
import os

LOOP_NICE = -5
"""A third of the loop's time at a high rate went by waiting for a core: at 17,000 calls/s on two cores p99 was 13.8 ms
at 0, 4.2 at -5, 4.8 at -10, and 13.1 at -20, where it wakes for every single message (medians of six rounds)."""
STARTED_WITH = os.getpriority(os.PRIO_PROCESS, 0)
"""Read when the daemon loads its modules, so before ``raise_loop``."""


def raise_loop() -> None:
    """For the calling thread, and the processes it starts from now on (``restore`` is theirs to call)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(-20, STARTED_WITH + LOOP_NICE))


def restore(started_with: int) -> None:
    """Gives the calling process the value that the daemon was started with, where it stands before it: who was moved
    back meanwhile, by an operator, stays there."""
    if os.getpriority(os.PRIO_PROCESS, 0) < started_with:
        os.setpriority(os.PRIO_PROCESS, 0, started_with)
