"""A receiver of traces: an HTTP server that reads what the OpenTelemetry project's own protobuf definitions say."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

ERROR = Status.STATUS_CODE_ERROR


class Seen(NamedTuple):
    """One span as it was received; times are Unix nanoseconds, ids hexadecimal digits."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begun_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    failed: str
    resource: dict[str, Any]


def _plain(attributes: list[KeyValue]) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class Receiver:
    """Collects requests. ``status`` is the answer to each; ``location`` makes it a redirect."""

    def __init__(self) -> None:
        self.status = 200
        self.location = ""
        self.url = ""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.spans: list[Seen] = []

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Keeps one request, and reads its spans. Raises DecodeError."""
        self.paths.append(path)
        self.headers.append(headers)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for of_resource in request.resource_spans:
            resource = _plain(list(of_resource.resource.attributes))
            for of_scope in of_resource.scope_spans:
                assert of_scope.scope.name == "apex_exec"
                self.spans += [Seen(
                    span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
                    span.start_time_unix_nano, span.end_time_unix_nano, _plain(list(span.attributes)),
                    span.status.message if span.status.code == ERROR else "", resource) for span in of_scope.spans]

    def one(self, name: str, **attributes: Any) -> Seen:
        """The one span of this name that has these attributes, written with ``_`` for ``.``."""
        (found,) = self.all(name, **attributes)
        return found

    def all(self, name: str, **attributes: Any) -> list[Seen]:
        """All such spans."""
        return [span for span in self.spans if span.name == name and all(
            {key.replace(".", "_"): value for key, value in span.attributes.items()}.get(key) == value
            for key, value in attributes.items())]

    def below(self, parent: Seen) -> dict[str, Seen]:
        """The children of ``parent`` by name."""
        return {span.name: span for span in self.spans if span.parent_id == parent.span_id}


@contextmanager
def receiving(tls: tuple[Path, Path] | None = None, clients: Path | None = None) -> Iterator[Receiver]:
    """A receiver at ``url``; with ``tls`` (certificate, key) by https, with ``clients`` only for holders of that
    certificate."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(receiver.status)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cafile=clients)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'http://127.0.0.1' if tls is None else 'https://localhost'}:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
