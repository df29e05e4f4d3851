"""Traces of a real daemon, as a receiver of OTLP gets them: whole trees, with right times, and nothing that is private.
"""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import AdminClient, CallError, Client, protocol
from apex_exec.daemon.sides import trace_feed
from tests.support.certificates import certificate_for
from tests.support.daemon import ECHO, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.fleet import LocalFleet
from tests.support.otlp import Receiver, Seen, receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
PRIVATE = "Anna-Muster"
WORKS = '''
from workers import ApiError

@plugin.hook("onActionExecute")
async def act(context, params):
    given, api = params["context"], context.api
    await api.query("SELECT id FROM orders WHERE note = $1", [given["note"]])
    await api.insert("orders", {"id": "7", "note": given["note"]})
    await api.storage.set(given["note"], given["note"])
    answer = await api.fetch(given["url"], headers={"X-Note": given["note"]})
    said = [answer["status"]]
    for call in (lambda: api.query("SELECT secret FROM " + given["note"].replace("-", "_")),
                 lambda: api.fetch("http://other.localhost/"), lambda: api.call("host.lookup", {"who": given["note"]})):
        try:
            await call()
        except ApiError as error:
            said.append(error.code)
    return {"result": said, "metadata": {}}
'''
FAILS = '''
@plugin.hook("onActionExecute")
def act(context, params):
    raise ValueError("Anna-Muster")
'''
BOARD = '''
@plugin.hook("onDashboardLoad")
def load(context, params):
    return {"customWidgets": []}
'''
MANY_CALLS = '''
@plugin.hook("onActionExecute")
async def act(context, params):
    for number in range(150):
        await context.api.query("SELECT id FROM orders")
    return {"result": None, "metadata": {}}
'''
LARGE = '''
@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": [0.5] * 60_000, "metadata": {}}
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for id_, code in (("echo", ECHO), ("fails", FAILS), ("sleeper", SLEEP), ("large", LARGE)):
        write_plugin(folder, id_, code)
    for id_ in ("board", "panel"):
        write_plugin(folder, id_, BOARD, ("onDashboardLoad",))
    write_plugin(folder, "many", MANY_CALLS, permissions=("data:read",), data={"tables": ["orders"]})
    write_plugin(folder, "works", WORKS, permissions=("data:read", "data:write", "network:fetch"),
                 data={"tables": ["orders"]}, network={"allow": ["app.localhost"]})
    return folder


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def call(host: Client, plugin: str, context: dict[str, Any] | None = None, traceparent: str | None = None) -> Any:
    return host.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": context or {}}, 10_000, traceparent)


def lies_within(span: Seen, parent: Seen) -> bool:
    return parent.begun_ns <= span.begun_ns <= span.ended_ns <= parent.ended_ns and span.trace_id == parent.trace_id


def test_a_call_becomes_spans_below_the_hosts_if_the_host_samples_it(plugins: Path, receiver: Receiver) -> None:
    begun_ns = time.time_ns()
    with Daemon(plugins=plugins, config={
            "traces.endpoint": receiver.url, "traces.resource": {"deployment.environment.name": "test"}},
            env={"OTEL_EXPORTER_OTLP_HEADERS": "x=y", "OTEL_RESOURCE_ATTRIBUTES": "a=b"}) as daemon:
        with Client(daemon.endpoint) as host:
            call(host, "echo", {"note": PRIVATE}, SAMPLED)
            call(host, "echo", {}, NOT_SAMPLED)
            call(host, "echo")
        daemon.stop()  # what waits is sent before the end
    top, queue, worker = (receiver.one(name) for name in ("invoke onActionExecute", "queue", "worker"))
    assert len(receiver.spans) == 3 and receiver.paths == ["/v1/traces"]
    assert (top.trace_id, top.parent_id) == (TRACE, SPAN) and begun_ns < top.begun_ns < top.ended_ns < time.time_ns()
    assert set(receiver.below(top)) == {"queue", "worker"} and queue.ended_ns == worker.begun_ns
    assert queue.begun_ns == top.begun_ns and all(lies_within(span, top) for span in (queue, worker))
    assert top.attributes == {
        "apex_exec.plugin.id": "echo", "apex_exec.plugin.version": "1.0.0", "apex_exec.hook": "onActionExecute",
        "apex_exec.outcome": "ok", "apex_exec.started": True}
    assert queue.attributes == {"apex_exec.cold": True} and worker.attributes["apex_exec.worker.memory_mb"] >= 0
    assert top.resource.items() >= {"service.name": "apex-exec", "deployment.environment.name": "test"}.items()
    assert "a" not in top.resource and "x" not in receiver.headers[0]
    assert PRIVATE.encode() not in b"".join(receiver.bodies) and USER.encode() not in b"".join(receiver.bodies)


class Site(BaseHTTPRequestHandler):
    """Answers 404, slowly enough to be seen."""

    asked: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.asked.append(dict(self.headers))
        time.sleep(0.05)
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield server
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.fixture
def working(plugins: Path, receiver: Receiver, site: ThreadingHTTPServer, tmp_path: Path) -> Iterator[Daemon]:
    with sqlite3.connect(tmp_path / "data.db") as data:
        data.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, owner TEXT, note TEXT)")
    data.close()
    with Daemon(plugins=plugins, config={
            "traces.endpoint": receiver.url, "traces.sample_ratio": 1.0, "data.url": f"sqlite:///{tmp_path}/data.db",
            "data.tables": {"orders": {"owner": "owner", "columns": ["id", "note"], "write": True}},
            "fetch.allow": [f"app.localhost:{site.server_port}"], "fetch.allow_private": True}) as running:
        yield running


@pytest.mark.slow
def test_queries_writes_and_requests_are_below_their_worker_with_their_own_times(
        working: Daemon, receiver: Receiver, site: ThreadingHTTPServer) -> None:
    url = f"http://app.localhost:{site.server_port}/{PRIVATE}?who={PRIVATE}"
    with Client(working.endpoint) as host:
        reply = call(host, "works", {"note": PRIVATE, "url": url}, SAMPLED)
    assert reply["result"]["result"] == [404, "table_not_allowed", "host_not_allowed", "permission_denied"]
    working.stop()
    worker = receiver.one("worker")
    apis = [span for span in receiver.spans if span.parent_id == worker.span_id]
    assert [(span.name, span.failed) for span in sorted(apis, key=lambda span: span.begun_ns)] == [
        ("api query", ""), ("api insert", ""), ("api storage.set", ""), ("api fetch", ""),
        ("api query", "table_not_allowed"), ("api fetch", "host_not_allowed"), ("api call", "permission_denied")]
    assert all(lies_within(span, worker) for span in apis)
    query, write, kept, fetch = map(receiver.one, ("sql select", "sql insert", "storage set", "fetch GET"))
    for work in (query, write, kept, fetch):
        (parent,) = (span for span in apis if span.span_id == work.parent_id)
        assert lies_within(work, parent)
    assert query.attributes == {
        "db.system.name": "sqlite", "db.operation.name": "select", "db.collection.name": "orders",
        "db.response.returned_rows": 0}
    assert write.attributes == {"db.system.name": "sqlite", "db.operation.name": "insert"}
    assert kept.attributes == {"db.system.name": "sqlite", "db.operation.name": "set"}
    assert fetch.ended_ns - fetch.begun_ns >= 40_000_000 and fetch.failed == "404"
    assert fetch.attributes == {
        "http.request.method": "GET", "http.response.status_code": 404, "server.address": "app.localhost",
        "error.type": "404"}
    sent = b"".join(receiver.bodies)
    assert not [text for text in (PRIVATE, PRIVATE.replace("-", "_"), USER, "SELECT", "lookup")
                if text.encode() in sent]
    assert not [headers for headers in Site.asked if "traceparent" in {name.lower() for name in headers}]


@pytest.mark.slow
def test_failures_bounds_and_checks_show_in_their_spans(working: Daemon, receiver: Receiver) -> None:
    with Client(working.endpoint) as host:
        with pytest.raises(CallError):
            call(host, "fails", {}, SAMPLED)
        with pytest.raises(CallError):
            host.invoke("sleeper", "onActionExecute", USER, {"action": "x", "context": {"seconds": 60}}, 300, SAMPLED)
        call(host, "large", {})
        call(host, "many")
    working.stop()
    failed = receiver.one("invoke onActionExecute", apex_exec_plugin_id="fails")
    assert (failed.failed, failed.attributes["error.type"]) == ("PLUGIN_ERROR", "PLUGIN_ERROR")
    timed_out = receiver.one("invoke onActionExecute", apex_exec_plugin_id="sleeper")
    assert timed_out.failed == "TIMEOUT" and timed_out.ended_ns - timed_out.begun_ns >= 300_000_000
    large = receiver.one("invoke onActionExecute", apex_exec_plugin_id="large")
    check = receiver.below(large)["check"]
    assert check.begun_ns == receiver.below(large)["worker"].ended_ns and check.ended_ns == large.ended_ns
    assert large.parent_id == "" and large.trace_id != TRACE  # sampled by the share
    many = receiver.below(receiver.one("invoke onActionExecute", apex_exec_plugin_id="many"))["worker"]
    assert many.attributes["apex_exec.api_spans_left_out"] == 150 - 128
    assert sum(span.parent_id == many.span_id for span in receiver.spans) == 128
    assert PRIVATE.encode() not in b"".join(receiver.bodies)


@pytest.mark.slow
def test_the_parts_of_a_dispatch_are_below_its_span(working: Daemon, receiver: Receiver) -> None:
    with Client(working.endpoint) as host:
        host.dispatch("onDashboardLoad", USER, {"dashboardId": "main"}, traceparent=SAMPLED)
        with AdminClient(working.admin) as admin:
            admin.request("daemon.drain", {"stop": False})
        with pytest.raises(CallError, match="SHUTTING_DOWN"):
            call(host, "echo", {}, SAMPLED)
    working.stop()
    top = receiver.one("dispatch onDashboardLoad")
    assert (top.trace_id, top.parent_id) == (TRACE, SPAN) and top.attributes["apex_exec.dispatch.parts"] == 2
    parts = [span for span in receiver.spans if span.parent_id == top.span_id]
    assert len(parts) == 2 and all(lies_within(part, top) and part.name == "invoke onDashboardLoad" for part in parts)
    refused = receiver.one("invoke onActionExecute", apex_exec_outcome="SHUTTING_DOWN")
    assert refused.parent_id == SPAN and refused.attributes["apex_exec.started"] is False


# ---------------------------------------------------------------------- the endpoint
def exported(daemon: Daemon, outcome: str) -> float:
    return daemon.metric(f'trace_spans_total{{outcome="{outcome}"}}') or 0


@pytest.mark.slow
def test_an_endpoint_that_hangs_or_is_away_costs_no_call_anything_and_is_in_the_log_once(plugins: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Daemon(plugins=plugins, config={"traces.endpoint": address, "traces.timeout_seconds": 0.5}) as daemon:
            with Client(daemon.endpoint) as host:
                call(host, "echo")
                slowest = 0.0
                while exported(daemon, "undelivered") < 9:
                    begun = time.monotonic()
                    call(host, "echo", {}, SAMPLED)
                    slowest = max(slowest, time.monotonic() - begun)
            said = [line for line in daemon.log.splitlines() if "traces" in line]
            assert len(said) == 1 and f"cannot be delivered to {address}/v1/traces" in said[0]
            assert "due to timeout" in said[0], said
            assert slowest < 5 and daemon.get("/readyz")[0] == 200
            begun = time.monotonic()
            daemon.stop()
            assert time.monotonic() - begun < 10


@pytest.mark.slow
def test_a_process_that_stands_still_costs_spans_and_no_call(plugins: Path, receiver: Receiver) -> None:
    calls = 0
    with Daemon(plugins=plugins, config={
            "traces.endpoint": receiver.url, "traces.sample_ratio": 1}) as daemon, Client(daemon.endpoint) as host:
        call(host, "echo")
        wait_for(lambda: len(receiver.spans) == 3, 20, "the first trace")
        (exporter,) = (process for process in daemon.family() if process.name() == "apex-traces")
        exporter.suspend()
        while not exported(daemon, "dropped"):  # 20,000 spans wait, and what the link holds
            for pending in [host.start(protocol.invoke(
                    "echo", "onActionExecute", USER, {"action": "x", "context": {}}, 10_000, None))
                    for _ in range(200)]:
                try:
                    host.wait(pending, 20_000)
                    calls += 1
                except CallError as error:
                    assert error.code == "AUDIT_UNAVAILABLE"  # the disk is busy with other tests
                    time.sleep(0.1)
        assert daemon.get("/readyz")[0] == 200 and calls < 20_000
        exporter.resume()
        wait_for(lambda: exported(daemon, "exported") > trace_feed.WAITING_SPANS_MAX, 60, "what waited")
        wait_for(lambda: exported(daemon, "exported") + exported(daemon, "dropped") >= 3 * (calls + 1), 60, "the rest")


@pytest.mark.slow
def test_delivery_that_fails_and_succeeds_again_is_in_the_log_each_time(plugins: Path, receiver: Receiver) -> None:
    receiver.status = 401
    with Daemon(plugins=plugins, config={"traces.endpoint": receiver.url}) as daemon, Client(daemon.endpoint) as host:
        for status, outcome in ((401, "undelivered"), (400, "undelivered"), (200, "exported"), (200, "exported"),
                                (302, "undelivered")):
            receiver.status, receiver.location = status, "http://127.0.0.1:9/elsewhere" * (status == 302)
            before = exported(daemon, outcome)
            call(host, "echo", {}, SAMPLED)
            wait_for(lambda was=before, now=outcome: exported(daemon, now) == was + 3, 20, f"3 spans {outcome}")
        said = [line for line in daemon.log.splitlines() if "traces" in line]
        assert ["401" in said[0], "again" in said[1], "redirect" in said[2]] == [True, True, True] and len(said) == 3


@pytest.mark.slow
def test_tls_a_client_certificate_and_secret_headers_from_a_file_that_changes(plugins: Path, tmp_path: Path) -> None:
    certificate, key = certificate_for(tmp_path, "localhost")
    secrets = tmp_path / "headers"
    secrets.touch(0o600)
    secrets.write_text("Authorization: Bearer first-secret\n")
    config = {"traces.ca_file": str(certificate), "traces.tls_certificate": str(certificate),
              "traces.tls_key": str(key), "traces.headers_file": str(secrets), "traces.compression": "none"}
    with receiving((certificate, key), certificate) as receiver, Daemon(
            plugins=plugins, config={"traces.endpoint": receiver.url, **config}) as daemon, Client(
            daemon.endpoint) as host:
        call(host, "echo", {}, SAMPLED)
        wait_for(lambda: receiver.headers, 20, "the first request")
        secrets.write_text("Authorization: Bearer second-secret\n")
        call(host, "echo", {}, SAMPLED)
        wait_for(lambda: len(receiver.headers) > 1, 20, "the second request")
        secrets.chmod(0o644)  # a mode is not a change of the content, and the exporter has its headers
        secrets.write_text("Authorization: Bearer third-secret-1\n")
        call(host, "echo", {}, SAMPLED)
        wait_for(lambda: exported(daemon, "undelivered") == 3, 20, "a file that others can read")
        assert "may be read by others" in daemon.log and "secret-1" not in daemon.log
        assert [one["authorization"] for one in receiver.headers] == ["Bearer first-secret", "Bearer second-secret"]
        assert "content-encoding" not in receiver.headers[0]
        processes = [process for process in daemon.family() if process.name() == "apex-traces"]
        assert len(processes) == 1 and not any("secret" in part for part in processes[0].cmdline())


@pytest.mark.slow
def test_a_certificate_of_nobody_we_trust_gets_nothing(plugins: Path, tmp_path: Path) -> None:
    pair = certificate_for(tmp_path, "localhost")
    with receiving(pair) as receiver, Daemon(plugins=plugins, config={"traces.endpoint": receiver.url}) as daemon:
        with Client(daemon.endpoint) as host:
            call(host, "echo", {}, SAMPLED)
            wait_for(lambda: exported(daemon, "undelivered") == 3, 20, "the failure")
        assert "CERTIFICATE_VERIFY_FAILED" in daemon.log and not receiver.bodies


@pytest.mark.slow
def test_a_reload_changes_the_share_and_a_killed_process_is_replaced(plugins: Path, receiver: Receiver) -> None:
    with Daemon(plugins=plugins, config={"traces.endpoint": receiver.url}) as daemon, Client(daemon.endpoint) as host:
        call(host, "echo")
        assert "apex-traces" not in {process.name() for process in daemon.family()}  # nobody has needed it yet
        daemon.write_config({"traces.sample_ratio": 1})
        assert daemon.operate("daemon.reload")["applied"] == ["traces.sample_ratio"]
        call(host, "echo")
        wait_for(lambda: len(receiver.spans) == 3, 20, "a trace of our own")
        (exporter,) = (process for process in daemon.family() if process.name() == "apex-traces")
        exporter.send_signal(9)
        psutil.wait_procs([exporter], 10)
        wait_for(lambda: daemon.metric('side_process_restarts_total{process="traces"}') == 1, 20, "the restart")
        call(host, "echo")
        wait_for(lambda: len(receiver.spans) == 6, 20, "a trace of the new process")
        assert len({span.trace_id for span in receiver.spans}) == 2
        daemon.write_config({"traces.sample_ratio": 0, "traces.service_name": "other"})
        assert daemon.operate("daemon.reload") == {
            "applied": ["traces.sample_ratio"], "restart": ["traces.service_name"]}
        call(host, "echo")
        daemon.stop()
        assert len(receiver.spans) == 6


@pytest.mark.slow
def test_a_dispatch_over_a_fleet_is_one_trace(tmp_path: Path, receiver: Receiver) -> None:
    for number in range(6):
        write_plugin(tmp_path, f"board-{number}", BOARD, ("onDashboardLoad",))
    with LocalFleet(tmp_path, 2, {"traces.endpoint": receiver.url, "traces.sample_ratio": 1}) as fleet:
        with Client(fleet.nodes["a"].endpoint) as host:
            host.dispatch("onDashboardLoad", USER, {"dashboardId": "main"})
        for daemon in fleet.nodes.values():
            daemon.stop()
    top = receiver.one("dispatch onDashboardLoad")
    parts = [span for span in receiver.spans if span.parent_id == top.span_id]
    assert len(parts) == 6 and {part.trace_id for part in receiver.spans} == {top.trace_id}
    assert {part.resource["service.instance.id"] for part in parts} == {"a", "b"}
