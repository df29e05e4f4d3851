"""Calls that leave on schedule, whatever the answers do. Latency counts from when each was **due**, so that a stall is
charged to every call it delayed (no coordinated omission)."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
import zmq

from benchmarks.lab import Round

LOST_SECONDS = 30.0
"""If a reply is missing this long after the last request, the run ends in an error."""
_decode = msgspec.msgpack.Decoder().decode


def over_socket(socket: zmq.Socket[bytes], body: Callable[[int], bytes], rate: float, seconds: float) -> Round:
    """``body(n)`` is the nth request, with ``id`` n; the reply bears the same. An error reply is counted as failed."""
    clock = time.perf_counter
    total = int(rate * seconds)
    due_at: dict[int, float] = {}
    latencies_us: list[float] = []
    begun = clock() + 0.01
    sent = failed = 0
    codes: Counter[str] = Counter()
    while len(latencies_us) < total:
        now = clock()
        while sent < total and begun + sent / rate <= now:
            due_at[sent] = begun + sent / rate
            socket.send(body(sent))
            sent += 1
        try:
            reply = _decode(socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            # Sleeps to the microsecond: a client that looks awake takes a core of two from what it measures.
            wait_s = (begun + sent / rate - clock()) if sent < total else 1.0
            if clock() > begun + seconds + LOST_SECONDS:
                raise SystemExit(f"{total - len(latencies_us)} of {total} calls were not answered") from None
            select.select([socket.FD], [], [], max(0.0, wait_s))
            continue
        if reply["type"] == "error":
            failed += 1
            codes[reply["code"]] += 1
        latencies_us.append((clock() - due_at.pop(reply["id"])) * 1e6)
    return Round(total / (clock() - begun), latencies_us, failed, codes)


def over_futures(submit: Callable[[], Future[Any]], rate: float, seconds: float) -> Round:
    """As ``over_socket``, of a pool's futures. Their callbacks take the time: no thread of the caller's is woken, as it
    is over a socket."""
    clock = time.perf_counter
    total = int(rate * seconds)
    latencies_us: list[float] = []
    failures: list[BaseException] = []  # appended to by several threads
    begun = clock() + 0.01

    def note(due: float) -> Callable[[Future[Any]], None]:
        def done(future: Future[Any]) -> None:
            taken_us = (clock() - due) * 1e6
            if (error := future.exception()) is not None:
                failures.append(error)
            latencies_us.append(taken_us)  # last, so that a count of these finds every failure already recorded
        return done

    sent = 0
    while sent < total:
        due = begun + sent / rate
        if (wait_s := due - clock()) > 0:
            select.select([], [], [], wait_s)
            continue
        submit().add_done_callback(note(due))
        sent += 1
    end = clock() + LOST_SECONDS
    while len(latencies_us) < total:
        if clock() > end:
            raise SystemExit(f"{total - len(latencies_us)} of {total} calls were not answered")
        time.sleep(0.001)
    return Round(total / (clock() - begun), latencies_us, len(failures))
