"""Reads workers' links, in slices and in turn, and charges the time that this takes to the plugin whose link it is.

A link is read as soon as it has something to read, for SLICE_NS. If there is more, or if the plugin has used up its
share of the loop, the link is *parked*: it is not polled, and is read when its plugin's turn comes (``core.fair``).
Times are CPU time of the thread, so that no plugin pays while another process has the core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec

from apex_exec.core.limits import MS_NS
from apex_exec.executor.links.overhead import Overhead
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.loop import EPOLLIN, EPOLLOUT, Loop
from workers import wire as inner
from workers.wire import LOG_FRAME_BYTES_MAX
from workers.zmtp import ZmtpError

SLICE_NS = MS_NS // 2
"""How long a link is read at most before other links have their turn."""
PARKED_NS = 2 * MS_NS
"""How long parked links are read at most in one turn of the loop."""
PIECES_MAX = 8
"""How many small pieces of one message are read as they come; then the link waits for PIECES_WAIT_NS."""
PIECES_WAIT_NS = 2 * MS_NS
"""Meanwhile the pieces gather in the socket, and are read at once. A worker that writes single bytes otherwise wakes
the loop for each, and the two of them take turns on a core that others wait for."""
_cpu_ns = time.thread_time_ns
_clock_ns = time.monotonic_ns


class LinkReader:
    """``hung_up(link)`` is called at a link's end, ``violated(link, why)`` if its worker breaks the protocol, and
    ``failed(duty, error, link)`` if a handler of ours fails: a bug may cost this worker, but no other."""

    def __init__(self, loop: Loop, overhead: Overhead, *, hung_up: Callable[[WorkerLink], None],
                 violated: Callable[[WorkerLink, str], None],
                 failed: Callable[[str, Exception, WorkerLink | None], None]) -> None:
        self.parked = overhead.reading
        """The links that wait for their plugin's turn."""
        self._loop = loop
        self._overhead = overhead
        self._hung_up = hung_up
        self._violated = violated
        self._failed = failed

    # ------------------------------------------------------------------ polling
    def poll(self, link: WorkerLink) -> None:
        """Has the link read, from now on, whenever there is something to read."""
        link.polled_write = link.wants_write
        self._loop.add(link.fileno(), partial(self._io, link),
                       EPOLLIN | EPOLLOUT if link.polled_write else EPOLLIN)

    def written(self, link: WorkerLink) -> None:
        """Bytes were written to the link: waits for room if some are left, and no longer if none are."""
        if link.wants_write != link.polled_write and not link.ended and not link.parked:
            link.polled_write = link.wants_write
            self._loop.modify(link.fileno(), EPOLLIN | EPOLLOUT if link.polled_write else EPOLLIN)

    def release(self, link: WorkerLink) -> None:
        """Forgets the link, which is closed next."""
        self.export(link)
        self._loop.remove(link.fileno())

    def export(self, link: WorkerLink) -> None:
        """Counts what the link has cost the loop since the last export."""
        if link.spent_ns:
            self._overhead.count(link.spec.id, "supervisor", link.spent_ns)
            link.spent_ns = 0

    def _io(self, link: WorkerLink, mask: int) -> None:
        try:
            if mask & EPOLLOUT:
                link.flush()
                self.written(link)
            if mask & ~EPOLLOUT:
                self._serve(link)
        except Exception as error:
            self._unreadable(link, error)

    def _unreadable(self, link: WorkerLink, error: Exception) -> None:
        """Stops polling a link that could not be read: it would be ready again at once, or wait for its turn for ever.
        """
        link.ended = True
        self._loop.remove(link.fileno())
        self._failed("events of a worker", error, link)

    # ------------------------------------------------------------------ turns
    def _serve(self, link: WorkerLink) -> None:
        """Reads one slice of what has arrived, charges the time, and parks the link if it must wait for its turn."""
        begun_ns = _cpu_ns()
        ended = self._read(link)
        spent_ns = _cpu_ns() - begun_ns
        while link.more and spent_ns < SLICE_NS and not ended:
            ended = self._read(link)
            spent_ns = _cpu_ns() - begun_ns
        over_ns = self._charge(link, spent_ns)
        if ended:
            link.ended = True  # the zygote will report the exit status; until then the dead link is not polled
            self._loop.remove(link.fileno())
            self._hung_up(link)
        elif link.more or over_ns > 0 or link.paced or link.pieces > PIECES_MAX:
            link.paced = False
            now_ns = _clock_ns()
            if link.pieces > PIECES_MAX:
                self.parked.defer(link.spec.id, now_ns + PIECES_WAIT_NS, now_ns)
            if link.more or self.parked.wait_ns(link.spec.id, now_ns):
                link.parked = True
                self._loop.remove(link.fileno())
                self.parked.push(link.spec.id, link, now_ns)

    def _charge(self, link: WorkerLink, spent_ns: int) -> int:
        """Charges CPU time of the loop to the link's plugin. Returns how much of it was beyond ordinary answers."""
        link.spent_ns += spent_ns
        over_ns = spent_ns - link.ordinary_ns
        link.ordinary_ns = 0
        if over_ns > 0 and link.spec.id:
            link.host_ns += over_ns
            self._overhead.read(link.spec.id, over_ns, _clock_ns())
        return over_ns

    def read_parked(self, now_ns: int) -> bool:
        """Reads parked links in fair order, for about PARKED_NS. Returns True if another one may be read at once."""
        until_ns = now_ns + PARKED_NS
        while (found := self.parked.pop(now_ns)) is not None:
            link = found[1]
            if link.closed or link.ended or link.closing:
                continue
            link.parked = False
            try:
                self._serve(link)
                if not link.parked and not link.ended and not link.closed:
                    self.poll(link)
            except Exception as error:
                self._unreadable(link, error)
            now_ns = _clock_ns()
            if now_ns > until_ns:
                break
        due_ns = self.parked.next_due_ns(now_ns)
        return due_ns is not None and due_ns <= now_ns

    def drain(self, link: WorkerLink, due_ns: int, slice_ns: int) -> bool:
        """Reads a dead worker's link for ``slice_ns``. Returns True once nothing is left, or at ``due_ns``."""
        begun_ns = _cpu_ns()
        until_ns = _clock_ns() + slice_ns
        while not self._read(link):
            now_ns = _clock_ns()
            if now_ns > due_ns:
                break
            if now_ns > until_ns:
                self._charge(link, _cpu_ns() - begun_ns)
                return False
        self._charge(link, _cpu_ns() - begun_ns)
        return True

    # ------------------------------------------------------------------ messages
    def _read(self, link: WorkerLink) -> bool:
        """Handles some of the messages that have arrived. Returns True at the link's end."""
        try:
            if link.broken:
                return True
            bodies, ended = link.receive()
            if bodies:
                kind = link.kind
                decode, handlers = kind.decode, kind.handlers
                now_ns = _clock_ns()
                until_ns = now_ns + SLICE_NS
                waiting = iter(bodies)
                for body in waiting:
                    message = decode(body)
                    if len(body) > LOG_FRAME_BYTES_MAX and type(message) is inner.Log:
                        raise ZmtpError("a line over its bound")
                    handlers[type(message)](link, message, now_ns)
                    if link.broken:
                        return True
                    if _clock_ns() > until_ns:
                        if left := list(waiting):
                            link.put_back(left)
        except (ZmtpError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._violated(link, str(error))
            return True
        except Exception as error:
            self._failed("message of a worker", error, link)
            return True
        return ended
