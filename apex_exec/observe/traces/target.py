"""Where spans go: the endpoint's URL, its authorities, and the headers whose values are secrets, from their files."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apex_exec.errors import ConfigError

if TYPE_CHECKING:
    from apex_exec.config import TracesSection

PATH = "/v1/traces"
"""What OTLP over HTTP has for spans; added to an endpoint without a path."""
HEADERS_BYTES_MAX = 65_536
HEADERS_MAX = 32
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~]([ -~]*[!-~])?)[ \t]*")
_OURS = frozenset(("connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"))


def url_of(endpoint: str) -> str:
    """The URL that spans are posted to. Raises ConfigError."""
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"traces.endpoint: {error}; write https://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not endpoint.isprintable() or " " in endpoint:
        raise ConfigError("traces.endpoint: this is not a URL of OTLP over HTTP; write https://HOST:PORT or "
                          "http://HOST:PORT, usually with port 4318")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError("traces.endpoint: a name, a password or a query in the URL would be in logs; write secrets "
                          "into the file of traces.headers_file")
    return parts._replace(path=PATH if parts.path in ("", "/") else parts.path).geturl()


def is_loopback(endpoint: str) -> bool:
    """Whether the endpoint is on this machine, so that nobody can listen in."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_headers(path: str) -> dict[str, str]:
    """The headers in ``path``, ``Name: value`` on each line; nothing without a path. Raises ConfigError, whose text has
    no value in it."""
    if not path:
        return {}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            data = file.read(HEADERS_BYTES_MAX + 1) if stat.S_ISREG(info.st_mode) else b""
    except OSError as error:
        raise ConfigError(f"traces.headers_file: {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"traces.headers_file: {path} is not a regular file")
    if info.st_mode & stat.S_IRWXO:
        raise ConfigError(f"traces.headers_file: {path} may be read by others (mode "
                          f"{stat.S_IMODE(info.st_mode):04o}); run: chmod o-rwx {path}")
    if len(data) > HEADERS_BYTES_MAX:
        raise ConfigError(f"traces.headers_file: {path} has more than {HEADERS_BYTES_MAX} bytes")
    headers: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _HEADER.fullmatch(line)
        if found is None:
            raise ConfigError(f"traces.headers_file: line {number} of {path} is not a header; write NAME: VALUE, in "
                              "ASCII")
        name = found[1].lower()
        if name in _OURS or name in headers:
            raise ConfigError(f"traces.headers_file: line {number} of {path} sets {name!r}, which "
                              f"{'the exporter sets itself' if name in _OURS else 'an earlier line sets'}; remove it")
        headers[name] = found[2]
    if len(headers) > HEADERS_MAX:
        raise ConfigError(f"traces.headers_file: {path} has more than {HEADERS_MAX} headers")
    return headers


def check_target(section: TracesSection) -> None:
    """Raises ConfigError if nothing could be delivered as ``section`` asks for, or a secret would go out in plain
    text."""
    url = url_of(section.endpoint)
    is_plain = url.startswith("http:")
    if is_plain and not is_loopback(url) and read_headers(section.headers_file):
        raise ConfigError("traces.headers_file: its headers would go over the network in plain text; write https in "
                          "traces.endpoint")
    if is_plain and (section.ca_file or section.tls_certificate or section.tls_key):
        raise ConfigError("traces.ca_file, traces.tls_certificate and traces.tls_key are for https; write https in "
                          "traces.endpoint, or remove them")
    read_headers(section.headers_file)
    if section.tls_key and not section.tls_certificate:
        raise ConfigError("traces.tls_key is set without traces.tls_certificate; name the file with the certificate")
    import ssl  # OpenSSL's library is for those who need it

    context = ssl.create_default_context()
    try:
        if section.ca_file:
            context.load_verify_locations(cafile=section.ca_file)
    except OSError as error:  # an SSLError is one, too
        raise ConfigError(f"traces.ca_file: no certificate can be read from {section.ca_file}: {error}; name a file in "
                          "PEM") from None
    try:
        if section.tls_certificate:
            context.load_cert_chain(section.tls_certificate, section.tls_key or None, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(f"traces.tls_certificate: {section.tls_certificate} cannot be used: {error}; name files in "
                          "PEM, with a key that has no password") from None
