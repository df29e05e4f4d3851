"""The process ``traces``: it makes spans of the supervisor's records and sends them by OTLP over HTTP.

One thread reads the link and one sends, with a bounded queue between them, so that an endpoint that is slow or away
holds up neither the supervisor nor the link: what finds no room is counted and dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from apex_exec.observe.traces import messages
from apex_exec.wire.side_link import BlockingEnd

if TYPE_CHECKING:
    from apex_exec.observe.traces.endpoint import Endpoint
    from apex_exec.observe.traces.spans import SpanMaker

log = logging.getLogger("apex_exec.traces")

NICE = 10
MEMORY_BYTES_MAX = 512 * 1024 * 1024
"""Soft RLIMIT_DATA: nothing bounds an endpoint's answer, and this ends only this process."""
WAITING_SPANS_MAX = 20_000
"""How many spans wait to be sent; one more is dropped. An endpoint that is away is tried for ``traces.timeout_seconds``
with each request, so this many are a few seconds of a busy daemon."""
REQUEST_SPANS_MAX = 512
"""They are about 100 KiB before they are compressed; OTLP's receivers take 4 MiB or more."""
GATHER_SECONDS = 1.0
"""How long spans gather, at most, until a request has REQUEST_SPANS_MAX of them."""
CLOSE_SECONDS = 2.0
"""How long this process sends what waits, after the end of its link."""

LAST_WORDS_SECONDS = 0.5
"""Lines of the log are written by a thread, which needs a moment before this process ends by its own fault."""

Record = messages.Call | messages.Dispatch


class Waiting:
    """Records that wait to be sent, each with the clock's offset. One thread puts, one takes."""

    def __init__(self) -> None:
        self._records: deque[tuple[Record, int]] = deque()
        self._spans = 0
        self._changed = threading.Condition()
        self._is_ended = False

    def put(self, batch: messages.Batch) -> int:
        """Adds what there is room for; returns how many spans found none."""
        dropped = 0
        with self._changed:
            for record in batch.records:
                if self._spans + record.spans > WAITING_SPANS_MAX:
                    dropped += record.spans
                    continue
                self._spans += record.spans
                self._records.append((record, batch.clock_ns))
            self._changed.notify()
        return dropped

    def end(self) -> None:
        """Nothing more comes: what waits is to be sent without gathering."""
        with self._changed:
            self._is_ended = True
            self._changed.notify()

    def take(self) -> list[tuple[Record, int]] | None:
        """The records of the next request, once they are enough or have gathered for long enough; blocks. None after
        the end."""
        with self._changed:
            while not self._records:
                if self._is_ended:
                    return None
                self._changed.wait()
            until = time.monotonic() + GATHER_SECONDS
            while self._spans < REQUEST_SPANS_MAX and not self._is_ended and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            taken: list[tuple[Record, int]] = []
            spans = 0
            while self._records and (not taken or spans + self._records[0][0].spans <= REQUEST_SPANS_MAX):
                taken.append(self._records.popleft())
                spans += taken[-1][0].spans
            self._spans -= spans
            return taken


class Sending(threading.Thread):
    """Sends what waits, and tells the supervisor what has become of it."""

    def __init__(self, waiting: Waiting, endpoint: Endpoint, maker: SpanMaker, end: BlockingEnd) -> None:
        super().__init__(daemon=True)
        self._waiting, self._endpoint, self._maker, self._end = waiting, endpoint, maker, end

    def run(self) -> None:
        """Until the end of the link, and of what waits then."""
        try:
            while (taken := self._waiting.take()) is not None:
                spans = [span for record, clock_ns in taken for span in self._maker.make(record, clock_ns)]
                sent = self._endpoint.send(spans)
                self._end.send(messages.Delivered(len(spans) * sent, len(spans) * (not sent), 0))
        except Exception:
            log.exception("spans could not be made or sent, by a fault of the daemon; the process is started again")
            time.sleep(LAST_WORDS_SECONDS)
            os._exit(1)


def main(link: Any, settings: dict[str, Any]) -> None:
    """Sends what comes by ``link`` until it ends, and CLOSE_SECONDS longer. Blocks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, hard))
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]  # the SDK would read them, and the configuration is the one place that says what is sent
    from apex_exec.observe.traces.endpoint import Endpoint  # now, since the SDK reads some of them as it is imported
    from apex_exec.observe.traces.spans import SpanMaker

    waiting, endpoint = Waiting(), Endpoint(settings)
    maker = SpanMaker(settings["service_name"], settings["instance"], settings["resource"], settings["databases"])
    end = BlockingEnd(link.fileno(), (messages.Batch,))
    sending = Sending(waiting, endpoint, maker, end)
    sending.start()
    while (found := end.receive()) is not None:
        for batch in found:
            if dropped := waiting.put(batch):
                end.send(messages.Delivered(0, 0, dropped))
    waiting.end()
    sending.join(CLOSE_SECONDS)
    os._exit(0)  # a request that hangs must not keep the process of a dead daemon alive
