"""What the loop itself does for the places of a traceback is the plugin's to pay, and replies come before lines."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.sides.author_places import LINE_WAIT_NS, AuthorPlaces, Locate, Located
from apex_exec.executor.links.overhead import Overhead
from apex_exec.executor.loop import Loop
from apex_exec.observe.metrics import Metrics

READ_NS = 20_000_000
PLUGIN = PluginSpec("mapped", "1.0.0", "d", "index.js", ("onActionExecute",), runtime="javascript")


class Bucket:
    """Takes the place of the governor: remembers what is taken out of the plugin's bucket."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []

    def charge_host(self, plugin: str, cost_ns: int, _now_ns: int) -> None:
        self.taken.append((plugin, cost_ns))


class LargeBundle:
    """Takes 20 ms of the loop for one read."""

    def maps(self, _digest: str) -> dict[str, bytes]:
        until_ns = time.thread_time_ns() + READ_NS
        while time.thread_time_ns() < until_ns:
            pass
        return {}


def test_reading_a_bundle_for_its_maps_is_charged_to_its_plugin() -> None:
    metrics, bucket = Metrics(), Bucket()
    overhead = Overhead(metrics)
    governing: Any = bucket
    overhead.governing = governing
    overhead.tune(PLUGIN, 0)
    places = AuthorPlaces(overhead, Loop(), LargeBundle())
    assert not places.submit(PLUGIN, "Error\n    at f (mapped/index.js:1:1)", lambda _text, _cpu_ns: None, 1)
    ((plugin, taken_ns),) = bucket.taken
    assert plugin == "mapped" and taken_ns >= READ_NS
    assert metrics.get("plugin_overhead_seconds_total", ("mapped", "supervisor")) >= READ_NS / 1e9
    assert not places.submit(PLUGIN, "Error\n    at f (mapped/index.js:2:2)", lambda _text, _cpu_ns: None, 2)
    assert len(bucket.taken) == 1, "the bundle is known to have none"


class Played:
    """Takes the place of the process: keeps what it is sent."""

    up = True
    wants_write = False

    def __init__(self, places: AuthorPlaces) -> None:
        self.sent: list[Locate] = []
        self.answer = places.side.handlers[Located]

    def send(self, message: Locate) -> bool:
        self.sent.append(message)
        return True


class Mapped:
    def maps(self, _digest: str) -> dict[str, bytes]:
        return {"index.js.map": b"{}"}


def played(overhead: Overhead) -> tuple[AuthorPlaces, Played, list[str]]:
    """The loop's end with a played process, and what it has let go."""
    gone: list[str] = []
    overhead.tune(PLUGIN, 0)
    loop: Any = SimpleNamespace(wake=lambda _side: None)
    places = AuthorPlaces(overhead, loop, Mapped())
    side: Any = (process := Played(places))
    places.side = side
    for number in range(100):
        assert places.submit_line(PLUGIN, f"line {number}", lambda text, _cpu_ns: gone.append(text), number)
    assert places.submit(PLUGIN, "reply", lambda text, _cpu_ns: gone.append(text), 100)
    return places, process, gone


def test_a_reply_is_next_however_many_lines_wait() -> None:
    """A hook that writes 900 lines with a stack in each kept the next caller waiting until its time was over."""
    _, process, gone = played(Overhead(Metrics()))
    assert [sent.text for sent in process.sent] == ["line 0", "line 1"]
    process.answer(Located(process.sent[0].number, "located", 0))
    assert process.sent[2].text == "reply" and gone == ["located"]


def test_a_line_waits_for_a_while_and_the_link_is_read_again_when_none_waits() -> None:
    overhead = Overhead(Metrics())
    places, process, gone = played(overhead)
    reading = overhead.reading
    assert reading.wait_ns("mapped", 200) == NEVER_NS
    places.duty.run(LINE_WAIT_NS + 50)
    assert gone == [f"line {number}" for number in range(51)], "as the engine said them, in their order"
    assert places.duty.due_ns == LINE_WAIT_NS + 51 and reading.wait_ns("mapped", 200) == NEVER_NS
    places.duty.run(LINE_WAIT_NS + 100)
    assert len(gone) == 100 and "reply" not in gone and reading.wait_ns("mapped", 200) == NEVER_NS
    process.answer(Located(process.sent[0].number, "late", 0))
    assert "late" not in gone, "it went already"
    process.answer(Located(process.sent[2].number, "located", 0))
    assert gone[100:] == ["located"] and reading.wait_ns("mapped", 200) < NEVER_NS and len(places) == 1
