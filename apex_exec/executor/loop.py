"""The loop: one thread, one epoll, one list of timers. It knows nothing of plugins, hosts or workers.

A part that has a file descriptor registers a handler for it. A round calls the *turn*, sleeps in epoll until a
descriptor is ready or the turn is due again, and then calls the handlers of what is ready. Nothing that is called from
here may block: code that may wait for a disk, a database or a peer runs in a side process (``attach``).
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import SECOND_NS

if TYPE_CHECKING:
    from apex_exec.executor.guard import Guard

EPOLLIN = select.EPOLLIN
EPOLLOUT = select.EPOLLOUT
STALL_NS = 250_000_000
"""If a turn begins this long after it was due, the whole process was stopped (SIGSTOP, a frozen machine, a debugger).
The core has a limit of its own for one deadline (``core.limits.STALL_NS``)."""
CATCH_UP_ROUNDS = 64
"""How many rounds of reading follow such a stop at most. A link gives 64 KiB a round, and eight replies of 1 MiB may
wait in it."""
KEEP_SECONDS = 0.25
"""How often the loop looks whether its side processes run."""
SPIN_NS = 80_000
"""Busy-poll this long before blocking in epoll, as long as events come within this time; a wake-up costs about the
same. We busy-poll only if a core is free: when both of two cores were at work, a busy-polling loop kept one of them for
up to 8 ms, and the process that was to cause the event waited for that core."""
SPINS_MAX = 3
"""Stop busy-polling after this many empty polls."""
CLOSE_SECONDS = 3.0
"""How long all side processes together may take to drain and leave when the daemon ends, beyond ``drain_seconds``."""

Handler = Callable[[int], None]


class Side(Protocol):
    """A process beside the loop, as the loop sees it: it has a link that never blocks, and is restarted if it ends."""

    name: str
    on_failed: Callable[[str, Exception], None]
    polled_write: bool
    """The loop's own note: whether it waits for room on the link."""
    start_after_ns: int
    started: bool
    """False until the process is started for the first time."""
    closing: bool

    @property
    def up(self) -> bool:
        """Whether the process runs."""

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be written until the link has room."""

    def fileno(self) -> int:
        """The link's descriptor."""

    def start(self, now_ns: int) -> None:
        """Starts the process. Raises OSError if there are no descriptors or processes left."""

    def flush(self) -> None:
        """Writes what the link takes."""

    def receive(self, now_ns: int) -> bool:
        """Reads and handles what has arrived. If the link has ended, closes it and returns False."""

    def let_go(self, until: float) -> None:
        """Asks the process to finish and leave."""

    def close(self, until: float) -> bool:
        """Waits for the end of the process; False if it had to be killed."""


class _Timer:
    __slots__ = ("callback", "due_ns", "period_ns")

    def __init__(self, period_ns: int, callback: Callable[[int], None]) -> None:
        self.period_ns = period_ns
        self.callback = callback
        self.due_ns = 0


