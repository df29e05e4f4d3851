"""Which calls are traced, and what their spans may say; ``test_traced_daemon.py`` has the real daemon."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import Settings
from apex_exec.daemon.settings_checks import check_settings
from apex_exec.daemon.sides import trace_feed
from apex_exec.errors import ConfigError
from apex_exec.executor.loop import Loop
from apex_exec.observe.metrics import Metrics
from apex_exec.observe.traces import context, process
from apex_exec.observe.traces.facts import TABLES_MAX, facts_of
from apex_exec.observe.traces.messages import Batch, Call
from apex_exec.observe.traces.target import read_headers, url_of
from tests.support.certificates import certificate_for

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


def test_a_traceparent_says_the_trace_the_parent_and_whether_it_is_sampled() -> None:
    assert context.read(SAMPLED) == ((TRACE, SPAN), True)
    assert context.read(NOT_SAMPLED) == ((TRACE, SPAN), False)
    assert context.read(f"00-{TRACE}-{SPAN}-03") == ((TRACE, SPAN), True)  # other flags are not ours
    assert context.read(f"cc-{TRACE}-{SPAN}-01-later") == ((TRACE, SPAN), True)  # a later version may append


@pytest.mark.parametrize("text", [
    "", "1", SAMPLED.upper(), SAMPLED[:-1], f"{SAMPLED}-more", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01", f" {SAMPLED}", f"{SAMPLED}\n", f"00-{TRACE}-{SPAN}-0x", "é" * 55,
    f"01-{TRACE}-{SPAN}-01more"])
def test_what_is_no_traceparent_is_ignored(text: str) -> None:
    assert context.read(text) is None
    assert context.Sampler(0, random.Random(1).getrandbits).sample(text) is None
    made = context.Sampler(1, random.Random(1).getrandbits).sample(text)
    assert made is not None and made.parent_id == "" and made.trace_id != TRACE


def test_the_hosts_decision_precedes_the_share() -> None:
    bits = random.Random(2).getrandbits
    assert context.Sampler(0, bits).sample(SAMPLED) == (TRACE, SPAN)
    assert context.Sampler(1, bits).sample(NOT_SAMPLED) is None
    assert context.Sampler(0, bits).sample(None) is None


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.9])
def test_the_share_of_other_calls_is_that_of_opentelemetrys_sampler(ratio: float) -> None:
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    draws = [random.Random(seed).getrandbits(128) for seed in range(4000)]
    theirs = [TraceIdRatioBased(ratio).should_sample(None, draw, "x").decision is Decision.RECORD_AND_SAMPLE
              for draw in draws]
    ours = [context.Sampler(ratio, lambda _, draw=draw: draw).sample(None) is not None for draw in draws]
    assert ours == theirs and abs(sum(ours) / len(ours) - ratio) < 0.03


def test_ids_have_their_form_and_are_never_zero() -> None:
    sampler = context.Sampler(1, lambda bits: 0)
    assert sampler.sample(None) is None and sampler.span_id() == f"{1:016x}"
    made = context.Sampler(1, lambda bits: 7).sample(None)
    assert made is not None and made.trace_id == f"{7:032x}"


def test_of_an_api_call_only_listed_facts_are_told() -> None:
    query = facts_of("query", {"tables": ["b", "a"], "rowCount": 3, "sql": "SELECT 'Anna'", "userId": "u"}, ())
    assert query == {"db.collection.name": "a, b", "db.response.returned_rows": 3}
    many = facts_of("query", {"tables": [f"t{number}" for number in range(100)]}, ())
    assert str(many["db.collection.name"]).count(",") == TABLES_MAX - 1
    fetched = {"host": "api.example.com", "httpMethod": "GET", "status": 404, "redirects": 2, "secrets": "key"}
    assert facts_of("fetch", fetched, ("api.example.com",)) == {
        "http.request.method": "GET", "http.response.status_code": 404, "apex_exec.fetch.redirects": 2,
        "server.address": "api.example.com"}
    assert facts_of("fetch", fetched, ("api.example.com:8443",))["server.address"] == "api.example.com"
    assert facts_of("storage.set", {"key": "Anna", "bytes": 3}, ()) == {}
    assert facts_of("fetch", {"httpMethod": "Anna"}, ()) == {}


def test_a_host_that_the_plugin_chose_below_a_wildcard_is_not_told() -> None:
    facts = {"host": "secret-of-anna.example.com", "httpMethod": "GET"}
    assert "server.address" not in facts_of("fetch", facts, ("*.example.com", "api.example.com"))


# ---------------------------------------------------------------------- bounds
def refuse(feed: trace_feed.TraceFeed, times: int) -> None:
    for _ in range(times):
        feed.refused(SAMPLED, "echo", "1.0.0", "onActionExecute", "OVERLOADED")


def test_records_that_find_no_room_are_counted_and_dropped() -> None:
    metrics = Metrics()
    feed = trace_feed.TraceFeed(
        Settings.model_validate({"traces": {"endpoint": "http://127.0.0.1:4318"}}), Loop(lambda _: None, None), metrics)
    refuse(feed, trace_feed.WAITING_SPANS_MAX // 2)
    assert metrics.get("trace_spans_total", ("dropped",)) == 0
    refuse(feed, 7)
    assert metrics.get("trace_spans_total", ("dropped",)) == 14


def test_the_process_drops_what_finds_no_room_and_sends_bounded_requests() -> None:
    waiting = process.Waiting()
    call = Call(TRACE, SPAN, 1)
    assert call.spans == 2
    assert waiting.put(Batch(0, [call] * (process.WAITING_SPANS_MAX // 2))) == 0
    assert waiting.put(Batch(0, [call] * 5)) == 10
    sizes = []
    waiting.end()
    while (taken := waiting.take()) is not None:
        sizes.append(sum(record.spans for record, _ in taken))
    assert sum(sizes) == process.WAITING_SPANS_MAX and max(sizes) == process.REQUEST_SPANS_MAX


# ---------------------------------------------------------------------- configuration
@pytest.mark.parametrize(("endpoint", "url"), [
    ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
    ("https://otel.example.com/", "https://otel.example.com/v1/traces"),
    ("https://otel.example.com/otlp/v1/traces", "https://otel.example.com/otlp/v1/traces"),
    ("http://[::1]:4318", "http://[::1]:4318/v1/traces")])
def test_an_endpoint_without_a_path_gets_that_of_otlp(endpoint: str, url: str) -> None:
    assert url_of(endpoint) == url


def check(traces: dict[str, Any]) -> None:
    check_settings(Settings.model_validate({"traces": traces}))


@pytest.mark.parametrize("endpoint", [
    "otel.example.com:4318", "grpc://otel.example.com", "https://", "https://me:secret@otel.example.com",
    "https://otel.example.com/?key=secret", "https://otel.example.com:port", "https://otel.example.com/a b"])
def test_an_endpoint_that_is_none_or_would_show_a_secret_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"^traces\.endpoint: ") as refused:
        check({"endpoint": endpoint})
    assert "secret@" not in str(refused.value) and "key=" not in str(refused.value)


def headers(folder: Path, text: str, mode: int = 0o600) -> str:
    file = folder / "headers"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_headers_are_read_from_their_file(tmp_path: Path) -> None:
    path = headers(tmp_path, "# ours\nAuthorization: Bearer a b\n\nx-tenant:7 \n")
    assert read_headers(path) == {"authorization": "Bearer a b", "x-tenant": "7"}
    assert read_headers("") == {}
    check({"endpoint": "https://otel.example.com", "headers_file": path})


@pytest.mark.parametrize(("text", "says"), [
    ("Authorization Bearer secret", "line 1 of .* is not a header"),
    ("a: b\nx: secret\x01", "line 2 of .* is not a header"), ("x: secret\u00e9", "is not a header"),
    ("Content-Type: secret", "which the exporter sets itself"), ("x: 1\nX: secret", "which an earlier line sets"),
    ("\n".join(f"x{number}: secret" for number in range(33)), "more than 32 headers"),
    ("x: " + "secret" * 20_000, "more than 65536 bytes")])
def test_a_file_of_headers_that_is_wrong_is_refused_without_a_value(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        read_headers(headers(tmp_path, text))
    assert "secret" not in str(refused.value)


def test_headers_that_others_could_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="may be read by others .mode 0644.; run: chmod o-rwx"):
        read_headers(headers(tmp_path, "a: b", 0o644))
    assert read_headers(headers(tmp_path, "a: b", 0o640)) == {"a": "b"}
    with pytest.raises(ConfigError, match="not a regular file"):
        read_headers("/dev/null")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_headers(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^traces\.headers_file: its headers would go .* in plain text"):
        check({"endpoint": "http://otel.example.com:4318", "headers_file": headers(tmp_path, "a: b")})
    check({"endpoint": "http://127.0.0.1:4318", "headers_file": headers(tmp_path, "a: b")})


def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    certificate, key = map(str, certificate_for(tmp_path, "localhost"))
    url = {"endpoint": "https://localhost:4318"}
    check({**url, "ca_file": certificate, "tls_certificate": certificate, "tls_key": key})
    with pytest.raises(ConfigError, match=r"^traces\.ca_file: no certificate can be read from"):
        check({**url, "ca_file": key})
    with pytest.raises(ConfigError, match=r"^traces\.tls_certificate: .* cannot be used"):
        check({**url, "tls_certificate": certificate})
    with pytest.raises(ConfigError, match=r"^traces\.tls_key is set without"):
        check({**url, "tls_key": key})
    with pytest.raises(ConfigError, match="are for https"):
        check({"endpoint": "http://localhost:4318", "ca_file": certificate})
