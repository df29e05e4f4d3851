"""Where the door is, and who may reach it: decided once, from the configuration."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from apex_exec.common.listening import check_proxy, is_loopback, tls_of
from apex_exec.config import Settings
from apex_exec.errors import ConfigError


class Place(NamedTuple):
    """``host`` and ``port`` to listen on; ``proxy`` is the only peer that is answered ("": any)."""

    host: str
    port: int
    proxy: str
    tls: ssl.SSLContext | None

    def origin(self) -> str:
        """Its address, as a caller on this machine writes it."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls is not None else 'http'}://{shown}:{self.port}"


def place_of(settings: Settings) -> Place:
    """The place by the configuration. Raises ConfigError where tokens would pass in the clear."""
    section = settings.door
    host, _, number = section.address.rpartition(":")
    host = host.strip("[]")
    tls = tls_of(section.tls_certificate, section.tls_key, "door")
    if section.trusted_proxy:
        check_proxy(section.trusted_proxy, "door")
    elif not is_loopback(host) and tls is None:
        raise ConfigError(f"door.address: {section.address} can be reached from other machines, and tokens would pass "
                          "in the clear: set door.tls_certificate and door.tls_key, or door.trusted_proxy with a proxy "
                          "that speaks https, or use 127.0.0.1")
    return Place(host, int(number), section.trusted_proxy, tls)


def folder_of(settings: Settings) -> Path:
    """The door's own folder, with the answers that it keeps."""
    return Path(settings.door.state_dir) if settings.door.state_dir else settings.state_path / "door"
