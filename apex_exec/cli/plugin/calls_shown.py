"""What a plugin's calls were, from the ledger, for ``plugin dev``: each hook with its outcome and time, and what it
asked the platform to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from apex_exec.cli.output import say
from apex_exec.client import AdminClient, CallError, ConnectionLost
from apex_exec.ledger.records import API_EVENTS

PAGE = 200
POLL_SECONDS = 0.5
REFUSED_EVENTS = ("access.denied", "security.rate_limit")
"""The types of calls of the API that were refused."""
NAMES = ("event", "component", "table", "host", "key", "method", "effects", "code", "reason")
"""Members of a record's metadata that say what a call of the API was about."""


class CallsShown:
    """Follows the ledger of one daemon, in a thread: what reads the daemon's log may not wait for the daemon."""

    def __init__(self, endpoint: str, plugin: str) -> None:
        self._endpoint = endpoint
        self._plugin = plugin
        self._after = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> CallsShown:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                with AdminClient(self._endpoint) as admin:
                    events, self._after = admin.read_audit(self._after, PAGE, plugin=self._plugin)
            except (CallError, ConnectionLost):  # a daemon that does not answer says why in its own log
                continue
            for line in lines(events):
                say(line, flush=True)


def lines(events: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each call of a hook, and one before it for each call that the hook made."""
    for event in events:
        metadata = event.get("metadata") or {}
        if event["eventType"] == "plugin.execution":
            code, took = metadata.get("code", ""), metadata.get("executionTimeMs")
            after = "" if took is None else f" {'after' if code else 'in'} {took:.1f} ms"
            yield f"[call] {event['action']}: {code or 'answered'}{after}"
        elif event["eventType"] in (*API_EVENTS, *REFUSED_EVENTS):
            about = ", ".join(f"{name} {metadata[name]}" for name in NAMES if metadata.get(name))
            yield f"[call]   {event['action']}: {event['result']}{f' ({about})' if about else ''}"
