"""A daemon for the cases of the daemon's side, with the plugins that they call and what these may do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).parent / "plugins"
POLICY = '''allow = ["ui:render"]

[plugin.conformance]
allow = ["admin:users", "events:emit", "network:fetch", "ui:render"]
'''
"""What a daemon's ``security.policy_file`` has to say, so that every case can be tried."""


@contextlib.contextmanager
def own_daemon(config: dict[str, Any] | None = None) -> Iterator[str]:
    """Starts one in a temporary folder, with ``config`` added; its endpoint. Raises DaemonFailed."""
    from apex_exec.testing import Daemon

    # Plugins fail on purpose, one after another: no breaker may answer instead, and none may be paused for its share.
    daemon = Daemon(plugins_dir=PLUGINS, config={
        "audit.min_free_bytes": 0, "fetch.allow": ["api.example.com"], "limits.cpu_percent": 100,
        "breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.01,
        **(config or {})})
    policy = daemon.folder / "policy.toml"
    policy.write_text(POLICY)
    daemon.configure({"security.policy_file": str(policy)})
    with daemon:
        yield daemon.endpoint
