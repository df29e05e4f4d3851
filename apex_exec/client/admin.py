"""A blocking client of the admin endpoint: one operation at a time. The command line is made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from apex_exec.client import discovery
from apex_exec.client.sync import Client

ADMIN_TIMEOUT_MS = 10_000
"""For an operation that only reads or writes the registry; those that run plugin code name a longer one."""
ADMIN_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""What this client sends at most; the daemon's own limit answers first."""


PART_BYTES = 2 * 1024 * 1024
"""A larger bundle is sent in parts of this size."""


class AdminClient:
    """One connection to the admin endpoint, looked for where none is named. A context manager; or ``close`` it."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._client = Client(endpoint or discovery.find("admin"), max_message_bytes=ADMIN_MESSAGE_BYTES_MAX)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection. Safe to call twice."""
        self._client.close()

    def request(self, op: str, args: Mapping[str, Any] | None = None, timeout_ms: float = ADMIN_TIMEOUT_MS, *,
                actor: Mapping[str, Any] | None = None) -> Any:
        """The result of one operation; blocks for at most ``timeout_ms``. A delegate names the person for whom it asks
        as ``actor`` ``{"name": …, "roles": […]}``; the person's roles then decide.

        ``request("ops")`` is the table of operations, each with its schema. Raises CallError (AdminRefused where the
        operation was refused, with nothing changed) and ConnectionLost.
        """
        message: dict[str, Any] = {"type": "admin", "op": op, "args": dict(args or {})}
        if actor is not None:
            message["actor"] = dict(actor)
        return self._client.request(message, timeout_ms).get("result")

    def with_bundle(self, args: Mapping[str, Any], timeout_ms: float = ADMIN_TIMEOUT_MS) -> dict[str, Any]:
        """``args`` as they are; or, if their ``bundle`` is too large for one message, with an ``upload`` in its place,
        whose parts were sent. ``timeout_ms`` is for each part."""
        data = args.get("bundle")
        if not isinstance(data, bytes) or len(data) <= PART_BYTES:
            return dict(args)
        digest = hashlib.sha256(data).hexdigest()
        for offset in range(0, len(data), PART_BYTES):
            self.request("plugin.upload", {"digest": digest, "offset": offset,
                                           "bytes": data[offset : offset + PART_BYTES]}, timeout_ms)
        return {**{key: value for key, value in args.items() if key != "bundle"}, "upload": digest}

    def read_audit(self, after_seq: int = 0, limit: int = 100, **filter_: Any) -> tuple[list[dict[str, Any]], int]:
        """The ledger's events after ``after_seq``, oldest first, and the ``after_seq`` of the next call: a cursor.

        ``filter_`` narrows by ``plugin``, ``user``, ``type``, ``result`` or ``text``. Blocks for at most
        ADMIN_TIMEOUT_MS. Raises CallError and ConnectionLost.
        """
        page = self.request("audit.read", {"afterSeq": after_seq, "limit": limit, "filter": filter_})
        return page["events"], page["next"]

    def ping(self, timeout_ms: float = ADMIN_TIMEOUT_MS) -> None:
        """Returns when the daemon has answered; blocks for at most ``timeout_ms``. Raises ConnectionLost."""
        self._client.request({"type": "ping"}, timeout_ms)
