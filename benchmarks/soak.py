"""``python -m benchmarks.soak --seconds 600``: plugins of every kind, random kills of everything, and a strict count.

Every request is numbered and its payload comes back, so that a lost reply, a second one and somebody else's all show.
While calls are in flight, workers, zygote and side processes are killed or stopped, hosts drop their connections,
and the supervisor itself is killed and started again on its folder (what was pending then is counted apart: a daemon
that dies loses what was pending, PROTOCOL 1.3). Afterwards the ledger must verify and hold one event for each
call that was answered. Ends with 1 if anything was lost, doubled, mixed up, leaked or not recorded.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from array import array
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import zmq

from apex_exec.ledger.reading import read_events
from apex_exec.ledger.verify import verify
from benchmarks.daemon import USER
from benchmarks.soak_daemon import Chaos, SoakDaemon
from benchmarks.soak_plugins import GOOD, WRITERS, write_plugins

NAME = "soak"
TITLE = "Soak"
CONNECTIONS = 4
GOOD_IN_FLIGHT = 24
BAD_IN_FLIGHT = 8
DEADLINE_MS = 2000
GRACE_SECONDS = 3.0
"""A reply later than its deadline by this much is lost."""
CANCEL_SHARE = 0.01
DROP_SECONDS = 5.0
LATE_SECONDS = 0.050
"""Group durability may lose the records of replies that were seen this shortly before a supervisor was killed. If its
ledger process was killed a moment earlier, the time counts from then, since no process is left that has the records.
If the supervisor was stopped and then killed without having run again, it counts from when it was stopped."""
WRONG = {"PROTOCOL_ERROR", "DUPLICATE_ID", "PAYLOAD_TOO_LARGE", "INVALID_INPUT", "PLUGIN_NOT_FOUND",
         "HOOK_NOT_DECLARED", "PLUGIN_DISABLED", "INTERNAL", "NOT_FOUND", "CONFLICT", "REFUSED", "FORBIDDEN",
         "SHUTTING_DOWN"}
"""Outcomes that no plugin and no kill may cause."""

HOLD = {"AUDIT_UNAVAILABLE", "OVERLOADED"}
HOLD_SECONDS = 0.01
"""A host that may try again waits this long first."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Soak:
    """The hosts: a closed loop over a few connections, and everything that is counted."""

    def __init__(self, endpoint: str, bad: list[str], rng: random.Random) -> None:
        self.endpoint, self.bad, self.rng = endpoint, bad, rng
        self.context = zmq.Context()
        self.poller = zmq.Poller()
        self.sockets: list[Any] = []
        self.pending: list[dict[int, tuple[str, float]]] = [{} for _ in range(CONNECTIONS)]
        self.answered = array("d", [0.0])  # by number: when its result was seen; 0 where none was
        self.good_open = self.bad_open = 0
        self.number = 0
        self.outcomes: dict[str, Counter[str]] = {"good": Counter(), "bad": Counter()}
        self.lost = self.doubled = self.mixed = self.wrong = self.dropped = self.died = 0
        self.latencies_ms = array("d")
        self.cancels: set[int] = set()
        self.story: list[str] = []
        self.hold_until = 0.0
        self.writes: list[int] = []
        for _ in range(CONNECTIONS):
            self.sockets.append(self._connect())

    def _connect(self) -> Any:
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self.endpoint)
        self.poller.register(socket, zmq.POLLIN)
        return socket

    # ------------------------------------------------------------------ sending
    def fill(self) -> None:
        """Keeps as many calls in flight as there should be; after a refusal to everyone it waits a while."""
        if time.perf_counter() < self.hold_until:
            return
        while self.good_open < GOOD_IN_FLIGHT:
            self._invoke(GOOD[self.number % 2])
            self.good_open += 1
        while self.bad_open < BAD_IN_FLIGHT:
            self._invoke(self.rng.choice(self.bad))
            self.bad_open += 1

    def _invoke(self, plugin: str) -> None:
        self.number += 1
        self.answered.append(0.0)
        number, at = self.number, self.number % CONNECTIONS
        if plugin in WRITERS:
            self.writes.append(number)
        self.pending[at][number] = (plugin, time.perf_counter())
        self.sockets[at].send(_encode({
            "type": "invoke", "id": number, "plugin": plugin, "action": "onActionExecute", "userId": USER,
            "deadlineMs": DEADLINE_MS, "traceparent": str(number),
            "payload": {"action": "x", "context": {"echo": number}}}))
        if self.rng.random() < CANCEL_SHARE:
            self.number += 1
            self.answered.append(0.0)
            self.cancels.add(self.number)
            self.sockets[at].send(_encode({"type": "cancel", "id": self.number, "target": number}))

    # ------------------------------------------------------------------ receiving
    def take(self, wait_ms: int) -> None:
        """Takes what has arrived."""
        for socket, _ in self.poller.poll(wait_ms):
            at = self.sockets.index(socket)
            while True:
                try:
                    self._reply(at, _decode(socket.recv(zmq.NOBLOCK)))
                except zmq.Again:
                    break

    def _reply(self, at: int, reply: dict[str, Any]) -> None:
        number = reply["id"]
        if number in self.cancels:
            self.cancels.discard(number)
            return
        known = self.pending[at].pop(number, None)
        if known is None:
            self.doubled += 1
            self.tell(f"a reply that nobody waits for: {str(reply)[:300]}")
            return
        now = time.perf_counter()
        plugin, sent = known
        good = plugin in GOOD
        self._closed(plugin)
        code = "ok" if reply["type"] == "result" else str(reply["code"])
        self.outcomes["good" if good else "bad"][code] += 1
        if code in WRONG:
            self.wrong += 1
            self.tell(f"an outcome that nothing here may cause: {str(reply)[:300]}")
        if code in HOLD:
            self.hold_until = now + HOLD_SECONDS
        if code == "ok":
            self.answered[number] = time.monotonic()
            if reply["result"]["result"] != number:
                self.mixed += 1
                self.tell(f"the reply to {number} carries {reply['result']}")
            if good:
                self.latencies_ms.append((now - sent) * 1000)

    def _closed(self, plugin: str) -> None:
        if plugin in GOOD:
            self.good_open -= 1
        else:
            self.bad_open -= 1

    def overdue(self) -> None:
        """Counts as lost what should have been answered long ago."""
        latest = time.perf_counter() - DEADLINE_MS / 1000 - GRACE_SECONDS
        for pending in self.pending:
            for number in [n for n, (_, sent) in pending.items() if sent < latest]:
                plugin, _ = pending.pop(number)
                self._closed(plugin)
                self.lost += 1
                self.tell(f"no reply to {number} ({plugin})")

    # ------------------------------------------------------------------ ends of connections
    def drop(self, at: int) -> None:
        """One host goes away with its calls in flight, and another takes its place."""
        self.dropped += self._forget(at)
        self._reconnect(at)

    def daemon_died(self) -> None:
        """Forgets what was pending: it is gone with the supervisor, except for replies that had left it."""
        self.take(0)
        for at in range(CONNECTIONS):
            self.died += self._forget(at)
            self._reconnect(at)

    def _forget(self, at: int) -> int:
        gone = self.pending[at]
        self.pending[at] = {}
        for plugin, _ in gone.values():
            self._closed(plugin)
        return len(gone)

    def _reconnect(self, at: int) -> None:
        self.poller.unregister(self.sockets[at])
        self.sockets[at].close()
        self.sockets[at] = self._connect()

    def tell(self, text: str) -> None:
        """One line of the story of what went wrong; bounded."""
        if len(self.story) < 20:
            self.story.append(text)
            print(f"! {text}", file=sys.stderr, flush=True)