class Loop:
    """Polls, calls, sleeps. ``stop`` ends ``run`` after the present round."""

    def __init__(self, on_lag: Callable[[int], None] = lambda _: None, guard: Guard | None = None) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[_Timer] = []
        self._timers_due_ns = 0
        self._sides: list[Side] = []
        self._on_lag = on_lag
        self._guard = guard
        self.core_free = True
        """Whether a core is likely to be idle, so that busy-polling costs nobody anything. The turn sets it."""
        self._spins = 0
        self._stopped = False

    # ------------------------------------------------------------------ fds
    def add(self, fd: int, handler: Handler, mask: int = EPOLLIN) -> None:
        """Calls ``handler(mask)`` whenever ``fd`` is ready. A handler must not mind a spurious call."""
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """Changes the events that are waited for; does nothing if ``fd`` is not registered any more."""
        if fd in self._handlers:
            self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forgets ``fd``. Call this before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    # ------------------------------------------------------------------ timers
    def every(self, seconds: float, callback: Callable[[int], None]) -> None:
        """Calls ``callback(now_ns)`` about every ``seconds``, first in the next round."""
        self._timers.append(_Timer(int(seconds * SECOND_NS), callback))
        self._timers_due_ns = 0

    def _run_timers(self, now_ns: int) -> None:
        next_due_ns = now_ns + SECOND_NS
        for timer in self._timers:
            if timer.due_ns <= now_ns:
                timer.due_ns = now_ns + timer.period_ns  # set first, so that a timer that fails is not due at once
                try:
                    timer.callback(now_ns)
                except Exception as error:
                    self._failed(f"timer {_name_of(timer.callback)}", error)
            next_due_ns = min(next_due_ns, timer.due_ns)
        self._timers_due_ns = next_due_ns

    # ------------------------------------------------------------------ side processes
    def attach(self, side: Side, delay_seconds: float = 0.0) -> None:
        """Starts ``side``, polls it from now on, restarts it with its backoff, closes it when the loop ends.

        With a delay it is started when it is first needed (``wake``), and after ``delay_seconds`` at the latest;
        with ``math.inf`` only when it is needed.
        """
        self._sides.append(side)
        side.on_failed = self._failed
        if len(self._sides) == 1:
            self.every(KEEP_SECONDS, self._keep_sides)
        now_ns = time.monotonic_ns()
        if delay_seconds:
            side.start_after_ns = NEVER_NS if delay_seconds == math.inf else now_ns + int(delay_seconds * SECOND_NS)
        else:
            self._start_side(side, now_ns)

    def wake(self, side: Side) -> None:
        """Starts ``side`` if it was attached with a delay and has never been started; blocks for the few milliseconds
        that a spawn takes. Messages that are sent to it afterwards wait on its link until it runs."""
        if not side.started and not side.closing:
            self._start_side(side, time.monotonic_ns())

    def _start_side(self, side: Side, now_ns: int) -> None:
        try:
            side.start(now_ns)
        except OSError:  # no fds or no processes left: the next try comes with the timer
            side.start_after_ns = now_ns + SECOND_NS
            return
        fd = side.fileno()

        def handle(mask: int) -> None:
            if mask & EPOLLOUT:
                side.flush()
            if mask & ~EPOLLOUT:
                del self._handlers[fd]  # ``receive`` closes a dead link; epoll forgets a closed fd by itself
                if not side.receive(time.monotonic_ns()):
                    return
                self._handlers[fd] = handle
            self.side_changed(side)

        side.polled_write = side.wants_write
        self.add(fd, handle, EPOLLIN | (EPOLLOUT if side.wants_write else 0))

    def side_changed(self, side: Side) -> None:
        """Has epoll report room on the link of ``side`` if bytes wait to be sent, and not otherwise.

        Does nothing while the link is not polled, for example while it is being read: the code that polls it again also
        calls this again.
        """
        if side.wants_write != side.polled_write and side.fileno() in self._handlers:
            side.polled_write = side.wants_write
            self.modify(side.fileno(), EPOLLIN | (EPOLLOUT if side.wants_write else 0))

    def _keep_sides(self, now_ns: int) -> None:
        for side in self._sides:
            if not side.up and now_ns >= side.start_after_ns:
                self._start_side(side, now_ns)
            elif side.up:
                self.side_changed(side)

    def close_sides(self, until: float) -> list[str]:
        """Lets all side processes drain and leave, until ``until`` (CLOCK_MONOTONIC, seconds) at most. Returns the
        names of those that had to be killed."""
        for side in reversed(self._sides):
            self.remove(side.fileno())
            if not side.closing:
                side.let_go(until)
        return [side.name for side in reversed(self._sides) if not side.close(until)]

    # ------------------------------------------------------------------ faults
    def _failed(self, duty: str, error: Exception) -> None:
        """A duty of the loop has failed that concerns no plugin. Without a guard the error is raised."""
        if self._guard is None:
            raise error
        self._guard.failed(duty, error)

    def _rest(self, guard: Guard) -> None:
        """Sleeps for a moment after a failure. The duty that failed may be due again at once, or its descriptor may
        stay ready, and a loop that spins on a fault would use a whole core and serve nobody.

        Everybody waits meanwhile, for REST_NS_MAX at most.
        """
        rest_ns, guard.rest_ns = guard.rest_ns, 0
        time.sleep(rest_ns / 1e9)

    # ------------------------------------------------------------------ running
    def stop(self) -> None:
        """Ends ``run`` after the present round."""
        self._stopped = True

    def run(self, turn: Callable[[], int]) -> None:
        """Serves until ``stop``, and can be called again afterwards. ``turn`` is called before each sleep and returns
        the time (CLOCK_MONOTONIC, ns) at which it wants to be called again at the latest, 0 for at once.

        If the process was stopped for a while, everything that has arrived meanwhile is handled before the next turn
        looks at deadlines, so that an answer that was already there counts.
        """
        poll, handlers, clock, guard = self._epoll.poll, self._handlers, time.monotonic_ns, self._guard
        expected_ns = clock()
        while not self._stopped:
            now_ns = clock()
            lag_ns = now_ns - expected_ns
            if lag_ns > STALL_NS:
                self.handle_all()
            if now_ns >= self._timers_due_ns:
                self._run_timers(now_ns)
                self._on_lag(max(0, lag_ns))
            try:
                wake_ns = turn()
            except Exception as error:
                self._failed("turn", error)
                wake_ns = now_ns + SECOND_NS
            if guard is not None and guard.rest_ns:
                self._rest(guard)
            if wake_ns:
                now_ns = clock()
                wait_ns = min(wake_ns, self._timers_due_ns) - now_ns
                expected_ns = now_ns + max(0, wait_ns)
                events = self._wait(now_ns, wait_ns) if wait_ns > 0 else poll(0)
            else:
                expected_ns = clock()
                events = poll(0)
            for fd, mask in events:
                handler = handlers.get(fd)
                if handler is not None:
                    try:
                        handler(mask)
                    except Exception as error:
                        self._failed(f"events of {_name_of(handler)}", error)
        self._stopped = False

    def _wait(self, now_ns: int, wait_ns: int) -> list[tuple[int, int]]:
        """Returns the descriptors that become ready within ``wait_ns``. Busy-polls for a moment before it sleeps, if
        the last events came fast and a core is free."""
        poll, clock = self._epoll.poll, time.monotonic_ns
        if self._spins > 0 and self.core_free:
            limit_ns = now_ns + min(SPIN_NS, wait_ns)
            while clock() < limit_ns:
                events = poll(0)
                if events:
                    self._spins = SPINS_MAX
                    return events
            self._spins -= 1
            now_ns, wait_ns = limit_ns, wait_ns - SPIN_NS
        events = poll(max(0, wait_ns) / 1e9)
        if events and clock() - now_ns < SPIN_NS and self._spins < SPINS_MAX:
            self._spins += 1
        return events

    def handle_all(self) -> None:
        """Handles every descriptor that is ready now, in rounds, until none is ready or after CATCH_UP_ROUNDS."""
        for _ in range(CATCH_UP_ROUNDS):
            events = self._epoll.poll(0, max(1, len(self._handlers)))
            for fd, mask in events:
                handler = self._handlers.get(fd)
                if handler is not None:
                    try:
                        handler(mask)
                    except Exception as error:
                        self._failed(f"events of {_name_of(handler)}", error)
            if not events:
                return


def _name_of(callback: Callable[..., object]) -> str:
    """Returns the name of a callback for the log and the metric. There are as many names as methods in the code."""
    named = getattr(callback, "func", callback)  # of a partial
    return str(getattr(named, "__qualname__", type(named).__name__)).replace(".<locals>", "").replace(".<lambda>", "")
