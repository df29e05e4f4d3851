"""Tracebacks of bundles with source maps, read in a process of their own. On CPython 3.11 a map of 2 MB takes 0.3 s of
CPU, or 1.3 s if no two of its segments are alike.

When a hook of such a bundle fails, its reply and the plugin's log wait until the process has found the places in the
author's source. The process gets what a bundle has of maps once, and keeps that of a few bundles. If the process is
down, or if the map is broken or was so costly that it is left alone for a while, the places stay as the engine said
them. What the process took is charged to the plugin, whose links are not read meanwhile.

Replies come first: a line of the log waits LINE_WAIT_NS at most, and then goes as the engine said it. A hook may write
a thousand lines with a stack in each, and the next caller waits for its reply.
"""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apex_exec.common.source_map import SourceMaps
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS, SECOND_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.errors import Refusal
from apex_exec.executor.processes.runtimes import JAVASCRIPT
from apex_exec.wire.side_link import BlockingEnd

if TYPE_CHECKING:
    from apex_exec.executor.links.overhead import Overhead
    from apex_exec.executor.loop import Loop

IN_FLIGHT_MAX = 2
"""Handed to the process at once: the one that it reads, and the next."""
BURST_NS = 20 * MS_NS
BUNDLES_KEPT = 8
"""Bundles whose maps the process keeps: 2 MB each at most. Both sides forget in the same order."""
BUNDLES_KNOWN = 1024
"""Bundles of which the loop remembers whether they have maps."""
TEXTS_KEPT = 256
"""Tracebacks whose answer is remembered, 16 kB each at most (``GROWTH_BYTES_MAX``): a hook that fails, fails in the
same way again."""
LINE_WAIT_NS = SECOND_NS
"""How long a line waits for its places. The process takes less to start."""
REST = 4
"""How many times as long as a bundle's maps were read they are then left alone: a plugin that fails somewhere else each
time has the process for a fifth of its time at most."""

WhenLocated = Callable[[str, int], None]
"""``located(text, cpu_ns)``."""


class Locate(msgspec.Struct, array_like=True, tag="locate"):
    """To the process: a traceback of ``plugin``. ``files`` are the bundle's maps; empty if the process has them."""

    number: int
    digest: str
    plugin: str
    text: str
    files: dict[str, bytes]


class Located(msgspec.Struct, array_like=True, tag="located"):
    """From the process: the same with the places of the source, and the CPU time that it took."""

    number: int
    text: str
    cpu_ns: int


class Maps(Protocol):
    """Where the maps of a bundle are read."""

    def maps(self, digest: str) -> dict[str, bytes]:
        """What the bundle has of source maps; empty if nothing. Blocks for one read; raises Refusal."""


class _Job(msgspec.Struct, gc=False):
    spec: PluginSpec
    text: str
    located: WhenLocated
    queue: FairQueue[_Job]
    due_ns: int = NEVER_NS
    is_over: bool = False
    """``located`` was called."""


def _bounded(kept: dict[Any, Any], count_max: int) -> None:
    """Makes room for one more; the oldest goes."""
    while len(kept) >= count_max:
        del kept[next(iter(kept))]