def unrecorded(state: Path, soak: Soak, kills: list[tuple[float, float]]) -> tuple[int, int, int, int]:
    """(events, answered calls without an event, calls with two, writes on record) of the ledger, which must verify.

    ``kills``: when a supervisor was killed, and from when on it could not do its part (else the same).
    """
    found = verify(state / "audit.db", state)
    if found.finding is not None:
        soak.tell(f"the ledger is broken: {found.finding.message}")
        return found.last, sum(1 for at in soak.answered if at), 0, 0
    seen = bytearray(len(soak.answered))
    twice = writes = 0
    for event in read_events(state / "audit.db"):
        trace = event.metadata.get("traceparent")
        if event.event_type == "plugin.execution" and trace is not None:
            twice += seen[int(trace)]
            seen[int(trace)] = 1
        writes += event.event_type == "data.modification" and event.result == "success"
    missing = [number for number, at in enumerate(soak.answered) if at and not seen[number]
               and not any(first - LATE_SECONDS <= at <= kill + 1 for kill, first in kills)]
    for number in missing[:5]:
        at = soak.answered[number]
        soak.tell(f"no event of {number}, answered " + (", ".join(
            f"{kill - at:.3f} s before a kill" for kill, _ in kills if -1 < kill - at < 10) or "far from any kill"))
    return found.last, len(missing), twice, writes


def written(state: Path, soak: Soak) -> tuple[int, int, int]:
    """(rows, answered writes without their row, writes with two) of the platform's database."""
    with closing(sqlite3.connect(state / "data.db")) as db:
        rows = Counter(int(text) for (text,) in db.execute("SELECT text FROM notes"))
    missing = sum(1 for number in soak.writes if soak.answered[number] and not rows[number])
    return sum(rows.values()), missing, sum(1 for count in rows.values() if count > 1)


