"""Finds the daemon that a verb talks to. Without one the command ends with status 3 and names where it looked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apex_exec.cli.root import EXIT_NO_DAEMON, fail

if TYPE_CHECKING:
    from apex_exec.client import AdminClient, Client
    from apex_exec.config import Settings

CONNECT_MS = 1000
"""How long a daemon on this machine may take to answer; a socket file without a daemon fails after this time."""


def settings_for(config: Path | None, runtime_dir: str | None) -> Settings:
    """The daemon's settings, from the configuration and the flag. Raises ConfigError."""
    from apex_exec.config import load_settings

    return load_settings(config, {"runtime_dir": runtime_dir} if runtime_dir else None)


def is_running(config: Path | None, runtime_dir: str | None) -> bool:
    """Whether a daemon's admin socket exists where the options name it, or else in the usual folders of this user."""
    from apex_exec.client.discovery import look
    from apex_exec.config import runtime_candidates

    settings = settings_for(config, runtime_dir)
    if settings.admin.endpoint:
        return True
    tried = [settings.runtime_path] if settings.runtime_dir else runtime_candidates()
    return bool(look("admin", tried, any_owner=bool(settings.runtime_dir))[0])


def endpoint(socket: str, config: Path | None, runtime_dir: str | None) -> str:
    """Where ``socket`` ("host" or "admin") of a running daemon is."""
    from apex_exec.client.discovery import look
    from apex_exec.config import runtime_candidates

    settings = settings_for(config, runtime_dir)
    configured = settings.host.endpoint if socket == "host" else settings.admin.endpoint
    if configured:
        return configured
    tried = [settings.runtime_path] if settings.runtime_dir else runtime_candidates()
    found, passed = look(socket, tried, any_owner=bool(settings.runtime_dir))
    if found:
        return found
    hint = passed or "; start one with `apex-exec serve`, or name its folder with --runtime-dir"
    fail(f"no daemon: looked for {socket}.sock in {', '.join(map(str, tried))}{hint}", EXIT_NO_DAEMON)


def host(config: Path | None, runtime_dir: str | None) -> Client:
    """A client of the host endpoint, connected. Raises ConfigError, ConnectionLost."""
    from apex_exec.client import Client

    client = Client(endpoint("host", config, runtime_dir))
    client.request({"type": "ping"}, CONNECT_MS)
    return client


def admin(config: Path | None, runtime_dir: str | None) -> AdminClient:
    """A client of the admin endpoint, connected. Raises ConfigError, ConnectionLost."""
    from apex_exec.client import AdminClient

    client = AdminClient(endpoint("admin", config, runtime_dir))
    client.ping(CONNECT_MS)
    return client
