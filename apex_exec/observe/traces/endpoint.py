"""The receiver of spans, by OpenTelemetry's exporter for OTLP over HTTP. Runs in the process ``traces`` alone."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from apex_exec import __version__
from apex_exec.errors import ConfigError
from apex_exec.observe.traces.target import read_headers, url_of

log = logging.getLogger("apex_exec.traces")

REASON_CHARS_MAX = 300


class _Said(logging.Handler):
    """Keeps the first thing that the libraries say of a request, in place of a line of the log for each try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it if it is the first."""
        self.text = self.text or record.getMessage()


class Endpoint:
    """The receiver. Its files are read again whenever one of them has changed: secrets and certificates are replaced
    while we run."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._url = url_of(settings["endpoint"])
        self._files = [path for key in ("headers_file", "ca_file", "tls_certificate", "tls_key")
                       if (path := settings[key])]
        self._seen: list[tuple[int, int, int]] = []
        self._exporter: OTLPSpanExporter | None = None
        self._secrets: list[str] = []
        self._said = _Said()
        self._is_failing = False
        for name in ("opentelemetry", "urllib3", "requests"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self._said], False

    def send(self, spans: Sequence[ReadableSpan]) -> bool:
        """Whether the endpoint has taken them. Blocks for ``timeout_seconds`` at most. The first failure after a
        success is logged, and the first success after that."""
        self._said.text = ""
        try:
            taken = self._ready().export(spans) is SpanExportResult.SUCCESS
        except (ConfigError, OSError, ValueError) as error:
            taken, self._said.text = False, str(error)
        if taken and self._is_failing:
            log.warning("traces are delivered to %s again", self._url)
        elif not taken and not self._is_failing:
            log.warning("traces cannot be delivered to %s and are dropped until they can, which is tried all the time "
                        "(trace_spans_total counts them): %s", self._url, self._reason())
        self._is_failing = not taken
        return taken

    def _reason(self) -> str:
        text = self._said.text or "the endpoint did not say why"
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text if len(text) <= REASON_CHARS_MAX else text[:REASON_CHARS_MAX] + "…"

    def _ready(self) -> OTLPSpanExporter:
        """The exporter with the files as they are now. Raises ConfigError, OSError."""
        seen = [(info.st_ino, info.st_mtime_ns, info.st_size) for info in map(os.stat, self._files)]
        if self._exporter is None or seen != self._seen:
            self._exporter, old = None, self._exporter
            if old is not None:
                old.shutdown()
            self._exporter, self._seen = self._make(), seen
        return self._exporter

    def _make(self) -> OTLPSpanExporter:
        settings = self._settings
        system = ssl.get_default_verify_paths()
        headers = read_headers(settings["headers_file"])
        self._secrets = list(headers.values())
        session = requests.Session()
        session.trust_env = False  # no proxy of the environment, and no .netrc that would replace our Authorization
        session.max_redirects = 0  # a redirect would carry the headers elsewhere
        session.headers["User-Agent"] = f"apex-exec/{__version__}"
        return OTLPSpanExporter(
            self._url, settings["ca_file"] or system.cafile or system.capath, settings["tls_key"] or None,
            settings["tls_certificate"] or None, headers, settings["timeout_seconds"],
            Compression.Gzip if settings["compression"] == "gzip" else Compression.NoCompression, session)
