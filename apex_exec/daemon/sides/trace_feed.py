"""Hands traced calls over to the process ``traces``, a few times a second. A daemon without ``traces.endpoint`` has no
feed.

A traced call has a record from its arrival to its end. Records of ended calls wait here, bounded, until the process
takes them; what finds no room is counted and dropped, and no call ever waits.
"""

from __future__ import annotations

import platform
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from apex_exec.config import POSTGRES, Settings
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import MS_NS
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.observe.traces import messages
from apex_exec.observe.traces.context import Sampler
from apex_exec.observe.traces.facts import facts_of

if TYPE_CHECKING:
    from apex_exec.core.actions import Verdict
    from apex_exec.daemon.running_calls import Asked
    from apex_exec.executor.links.overhead import Used
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.metrics import Metrics

GATHER_NS = 200 * MS_NS
PORTION = 500
"""Spans that are handed over in one turn of the loop: less than a tenth of a millisecond of its time."""
WAITING_SPANS_MAX = 20_000
"""Spans that wait for the process; those of one more call are dropped. They are held while the process starts, and
while its link is full."""
API_SPANS_MAX = 128
"""API calls of one invocation that become spans; the others are counted in its worker's span."""

_clock_ns = time.monotonic_ns


class TraceFeed:
    """Says which calls are traced, and hands them over. ``side`` is the process, which is not attached yet; ``duty``
    does the work. Nothing here blocks."""

    def __init__(self, settings: Settings, loop: Loop, metrics: Metrics,
                 random_bits: Callable[[int], int] = random.getrandbits) -> None:
        self.sampler = Sampler(settings.traces.sample_ratio, random_bits)
        self._loop = loop
        self._metrics = metrics
        self._records: deque[messages.Call | messages.Dispatch] = deque()
        self._spans = 0
        self._handed_over = 0
        self.side = SideProcess(
            "traces", "apex_exec.observe.traces.process:main", _settings_of(settings),
            handlers={messages.Delivered: self._delivered}, on_down=self._down)
        self.duty = Duty("traces", NEVER_NS, self._hand_over)

    # ------------------------------------------------------------------ calls
    def begin(self, traceparent: str | None, now_ns: int) -> messages.Call | None:
        """The record of a call that has arrived; None if it is not traced."""
        context = self.sampler.sample(traceparent)
        return None if context is None else messages.Call(context.trace_id, context.parent_id, now_ns)

    def begin_dispatch(self, traceparent: str | None, hook: str, now_ns: int) -> messages.Dispatch | None:
        """The same for a dispatch."""
        context = self.sampler.sample(traceparent)
        return None if context is None else messages.Dispatch(
            context.trace_id, context.parent_id, self.sampler.span_id(), now_ns, hook)

    def end(self, call: messages.Call, verdict: Verdict, code: str, version: str, used: Used) -> None:
        """The call has its outcome."""
        now_ns = _clock_ns()
        call.ended_ns = now_ns
        call.judged_ns = call.judged_ns or now_ns
        call.run_ns = min(verdict.run_ns, call.judged_ns - call.begun_ns)
        call.plugin, call.version, call.hook, call.code = verdict.plugin, version, verdict.hook, code
        call.started, call.cold = verdict.started, verdict.cold
        call.cpu_ns, call.memory_mb = used.cpu_ns, used.memory_mb
        self._keep(call)

    def refused(self, traceparent: str | None, plugin: str, version: str, hook: str, code: str) -> None:
        """A call was refused as it came in."""
        now_ns = _clock_ns()
        call = self.begin(traceparent, now_ns)
        if call is not None:
            call.judged_ns = call.ended_ns = now_ns
            call.plugin, call.version, call.hook, call.code = plugin, version, hook, code
            self._keep(call)

    def end_dispatch(self, record: messages.Dispatch, parts: int, code: str) -> None:
        """The dispatch has its reply."""
        record.ended_ns, record.parts, record.code = _clock_ns(), parts, code
        self._keep(record)

    # ------------------------------------------------------------------ handing over
    def _keep(self, record: messages.Call | messages.Dispatch) -> None:
        spans = record.spans
        if self._spans + spans > WAITING_SPANS_MAX:
            self._metrics.inc("trace_spans_total", ("dropped",), spans)
            return
        self._spans += spans
        self._records.append(record)
        if self.duty.due_ns == NEVER_NS:
            self.duty.due_ns = _clock_ns() + GATHER_NS

    def _hand_over(self, now_ns: int) -> bool:
        """Hands over one portion, if the process takes it; True if there is more for it."""
        self._loop.wake(self.side)
        portion: list[messages.Call | messages.Dispatch] = []
        spans = 0
        if self.side.up and not self.side.wants_write:
            records = self._records
            while records and spans < PORTION:
                portion.append(records.popleft())
                spans += portion[-1].spans
            self._spans -= spans
            if portion and self.side.send(messages.Batch(time.time_ns() - _clock_ns(), portion)):
                self._handed_over += spans
            elif portion:
                self._metrics.inc("trace_spans_total", ("dropped",), spans)
            self._loop.side_changed(self.side)
        more = bool(portion and self._records)
        self.duty.due_ns = 0 if more else now_ns + GATHER_NS if self._records else NEVER_NS
        return more

    def _delivered(self, message: messages.Delivered) -> None:
        for outcome, count in (("exported", message.exported), ("undelivered", message.undelivered),
                               ("dropped", message.dropped)):
            if count:
                self._metrics.inc("trace_spans_total", (outcome,), count)
                self._handed_over -= count

    def _down(self) -> None:
        """What the process had is lost."""
        if self._handed_over > 0:
            self._metrics.inc("trace_spans_total", ("dropped",), self._handed_over)
        self._handed_over = 0

    def close(self) -> None:
        """Hands over what has gathered, as far as the link takes it; the process sends it before it leaves."""
        while self._records and self._hand_over(_clock_ns()):
            pass


def note_api(call: messages.Call, asked: Asked, outcome: str, facts: Mapping[str, Any]) -> None:
    """An API call of a traced call has its answer. ``facts`` are those of its audit record."""
    if len(call.api) >= API_SPANS_MAX:
        call.left_out += 1
        return
    told = facts_of(asked.method, facts, asked.link.spec.network_allow)
    if asked.host_call and outcome == "ok":  # of a refused one the name may be anything
        told["apex_exec.host_method"] = asked.action
    call.api.append(messages.Api(asked.method, outcome, asked.begun_ns, _clock_ns(), asked.work, told))


def _settings_of(settings: Settings) -> dict[str, Any]:
    """What the process needs to know, without any secret: it reads the files itself."""
    traces = settings.traces
    return {
        "endpoint": traces.endpoint, "headers_file": traces.headers_file, "ca_file": traces.ca_file,
        "tls_certificate": traces.tls_certificate, "tls_key": traces.tls_key, "compression": traces.compression,
        "timeout_seconds": traces.timeout_seconds, "service_name": traces.service_name, "resource": traces.resource,
        "instance": settings.fleet.node or platform.node(), "log": settings.log.model_dump(),
        "fleet": {"node": settings.fleet.node}, "databases": {
            name: "postgresql" if POSTGRES.match(url) else "sqlite"
            for name, url in (("data", settings.data.url), ("storage", settings.storage.url))}}
