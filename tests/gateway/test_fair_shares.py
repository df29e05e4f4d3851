"""What the daemon does for a plugin's API calls is charged to the plugin, and no plugin gets more than its share of it.

The bounds are upper ones: on a slow machine less is used, never more."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import Client
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import bundle
from tests.gateway.conftest import TABLES, A, sqlite_data
from tests.support.daemon import Daemon, wait_for

SHARE = 0.1
GREEDY = '''
import os
import time

import msgspec
from workers import ApiError, Plugin, wire

plugin = Plugin(id="{id}", version="1.0.0", permissions=["data:read"])


def frame(body):
    size = len(body)
    return bytes((0, size)) + body if size < 256 else b"\\x02" + size.to_bytes(8, "big") + body


@plugin.hook("onActionExecute")
def run(context, params):
    """Asks for all it can get: texts that are all different, or calls that are all refused."""
    if params["action"] == "text":
        columns = ", ".join(f"id + {{n}} AS c{{n}}" for n in range(250))
        for number in range(params["context"]["times"]):
            try:
                context.api.query(f"SELECT {{columns}} FROM orders WHERE id = {{time.monotonic_ns()}}")
            except ApiError:
                pass
    elif params["action"] == "refused":
        seq = context.api._seq
        data = b"".join(frame(pack(wire.ApiCall(seq, n, "insert", msgspec.Raw(pack({{}})))))
                        for n in range(params["context"]["times"]))
        while data:
            data = data[os.write(3, data):]
        for _ in range(params["context"]["times"]):
            context.api._ask.__self__._host.next()
    return {{"result": None, "metadata": {{}}}}


pack = msgspec.msgpack.encode
'''


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    for name in ("reader", "caller"):
        bundle(folder / "plugins", name, ["data:read"], GREEDY.format(id=name), data={"tables": ["orders"]})
    sqlite_data(folder / "data.db").close()
    with Daemon(folder / "d", folder / "plugins", {
            "data.url": f"sqlite:///{folder}/data.db", "data.tables": TABLES, "sandbox.min_level": "L0",
            "breaker.ends": 1000}) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def keep_busy(daemon: Daemon, plugin: str, action: str, times: int, seconds: float, callers: int) -> float:
    """Calls ``plugin`` again and again; the seconds it took."""
    begun = time.monotonic()

    def call() -> None:
        with Client(daemon.endpoint) as client:
            while time.monotonic() < begun + seconds:
                try:
                    client.invoke(plugin, "onActionExecute", A, {"action": action, "context": {"times": times}})
                except Exception:  # noqa: BLE001, S110 - a deadline that passed, say: it is asked again
                    pass

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(1.2)  # once a second the loop counts what it has spent on links
    return time.monotonic() - begun


def overhead(daemon: Daemon, plugin: str, where: str) -> float:
    return daemon.metric(f'plugin_overhead_seconds_total{{plugin="{plugin}",where="{where}"}}')


@pytest.mark.slow
def test_dear_queries_get_no_more_of_the_gateway_than_their_plugins_share(daemon: Daemon) -> None:
    passed = keep_busy(daemon, "reader", "text", 1000, 5, callers=3)
    used = overhead(daemon, "reader", "gateway")
    assert 0 < used <= SHARE * passed + 0.1 + 0.3, "the share, the burst, and one text a call under way"
    wait_for(lambda: any(event.metadata.get("hostCpuMs", 0) > 0 for event in read_events(daemon.state / "audit.db")
                         if event.resource == "reader" and event.event_type == "plugin.execution"), 5)


@pytest.mark.slow
def test_refused_calls_get_no_more_of_the_loop_than_their_plugins_share_and_few_records(daemon: Daemon) -> None:
    passed = keep_busy(daemon, "caller", "refused", 990, 5, callers=1)
    used = overhead(daemon, "caller", "supervisor")
    assert 0 < used <= SHARE * passed + 0.01 + 0.1, "the share, the burst, and a slice or two"
    rows: list[Any] = [event for event in read_events(daemon.state / "audit.db") if event.resource == "caller"]
    executions = [event for event in rows if event.event_type == "plugin.execution"]
    assert len(rows) <= 10 * len(executions) + 20, "eight refusals and a count for each invocation"
    counts = [event.metadata["count"] for event in rows if "count" in event.metadata]
    calls = len(rows) - len(executions) - len(counts) + sum(counts)
    assert calls <= 1000 + 500 * passed + 20, "limits.api_calls_per_second, and the burst"
    assert calls > 1000


def test_a_process_that_reads_sql_and_dies_costs_the_text_it_died_of(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        def query() -> Any:
            return client.invoke("reader", "onActionExecute", A, {"action": "text", "context": {"times": 1}})

        wait_for(lambda: not query().get("error"), 10)
        (parser,) = (process for process in psutil.Process(daemon.pid).children(recursive=True)
                     if process.name() == "apex-sql")
        parser.kill()
        wait_for(lambda: query() and any(
            process.name() == "apex-sql" and process.pid != parser.pid
            for process in psutil.Process(daemon.pid).children(recursive=True)), 10)