class AuthorPlaces:
    """The loop's end. ``side`` is the process, not attached yet, which is started for the first traceback."""

    def __init__(self, overhead: Overhead, loop: Loop, source: Maps) -> None:
        self.side = SideProcess("places", "apex_exec.daemon.sides.author_places:main", {},
                                handlers={Located: self._take}, on_down=self._down, exact=True)
        self._overhead = overhead
        self._loop = loop
        self._source = source
        self._queue: FairQueue[_Job] = FairQueue(BURST_NS)
        self._lines: FairQueue[_Job] = FairQueue(BURST_NS)
        self._due: deque[_Job] = deque()  # lines that wait, and those that waited; the latest is due last
        self._open: Counter[str] = Counter()  # plugin → its texts that wait
        self.duty = Duty("lines that wait for their places", NEVER_NS, self._expire)
        self._out: dict[int, _Job] = {}
        self._next = 1
        self._with_maps: dict[str, bool] = {}
        self._sent: dict[str, None] = {}
        self._answers: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return self._queue.size + self._lines.size + len(self._out)

    def submit(self, spec: PluginSpec, text: str, located: WhenLocated, now_ns: int) -> bool:
        """Has the places of a reply's ``text`` found; ``located`` is called once, then or later. False, without a call,
        if the bundle has no source maps, or the process is down."""
        return self._submit(_Job(spec, text, located, self._queue), now_ns)

    def submit_line(self, spec: PluginSpec, text: str, located: WhenLocated, now_ns: int) -> bool:
        """As ``submit``, for a line of the plugin's log."""
        return self._submit(_Job(spec, text, located, self._lines, now_ns + LINE_WAIT_NS), now_ns)

    def _submit(self, job: _Job, now_ns: int) -> bool:
        spec, text = job.spec, job.text
        if spec.runtime != JAVASCRIPT.name or not self._has_maps(spec, now_ns):
            return False
        answer = self._answers.get((spec.digest, text))
        if answer is not None:
            job.located(answer, 0)
            return True
        self._loop.wake(self.side)
        if not self.side.up:
            return False
        self._overhead.reading.stop(spec.id, now_ns)
        self._open[spec.id] += 1
        if job.due_ns < NEVER_NS:
            self._due.append(job)
            self.duty.due_ns = self._due[0].due_ns
        job.queue.push(spec.id, job, now_ns)
        self._hand_over(now_ns)
        return True

    def _expire(self, now_ns: int) -> bool:
        """Lets the lines go that have waited too long."""
        while self._due and (self._due[0].is_over or self._due[0].due_ns <= now_ns):
            job = self._due.popleft()
            self._conclude(job, job.text, 0)
        self.duty.due_ns = self._due[0].due_ns if self._due else NEVER_NS
        return False

    def _pop(self, now_ns: int) -> _Job | None:
        """The next text; a reply's before any line."""
        found = self._queue.pop(now_ns) or self._lines.pop(now_ns)
        return found[1] if found is not None else None

    def _has_maps(self, spec: PluginSpec, now_ns: int) -> bool:
        found = self._with_maps.get(spec.digest)
        if found is None:
            _bounded(self._with_maps, BUNDLES_KNOWN)
            found = self._with_maps[spec.digest] = bool(self._maps(spec, now_ns))
        return found

    def _maps(self, spec: PluginSpec, now_ns: int) -> dict[str, bytes]:
        """Reads the bundle in the loop. The plugin pays for that: plugins that fail in turn could have theirs read for
        every failure, since the process keeps few bundles."""
        begun_ns = time.thread_time_ns()
        try:
            return self._source.maps(spec.digest)
        except Refusal:  # the bundle is gone: the traceback is true without it
            return {}
        finally:
            spent_ns = time.thread_time_ns() - begun_ns
            self._overhead.count(spec.id, "supervisor", spent_ns)
            self._overhead.read(spec.id, spent_ns, now_ns)

    def _hand_over(self, now_ns: int) -> None:
        while len(self._out) < IN_FLIGHT_MAX and (job := self._pop(now_ns)) is not None:
            if job.is_over:
                continue
            number, self._next = self._next, self._next + 1
            self._out[number] = job
            digest = job.spec.digest
            files = {} if _used(self._sent, digest, None) else self._maps(job.spec, now_ns)
            if not self.side.send(Locate(number, digest, job.spec.id, job.text, files)):
                self._sent.clear()  # the process is down, or will be: a new one has nothing
                self._end(number, job.text, 0)
        if self.side.wants_write:
            self._loop.side_changed(self.side)

    def _take(self, message: Located) -> None:
        now_ns = time.monotonic_ns()
        job = self._out.get(message.number)
        if job is not None:
            plugin = job.spec.id
            job.queue.spend(plugin, message.cpu_ns, now_ns)
            self._overhead.count(plugin, "places", message.cpu_ns)
            self._overhead.read(plugin, message.cpu_ns, now_ns)
            if message.text != job.text:
                _bounded(self._answers, TEXTS_KEPT)
                self._answers[job.spec.digest, job.text] = message.text
        self._end(message.number, message.text, message.cpu_ns)
        self._hand_over(now_ns)

    def _end(self, number: int, text: str, cpu_ns: int) -> None:
        job = self._out.pop(number, None)
        if job is not None:
            self._conclude(job, text, cpu_ns)

    def _conclude(self, job: _Job, text: str, cpu_ns: int) -> None:
        """Calls ``located``, once. The plugin's links are read again when none of its texts waits."""
        if job.is_over:
            return
        job.is_over = True
        plugin = job.spec.id
        self._open[plugin] -= 1
        if not self._open[plugin]:
            del self._open[plugin]
            self._overhead.reading.go(plugin, time.monotonic_ns())
        job.located(text, cpu_ns)

    def _down(self) -> None:
        """Its answers will not come: the places stay as they are."""
        self._sent.clear()
        now_ns = time.monotonic_ns()
        for number, job in list(self._out.items()):
            self._end(number, job.text, 0)
        while (waiting := self._pop(now_ns)) is not None:
            self._conclude(waiting, waiting.text, 0)


def _used(kept: dict[str, Any], digest: str, value: Any) -> bool:
    """Notes that ``digest`` is used now, with ``value`` if it was not there, and forgets what was not used for longest.
    Returns whether it was there. Both ends do this with each message, so that they forget the same."""
    was_there = digest in kept
    value = kept.pop(digest, value)
    _bounded(kept, BUNDLES_KEPT)
    kept[digest] = value
    return was_there


class _Bundle:
    """The maps of one bundle in the process. They are not read again before ``rests_until_ns``."""

    def __init__(self, plugin: str, files: dict[str, bytes]) -> None:
        self.maps = SourceMaps(plugin, files)
        self.rests_until_ns = 0


def main(link: Any, settings: dict[str, Any]) -> None:
    """The process: answers what it is sent until the link's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = BlockingEnd(link.fileno(), (Locate,))
    kept: dict[str, _Bundle] = {}
    while (asked := end.receive()) is not None:
        for given in asked:
            begun_ns = time.thread_time_ns()
            _used(kept, given.digest, _Bundle(given.plugin, given.files))
            bundle = kept[given.digest]
            text = given.text
            if time.monotonic_ns() >= bundle.rests_until_ns:
                text = bundle.maps.rewritten(text)
            cpu_ns = time.thread_time_ns() - begun_ns
            if cpu_ns > MS_NS:
                bundle.rests_until_ns = time.monotonic_ns() + REST * cpu_ns
            end.send(Located(given.number, text, cpu_ns))
