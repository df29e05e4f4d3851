"""The exporter process: it serves /metrics, /livez and /readyz from the supervisor's latest reports.

Rendering a thousand plugins takes Python half a second, so it is done here and not in the loop. The supervisor owns the
listening socket, which outlives this process: a scrape during a restart waits instead of failing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from apex_exec.observe import messages
from apex_exec.observe.metrics import PREFIX, table
from apex_exec.wire.side_link import BlockingEnd, Handlers

NICE = 10
"""The exporter's priority: rendering a scrape takes some 20 ms of CPU, or 50 ms with 1,000 plugins, and calls precede
it."""
BEAT_SECONDS_MAX = 5.0
"""A supervisor that has reported nothing for this long counts as dead: it reports twice a second."""
REQUEST_SECONDS_MAX = 10.0
ALONE_SECONDS_MAX = 1.0
"""The time limit of one request if it gets no thread and the others have to wait."""


class State:
    """What we know about the supervisor. One thread writes it; scrapes read it under the same lock."""

    def __init__(self, per_plugin_histograms: bool) -> None:
        self.metrics = table(per_plugin_histograms)
        self.lock = threading.Lock()
        self.series: dict[str, dict[tuple[str, ...], Any]] = {}
        self.health: dict[str, str] = {"supervisor": "has not reported yet"}
        self.heard = time.monotonic()
        self.handlers: Handlers = {
            messages.Beat: lambda _: None, messages.Series: self._series, messages.Forget: self._forget,
            messages.Health: self._health}

    def take(self, message: Any) -> None:
        """Applies one message from the supervisor."""
        self.heard = time.monotonic()
        self.handlers[type(message)](message)

    def _series(self, message: messages.Series) -> None:
        with self.lock:
            for name, labels, value in message.rows:
                self.series.setdefault(name, {})[labels] = value

    def _forget(self, message: messages.Forget) -> None:
        with self.lock:
            for name, known in self.series.items():
                if self.metrics[name].labels[:1] == ("plugin",):
                    for labels in [labels for labels in known if labels[0] == message.plugin]:
                        del known[labels]

    def _health(self, message: messages.Health) -> None:
        self.health = message.reasons

    @property
    def has_reported(self) -> bool:
        """True once the supervisor has reported its health."""
        return "supervisor" not in self.health

    @property
    def alive(self) -> bool:
        """Whether the supervisor's loop is running."""
        return time.monotonic() - self.heard < BEAT_SECONDS_MAX

    def wrong(self) -> list[str]:
        """Why the daemon is not ready, one line each; nothing if it is."""
        wrong = [f"{name}: {reason}" for name, reason in self.health.items() if reason]
        return wrong if self.alive else [*wrong, "supervisor: its loop is not running"]

    def collect(self) -> Iterator[Metric]:
        """The metric families in prometheus-client's form."""
        with self.lock:
            copied = {name: dict(known) for name, known in self.series.items()}
        copied["ready"] = {(): float(not self.wrong())}
        for name, metric in self.metrics.items():
            full, names = PREFIX + name, list(metric.labels)
            if metric.kind == "histogram":
                histogram = HistogramMetricFamily(full, metric.help, labels=names)
                for labels, (total, *counts) in copied.get(name, {}).items():
                    histogram.add_metric(labels, _cumulative(metric.buckets, counts), total)
                yield histogram
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(full, metric.help, labels=names)
            for labels, value in copied.get(name, {}).items():
                family.add_metric(labels, value)
            yield family


def _cumulative(buckets: tuple[float, ...], counts: list[int]) -> list[Any]:
    total, out = 0, []
    for bound, count in zip((*map(str, buckets), "+Inf"), counts, strict=True):
        total += count
        out.append((bound, total))
    return out


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handles each request in a thread, or without one if this user may start no more threads: an unanswered probe
        would cause a restart of a daemon that still serves calls."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            request.settimeout(ALONE_SECONDS_MAX)
            self.process_request_thread(request, client_address)


def _handler(state: State) -> type[BaseHTTPRequestHandler]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(state)

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS_MAX

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            elif path == "/livez":
                self._answer(*((200, b"ok\n") if state.alive else (503, b"the supervisor's loop does not turn\n")))
            elif path == "/readyz":
                wrong = state.wrong()
                self._answer(503 if wrong else 200, ("\n".join(wrong or ["ok"]) + "\n").encode())
            else:
                self._answer(404, b"there are /metrics, /livez and /readyz\n")

        do_HEAD = do_GET

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(OSError):  # the scraper has gone
                    self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Does nothing: scrapes are not logged."""

    return Handler


def main(link: Any, settings: dict[str, Any]) -> None:
    """Serves ``settings["listener"]`` until ``link`` ends. Blocks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    state = State(settings["per_plugin_histograms"])
    listener: socket.socket = settings["listener"]
    server = _Server(listener.getsockname()[:2], _handler(state), bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    end = BlockingEnd(link.fileno(), state.handlers)
    while (found := end.receive()) is not None:
        for message in found:
            state.take(message)
        if not serving.ident and state.has_reported:  # until then clients wait: there is nothing to report
            serving.start()
    os._exit(0)  # an unfinished scrape must not keep the process of a dead daemon alive
