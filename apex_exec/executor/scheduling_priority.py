"""What the kernel lets run first: the loop before the hooks that it must stop, each side process as it asks for itself.

Every value is relative to the one that the daemon was started with. To go below that one takes a right (root,
CAP_SYS_NICE, LimitNICE); without it everything stays equal. Every process that the daemon starts goes back to the
start value first, so that no worker ever has the loop's. The kernel compares niceness within one CPU control group (or
autogroup): against workers in a group of their own the groups' weights count, and what the loop gains is against hosts
and side processes.
"""

from __future__ import annotations

import contextlib
import os

LOOP_NICE = -5
"""At a high rate the loop spent a third of its time waiting for a core: at 17,000 calls/s on two cores p99 was 13.8 ms
at 0, 4.2 at -5, 4.8 at -10, and 13.1 at -20, where the loop wakes for every single message (medians of six rounds)."""
STARTED_WITH = os.getpriority(os.PRIO_PROCESS, 0)
"""Read when the daemon loads its modules, and so before ``raise_loop``."""


def raise_loop() -> None:
    """Raises the calling thread, and the processes that it starts from now on unless they call ``restore``."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(-20, STARTED_WITH + LOOP_NICE))


def restore(started_with: int) -> None:
    """Gives the calling process the value that the daemon was started with, if it stands before that: a process that an
    operator has moved back meanwhile stays where it is."""
    if os.getpriority(os.PRIO_PROCESS, 0) < started_with:
        os.setpriority(os.PRIO_PROCESS, 0, started_with)
