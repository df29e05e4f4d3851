"""Where the console is, under which names, and who may reach it: decided once, from the configuration."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from apex_exec.common.listening import check_proxy, is_loopback, tls_of
from apex_exec.config import Settings
from apex_exec.errors import ConfigError


class Place(NamedTuple):
    """``host`` and ``port`` to listen on; ``scheme`` and ``names`` (Host headers) as browsers see it."""

    host: str
    port: int
    scheme: str
    names: frozenset[str]
    proxy: str
    tls: ssl.SSLContext | None

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by https, so that its cookie may be Secure."""
        return self.scheme == "https"

    def at(self, port: int) -> Place:
        """The same once the port is known that a free one was asked for."""
        names = frozenset(f"{name.rpartition(':')[0]}:{port}" if name.endswith(":0") else name for name in self.names)
        return self._replace(port=port, names=names)

    def origin(self) -> str:
        """The address to open it by: a name that was configured if there is one, else where it listens."""
        own = self._own()
        named = sorted(self.names - own)
        return f"{self.scheme}://{named[0] if named else sorted(own & self.names)[0]}"

    def _own(self) -> frozenset[str]:
        return frozenset(_names(self.host, self.port))


def place_of(settings: Settings) -> Place:
    """The place by the configuration. Raises ConfigError where it would be open to others unprotected."""
    section = settings.console
    host, _, number = section.address.rpartition(":")
    host, port = host.strip("[]"), int(number)
    tls = tls_of(section.tls_certificate, section.tls_key, "console")
    loopback = is_loopback(host)
    if section.trusted_proxy:
        check_proxy(section.trusted_proxy, "console")
        if not section.hosts:
            raise ConfigError("console.trusted_proxy: name in console.hosts the host that people type to reach the "
                              "proxy, as [\"console.example.com\"]")
    elif not loopback and tls is None:
        raise ConfigError(f"console.address: {section.address} can be reached from other machines, and what passes "
                          "would be readable: set console.tls_certificate and console.tls_key, or console.trusted_proxy"
                          " with a proxy that speaks https, or use 127.0.0.1")
    if not loopback and not section.hosts:
        raise ConfigError("console.hosts: name the hosts that people type, as [\"console.example.com:9465\"]: requests "
                          "for any other name are refused")
    names = {name.lower() for name in section.hosts}
    if loopback and not section.trusted_proxy:
        names.update(_names(host, port))
    scheme = "https" if tls is not None or section.trusted_proxy else "http"
    return Place(host, port, scheme, frozenset(names), section.trusted_proxy, tls)


def folder_of(settings: Settings) -> Path:
    """The folder of the socket by which `apex-exec console link` reaches a running console."""
    if settings.console.runtime_dir:
        return Path(settings.console.runtime_dir)
    runtime = settings.runtime_path
    return runtime.with_name(f"{runtime.name}-console")


def _names(host: str, port: int) -> list[str]:
    shown = f"[{host}]" if ":" in host else host
    return [f"{shown}:{port}", *([f"localhost:{port}"] if is_loopback(host) else [])]
