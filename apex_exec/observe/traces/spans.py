"""Makes spans of the records of the supervisor, with OpenTelemetry's SDK. Runs in the process ``traces`` alone.

A call becomes the span of the host's request, and below it the queue, the worker and, if a large result was checked
outside the loop, the check. API calls are below the worker, and the work of a database or of a server on the network
below its API call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from apex_exec import __version__
from apex_exec.observe.traces import messages

ATTRIBUTES_MAX = 24
ATTRIBUTE_CHARS_MAX = 512
"""May fire first: the lengths of ids, hooks and tables, each of which is bounded where it is declared."""
LIMITS = SpanLimits(max_span_attributes=ATTRIBUTES_MAX, max_span_attribute_length=ATTRIBUTE_CHARS_MAX, max_events=0,
                    max_links=0)
CLIENT_ERROR = 400
"""From this status on a request counts as failed, for the one who made it."""
WRITES = frozenset(("insert", "upsert", "update", "delete"))

_Attributes = Mapping[str, str | int | float | bool]


class _Ids(IdGenerator):
    """Gives a span the numbers that the supervisor has chosen for it, if it has."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = ""
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        """The trace's number, if it begins with this span."""
        return int(self.trace_id, 16)

    def generate_span_id(self) -> int:
        """The chosen number, once, and random ones after it."""
        chosen, self.span_id = self.span_id, ""
        return int(chosen, 16) if chosen else self._random.generate_span_id()


class _Ended(SpanProcessor):
    """Keeps what has ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Adds it."""
        self.spans.append(span)


class SpanMaker:
    """``databases`` names the kinds of database, as OpenTelemetry does, of the platform's data and of plugins' storage.
    """

    def __init__(self, service: str, instance: str, resource: Mapping[str, str], databases: Mapping[str, str]) -> None:
        self._databases = databases
        self._ids = _Ids()
        self._ended = _Ended()
        provider = TracerProvider(
            sampler=ALWAYS_ON, shutdown_on_exit=False, id_generator=self._ids, span_limits=LIMITS,
            resource=Resource({**resource, "service.name": service, "service.version": __version__,
                               "service.instance.id": instance}))
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("apex_exec", __version__)

    def make(self, record: messages.Call | messages.Dispatch, clock_ns: int) -> list[ReadableSpan]:
        """All spans of ``record``, each parent after its children."""
        if isinstance(record, messages.Call):
            self._make_call(record, clock_ns)
        else:
            self._make_dispatch(record, clock_ns)
        ended, self._ended.spans = self._ended.spans, []
        return ended

    def _top(self, record: messages.Call | messages.Dispatch, name: str, kind: SpanKind, attributes: _Attributes,
             clock_ns: int) -> Span:
        self._ids.trace_id = record.trace_id
        context = Context()
        if record.parent_id:
            is_remote = isinstance(record, messages.Dispatch) or not record.is_part
            context = set_span_in_context(NonRecordingSpan(SpanContext(
                int(record.trace_id, 16), int(record.parent_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))),
                context)
        span = self._tracer.start_span(name, context, kind, attributes, start_time=record.begun_ns + clock_ns)
        if record.code:
            _fail(span, record.code)
        return span

    def _make_dispatch(self, record: messages.Dispatch, clock_ns: int) -> None:
        self._ids.span_id = record.span_id
        self._top(record, f"dispatch {record.hook}", SpanKind.SERVER, {
            "apex_exec.hook": record.hook, "apex_exec.outcome": record.code or "ok",
            "apex_exec.dispatch.parts": record.parts}, clock_ns).end(record.ended_ns + clock_ns)

    def _make_call(self, call: messages.Call, clock_ns: int) -> None:
        top = self._top(call, f"invoke {call.hook}", SpanKind.INTERNAL if call.is_part else SpanKind.SERVER, {
            "apex_exec.plugin.id": call.plugin, "apex_exec.plugin.version": call.version, "apex_exec.hook": call.hook,
            "apex_exec.outcome": call.code or "ok", "apex_exec.started": call.started}, clock_ns)
        within = set_span_in_context(top, Context())
        judged_ns = call.judged_ns + clock_ns
        begun_ns = judged_ns - call.run_ns if call.started else judged_ns
        self._tracer.start_span("queue", within, attributes={"apex_exec.cold": call.cold},
                                start_time=call.begun_ns + clock_ns).end(begun_ns)
        if call.started:
            attributes: dict[str, str | int | float | bool] = {
                "apex_exec.worker.cpu_seconds": call.cpu_ns / 1e9, "apex_exec.worker.memory_mb": call.memory_mb}
            if call.left_out:
                attributes["apex_exec.api_spans_left_out"] = call.left_out
            worker = self._tracer.start_span("worker", within, attributes=attributes, start_time=begun_ns)
            below = set_span_in_context(worker, Context())
            for api in call.api:
                self._make_api(api, below, clock_ns, call.judged_ns)
            if call.code:
                _fail(worker, call.code)
            worker.end(judged_ns)
        if call.ended_ns > call.judged_ns:
            self._tracer.start_span("check", within, start_time=judged_ns).end(call.ended_ns + clock_ns)
        top.end(call.ended_ns + clock_ns)

    def _make_api(self, api: messages.Api, within: Context, clock_ns: int, judged_ns: int) -> None:
        """One that was under way at the verdict, and was ended after the check of a large result, ends with its worker.
        """
        span = self._tracer.start_span(
            f"api {api.method}", within, start_time=api.begun_ns + clock_ns,
            attributes={"apex_exec.api.method": api.method, "apex_exec.api.outcome": api.outcome,
                        **({} if api.work else api.facts)})
        failure = "" if api.outcome == "ok" else api.outcome
        if api.work is not None:
            name, attributes = self._work_of(api)
            work = self._tracer.start_span(name, set_span_in_context(span, Context()), SpanKind.CLIENT, attributes,
                                           start_time=api.work[0] + clock_ns)
            status = api.facts.get("http.response.status_code", 0)
            if failure or (isinstance(status, int) and status >= CLIENT_ERROR):
                _fail(work, failure or str(status))
            work.end(api.work[1] + clock_ns)
        if failure:
            _fail(span, failure)
        span.end(min(api.ended_ns, judged_ns) + clock_ns)

    def _work_of(self, api: messages.Api) -> tuple[str, dict[str, Any]]:
        """The name and the attributes of the span of a database's or a server's work."""
        if api.method == "fetch":
            return f"fetch {api.facts.get('http.request.method', '')}".strip(), dict(api.facts)
        is_data = api.method == "query" or api.method in WRITES
        operation = "select" if api.method == "query" else api.method.rpartition(".")[2]
        return f"{'sql' if is_data else 'storage'} {operation}", {
            "db.system.name": self._databases["data" if is_data else "storage"], "db.operation.name": operation,
            **api.facts}


def _fail(span: Span, code: str) -> None:
    span.set_status(Status(StatusCode.ERROR, code))
    span.set_attribute("error.type", code)