def run(seconds: float, seed: int, folder: Path, supervisor_seconds: float) -> dict[str, Any]:
    """The whole soak; its figures."""
    rng = random.Random(seed)
    bad = write_plugins(folder / "plugins")
    daemon = SoakDaemon(folder)
    daemon.start()
    daemon.wake()
    soak = Soak(daemon.endpoint, bad, rng)
    _until(soak, time.monotonic() + 2.0, None)  # every plugin has run
    _quiet(soak)
    before = daemon.footprint()
    begun = time.monotonic()
    end = begun + seconds
    chaos = Chaos(daemon, rng, seconds=seconds, supervisor_seconds=supervisor_seconds)
    _until(soak, end, chaos)
    chaos.release()
    _quiet(soak)
    took = time.monotonic() - begun
    leaks = daemon.leaks(before)
    status = daemon.stop()
    if status != 0:
        soak.tell(f"the daemon ended with {status}")
    events, missing, twice, recorded = unrecorded(folder / "state", soak, chaos.supervisor_kills)
    rows, rowless, doubled_rows = written(folder / "state", soak)
    calls = sum(sum(counter.values()) for counter in soak.outcomes.values())
    cuts = statistics.quantiles(soak.latencies_ms, n=1000)
    return {
        "seconds": round(took, 1), "seed": seed, "calls": calls, "calls_per_second": round(calls / took),
        "outcomes_well_behaved": dict(soak.outcomes["good"].most_common()),
        "outcomes_others": dict(soak.outcomes["bad"].most_common()),
        "harm": dict(chaos.done.most_common()), "pending_at_supervisor_kills": soak.died,
        "pending_at_dropped_connections": soak.dropped,
        "lost": soak.lost, "duplicated": soak.doubled, "mixed_up": soak.mixed, "wrong_outcome": soak.wrong,
        "ledger_events": events, "answered_without_event": missing, "events_twice": twice,
        "rows_written": rows, "answered_without_row": rowless, "rows_twice": doubled_rows,
        "rows_less_their_events": rows - recorded, "leaks": leaks,
        "p50_ms_well_behaved": round(cuts[499], 2), "p99_ms_well_behaved": round(cuts[989], 2),
        "p999_ms_well_behaved": round(cuts[998], 2), "story": soak.story, "exit_status": status}


def _until(soak: Soak, end: float, chaos: Chaos | None) -> None:
    next_look = next_drop = time.monotonic() + 1.0
    while (now := time.monotonic()) < end:
        soak.fill()
        soak.take(5)
        if chaos is not None and chaos.turn(now):
            soak.daemon_died()
            chaos.daemon.start()
        if now >= next_look:
            next_look = now + 0.5
            soak.overdue()
        if chaos is not None and now >= next_drop:
            next_drop = now + DROP_SECONDS
            soak.drop(soak.rng.randrange(CONNECTIONS))
            chaos.done["connection dropped"] += 1


def _quiet(soak: Soak) -> None:
    """No new calls; waits until every one is answered, or lost."""
    while any(soak.pending):
        soak.take(50)
        soak.overdue()
    time.sleep(0.3)
    soak.take(0)


def usage(figures: dict[str, Any]) -> str:
    """How the figures were measured, as Markdown."""
    return (f"`python -m benchmarks.soak --seconds {figures['seconds']:.0f} --json benchmarks/results/{NAME}.json`\n\n"
            "Plugins that behave, call the platform, raise, exit, spin, sleep, hoard, overflow, shout, forge or "
            "double their replies, while everything is killed or stopped at random, the supervisor included. "
            "Each request is numbered; each answered call must be one event of a ledger that verifies, and "
            "each answered write one row.")


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | |", "|---|---|"]
    for key, value in figures.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in value.items()) or "none"
        elif isinstance(value, list):
            shown = "; ".join(value) or "none"
        else:
            shown = str(value) if key == "seed" else f"{value:,}"
        lines.append(f"| {key.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


BAD_FIGURES = ("lost", "duplicated", "mixed_up", "wrong_outcome", "answered_without_event", "events_twice",
               "answered_without_row", "rows_twice", "rows_less_their_events", "leaks", "exit_status")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=20261124, help="of what is killed and called")
    parser.add_argument("--supervisor-seconds", type=float, default=60.0, metavar="N",
                        help="the supervisor is killed about so often, 0 never (default 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apxs") as name:
        figures = run(arguments.seconds, arguments.seed, Path(name), arguments.supervisor_seconds)
    print(table(figures))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if any(figures[key] for key in BAD_FIGURES) else 0


if __name__ == "__main__":
    sys.exit(main())
