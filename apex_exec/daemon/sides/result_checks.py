"""Results that take long to check, checked in a process of their own: the loop must not stand still for any of them.

A result is checked in the loop if it is small (``is_dear``): that takes two milliseconds at most. Any other goes to the
process, one of a plugin at a time and in fair order, and the plugin's link is not read until it is through. What the
check took is charged to the plugin. While the process is down such results are answered INTERNAL: none is let through
unchecked, and none is checked in the loop.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.catalogue.declared import declare_all, sections
from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS
from apex_exec.daemon.sides.check_messages import Check, Checked
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.errors import Code, WireError
from apex_exec.wire import hooks
from apex_exec.wire.side_link import BlockingEnd
from apex_exec.wire.values import containers_at_most, has_few_values

if TYPE_CHECKING:
    from apex_exec.executor.links.overhead import Overhead
    from apex_exec.executor.loop import Loop

SMALL_BYTES = 1024
"""A result of this size is checked in the loop whatever it holds."""
FEW_VALUES = 200
"""So is one with no more values than this, however long its texts are: to count that many takes 20 µs."""
INLINE_BYTES = 16_384
INLINE_CONTAINERS = 1024
"""And so is one with no more than both: one to two milliseconds at worst, which are lists of nothing but lists."""
IN_FLIGHT_MAX = 2
"""Handed to the process at once: one that it checks, and the next."""
BURST_NS = 20 * MS_NS

WhenChecked = Callable[[str, str, dict[str, Any], int], None]
"""``checked(code, message, details, cpu_ns)``; ``code`` is "" if the result may be sent."""


def is_dear(result: bytes | msgspec.Raw) -> bool:
    """Whether checking ``result`` could take the loop longer than two milliseconds."""
    if len(result) <= SMALL_BYTES:
        return False
    raw = bytes(result)
    if has_few_values(raw, FEW_VALUES):
        return False
    return len(raw) > INLINE_BYTES or containers_at_most(raw) > INLINE_CONTAINERS


class _Job(msgspec.Struct, gc=False):
    plugin: str
    hook: str
    result: bytes
    rendering: hooks.Rendering
    checked: WhenChecked


class ResultChecks:
    """The loop's end. ``side`` is the process, not attached yet, which is started for the first result to check."""

    def __init__(self, overhead: Overhead, loop: Loop) -> None:
        self.side = SideProcess("checks", "apex_exec.daemon.sides.result_checks:main", {"hooks": sections()},
                                handlers={Checked: self._take},
                                on_down=self._down, exact=True)
        self._overhead = overhead
        self._loop = loop
        self._queue: FairQueue[_Job] = FairQueue(BURST_NS)
        self._out: dict[int, _Job] = {}
        self._next = 1

    def __len__(self) -> int:
        return self._queue.size + len(self._out)

    def submit(self, plugin: str, hook: str, result: bytes, rendering: hooks.Rendering, checked: WhenChecked,
               now_ns: int) -> None:
        """Has ``result`` checked; ``checked`` is called once, then or later."""
        self._loop.wake(self.side)
        if not self.side.up:
            checked(Code.INTERNAL, "the process that checks large results is being restarted", {}, 0)
            return
        self._overhead.reading.stop(plugin, now_ns)
        self._queue.push(plugin, _Job(plugin, hook, result, rendering, checked), now_ns)
        self._hand_over(now_ns)

    def _hand_over(self, now_ns: int) -> None:
        while len(self._out) < IN_FLIGHT_MAX and (found := self._queue.pop(now_ns)) is not None:
            _, job = found
            number, self._next = self._next, self._next + 1
            self._out[number] = job
            if not self.side.send(Check(number, job.hook, job.result, job.rendering.denied,
                                        sorted(job.rendering.components))):
                self._end(number, Code.INTERNAL, "the process that checks large results is being restarted", {}, 0)
        if self.side.wants_write:
            self._loop.side_changed(self.side)

    def _take(self, message: Checked) -> None:
        now_ns = time.monotonic_ns()
        job = self._out.get(message.number)
        if job is not None:
            self._queue.spend(job.plugin, message.cpu_ns, now_ns)
            self._overhead.count(job.plugin, "checks", message.cpu_ns)
            self._overhead.read(job.plugin, message.cpu_ns, now_ns)
        self._end(message.number, message.code, message.message, message.details, message.cpu_ns)
        self._hand_over(now_ns)

    def _end(self, number: int, code: str, text: str, details: dict[str, Any], cpu_ns: int) -> None:
        job = self._out.pop(number, None)
        if job is not None:
            self._overhead.reading.go(job.plugin, time.monotonic_ns())
            job.checked(code, text, details, cpu_ns)

    def _down(self) -> None:
        """Its answers will not come; whether it is the results' fault is not known."""
        now_ns = time.monotonic_ns()
        for number in list(self._out):
            self._end(number, Code.INTERNAL, "the process that checked this result died", {}, 0)
        while (found := self._queue.pop(now_ns)) is not None:
            job = found[1]
            self._overhead.reading.go(job.plugin, now_ns)
            job.checked(Code.INTERNAL, "the process that checks large results died", {}, 0)


def check(hook: str, result: bytes, rendering: hooks.Rendering = hooks.ANYTHING) -> tuple[str, str, dict[str, Any]]:
    """(code, message, details) of ``result``; the code is "" if value rule, schema and ``rendering`` hold."""
    try:
        hooks.check_result(hook, result, rendering)
    except WireError as error:
        return str(error.code), error.message, error.details
    return "", "", {}


def main(link: Any, settings: dict[str, Any]) -> None:
    """The process: checks what it is sent until the link's end."""
    declare_all(settings["hooks"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = BlockingEnd(link.fileno(), (Check,))
    while (checks := end.receive()) is not None:
        for given in checks:
            begun_ns = time.thread_time_ns()
            rendering = hooks.Rendering(given.denied, frozenset(given.components))
            code, message, details = check(given.hook, given.result, rendering)
            end.send(Checked(given.number, code, message, details, time.thread_time_ns() - begun_ns))
