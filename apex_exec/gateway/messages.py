"""What the supervisor and the gateway process say to each other. Calls are numbered by the supervisor."""

from __future__ import annotations

from typing import Any

import msgspec


# ---------------------------------------------------------------------- to the gateway
class Call(msgspec.Struct, array_like=True, tag="call"):
    """One API call. ``due_ns`` is CLOCK_MONOTONIC, which all processes share."""

    id: int
    method: str
    plugin: str
    user_id: str
    tables: tuple[str, ...]
    hosts: tuple[str, ...]
    due_ns: int
    params: bytes
    share: float = 1.0
    """CPU seconds a second that the plugin may have of the gateway."""
    may_read: bool = False
    """Whether the plugin has data:read: a write that returns rows which were there before reads them."""
    secrets: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = ()
    """Of a fetch, what is added to its requests: (setting, header, the header's value, the secret, hosts) each."""
    is_traced: bool = False
    """Whether the answer is to say when a database or a server was at work."""


class Cancel(msgspec.Struct, array_like=True, tag="cancel", gc=False):
    """Nobody waits for this call any longer."""

    id: int


class Pass(msgspec.Struct, array_like=True, tag="pass", gc=False):
    """The answer to ``Hop``: how many milliseconds to wait before the request may be made, 0 if it may be made now."""

    id: int
    retry_ms: int


class Recorded(msgspec.Struct, array_like=True, tag="recorded"):
    """These records are durable in the ledger: they may leave the outbox."""

    ids: list[str]


class TenantsAsked(msgspec.Struct, array_like=True, tag="tenants"):
    """Which tenants a user has by ``via`` of ``data.tables``."""

    user_id: str
    due_ns: int


# ---------------------------------------------------------------------- from the gateway
class Done(msgspec.Struct, array_like=True, tag="done"):
    """The call's encoded result, and what its audit record says of it."""

    id: int
    value: bytes
    facts: dict[str, Any]
    work: tuple[int, int] | None = None
    """From when to when (CLOCK_MONOTONIC, ns) a database or a server was at work, if the call is traced."""


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """The call failed with one of the API's codes."""

    id: int
    code: str
    message: str = ""
    retry_after_ms: int = 0
    work: tuple[int, int] | None = None
    """As in ``Done``."""


class TenantsFound(msgspec.Struct, array_like=True, tag="tenants_found"):
    """The answer to ``TenantsAsked``: at most two tenants, or why they cannot be had."""

    user_id: str
    tenants: list[str]
    trouble: str = ""


class Hop(msgspec.Struct, array_like=True, tag="hop", gc=False):
    """The call would make one more request: redirects count like requests."""

    id: int


class Spent(msgspec.Struct, array_like=True, tag="spent", gc=False):
    """CPU time that the gateway has used for a plugin."""

    plugin: str
    cpu_ns: int


class Written(msgspec.Struct, array_like=True, tag="record"):
    """A write is committed in the platform's database; ``record_id`` is its record there, in the outbox."""

    record_id: str
    timestamp_ns: int
    event_type: str
    user_id: str
    plugin: str
    action: str
    metadata: dict[str, Any]
