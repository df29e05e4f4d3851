"""What every server of ours decides before it listens for people or programs: who can reach it, and by which TLS.

``key`` is the section of the configuration, so that an error names the key to change.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence

from apex_exec.errors import ConfigError

BACKLOG = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_proxy(address: str, key: str) -> None:
    """Raises ConfigError unless ``address`` is an IP address, by which a proxy is recognized."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ConfigError(f"{key}.trusted_proxy: {address!r} is not an IP address; write the address that the "
                          "proxy connects from") from None


def forwarded_for(lines: Sequence[str]) -> str:
    """Who asked a proxy, by the lines of its X-Forwarded-For; "?" if that is not said.

    Only the last address is the proxy's own word. Some proxies add it to the line that the client sent, and others add
    a line of their own."""
    return ",".join(lines).rpartition(",")[2].strip()[:64] or "?"


def forwarded_by_https(lines: Sequence[str]) -> bool:
    """Whether every line of X-Forwarded-Proto says https: one of several may be the client's own."""
    return bool(lines) and all(word.strip().lower() == "https" for word in ",".join(lines).split(","))


def tls_of(certificate: str, private_key: str, key: str) -> ssl.SSLContext | None:
    """TLS 1.2 or later with these PEM files, None if there are none. Raises ConfigError."""
    if not certificate and not private_key:
        return None
    if not certificate or not private_key:
        raise ConfigError(f"{key}.tls_certificate and {key}.tls_key are only useful together; set both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{key}.tls_certificate: {certificate} with {private_key} cannot be used: "
                          f"{error.strerror or error}; name a certificate in PEM and its own private key") from None
    return context


def listen(host: str, port: int, key: str) -> socket.socket:
    """A listening TCP socket that does not block. Raises ConfigError."""
    try:
        family, *_, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(at)
        made.listen(BACKLOG)
        made.setblocking(False)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{key}.address: cannot listen on {host}:{port}: "
                          f"{getattr(error, 'strerror', None) or error}; choose another address") from None
    return made
