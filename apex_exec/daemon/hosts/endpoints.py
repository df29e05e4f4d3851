"""Binding the two endpoints: ipc with the right owner and mode from the first moment, tcp with CURVE (``tcp_hosts``) or
not at all."""

from __future__ import annotations

import errno
import os

from apex_exec.config import Settings
from apex_exec.daemon.hosts.connections import REFUSED_FACTOR, Connections, Open
from apex_exec.daemon.hosts.stream_peers import StreamPeers
from apex_exec.daemon.runtime_folder import RuntimeFolder
from apex_exec.errors import ConfigError


def open_local(settings: Settings, connections_max: int) -> Open:
    """Hosts on this machine: unix sockets, served by the loop itself, no more than ``connections_max``."""
    bytes_max = REFUSED_FACTOR * settings.host.max_message_bytes
    return lambda loop, events: StreamPeers(loop, events, bytes_max, connections_max)


def bind(connections: Connections, endpoint: str, folder: RuntimeFolder, key: str) -> None:
    """Serves ``endpoint``; nobody but us can connect before mode and group are set. Raises ConfigError."""
    folder.sweep(endpoint)
    old = os.umask(0o177)
    try:
        connections.bind(endpoint)
    except OSError as error:
        hint = "; another process serves it" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"{key}: {endpoint}: {error.strerror}{hint}") from None
    finally:
        os.umask(old)
    folder.bound(endpoint, key)
