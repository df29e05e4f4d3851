"""What the loop itself does for the places of a traceback is the plugin's to pay."""

from __future__ import annotations

import time
from typing import Any

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.sides.author_places import AuthorPlaces
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
