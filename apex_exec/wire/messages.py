"""Host protocol, version 1: one typed struct a message. Decoded once, at the edge.

Field names are snake_case here and camelCase on the wire; unknown keys are ignored. Bodies that are only
forwarded stay undecoded MessagePack (``msgspec.Raw``).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from apex_exec.catalogue.limits import LIMITS, type_of

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Id = Number | Annotated[str, Meta(min_length=1, max_length=64)]
"""A request's id, chosen by the host, unique among its pending requests on that connection."""

Action = Annotated[str, Meta(max_length=100)]
DeadlineMs = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""Milliseconds from now; the plugin's own limit is the ceiling, so any large number means that one."""


class Request(msgspec.Struct, rename="camel", tag_field="type", kw_only=True, gc=False):
    """What a host sends."""


class Hello(Request, tag="hello"):
    """Asks for the daemon's version, level and limits. Optional."""

    id: Id
    protocol: Annotated[list[Number], Meta(max_length=64)]
    client: str | None = None


class Plugins(Request, tag="plugins"):
    """Asks for the enabled plugins, for one user where ``user_id`` is given."""

    id: Id
    user_id: str | None = None


class PingRequest(Request, tag="ping"):
    """Answered with ``pong`` at once."""

    id: Id


class Invoke(Request, tag="invoke"):
    """One hook of one plugin. An absent payload is an empty map; null is invalid."""

    id: Id
    plugin: str
    action: Action
    user_id: str
    payload: Raw = Raw(b"\x80")
    deadline_ms: DeadlineMs | None = None
    traceparent: str | None = None


class Dispatch(Request, tag="dispatch"):
    """One event to every enabled plugin that declares the hook, under one deadline."""

    id: Id
    action: Action
    user_id: str
    payload: Raw = Raw(b"\x80")
    deadline_ms: DeadlineMs | None = None
    traceparent: str | None = None


class Cancel(Request, tag="cancel"):
    """Ends the pending request ``target`` of the same connection; its own reply is CANCELLED."""

    id: Id
    target: Id


class Provide(Request, tag="provide"):
    """This connection serves those host methods from now on (DEALER only)."""

    id: Id
    methods: Annotated[list[str], Meta(max_length=256)]


class HostReply(Request, tag="hostReply"):
    """Answers a ``hostCall``. Gets no reply itself."""

    call_id: Number
    ok: bool
    result: Raw = Raw(b"\xc0")
    error: dict[str, Any] | None = None


class Actor(msgspec.Struct):
    """The person for whom a delegate (a console, a door) asks, and the roles that the delegate knows of."""

    name: str
    roles: Annotated[list[str], Meta(max_length=16)]


class Admin(Request, tag="admin"):
    """One operation of the administration table; on the admin endpoint only. With ``actor`` it is decided by the
    actor's roles instead of the peer's."""

    id: Id
    op: str
    args: dict[str, Any] | None = None
    actor: Actor | None = None


HostRequest = Hello | Plugins | PingRequest | Invoke | Dispatch | Cancel | Provide | HostReply | Admin


class Usage(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """What one invocation used. The supervisor's figures but for ``cpu_ms``, the worker's own reading.

    ``host_cpu_ms`` is what the daemon's own processes did for it beyond what an ordinary answer takes.
    """

    queue_ms: float = 0.0
    execution_time_ms: float = 0.0
    cpu_ms: float = 0.0
    memory_used_mb: float = 0.0
    throttled_ms: float = 0.0
    host_cpu_ms: float = 0.0
    cold: bool = False


class Answer(msgspec.Struct, rename="camel", tag_field="type", kw_only=True, gc=False, omit_defaults=True):
    """What the daemon sends."""


class Pong(Answer, tag="pong"):
    """Answer to ``ping``."""

    id: Id


class Result(Answer, tag="result"):
    """The hook returned. ``effects`` are what it asked the platform to do, in order."""

    id: Id
    plugin: str
    action: str
    result: Raw
    effects: list[Any]
    usage: Usage


class Error(Answer, tag="error"):
    """The request failed. ``started`` says whether plugin code may have run for it."""

    id: Id | None
    code: str
    message: str
    started: bool
    retryable: bool
    plugin: str | msgspec.UnsetType = msgspec.UNSET
    action: str | msgspec.UnsetType = msgspec.UNSET
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    usage: Usage | msgspec.UnsetType = msgspec.UNSET


class Cancelled(Answer, tag="cancelled"):
    """Answer to ``cancel``; ``found`` is false where the target was no longer pending."""

    id: Id
    target: Id
    found: bool


Limits: Any = msgspec.defstruct(
    "Limits", [*((name, type_of(name)) for name in LIMITS), ("max_message_bytes", int)], rename="camel", kw_only=True,
    namespace={"__doc__": "The platform's policy in ``welcome``."})


class Welcome(Answer, tag="welcome", omit_defaults=False):
    """Answer to ``hello``."""

    id: Id
    protocol: int
    server: str
    api_version: str
    isolation: str
    waived: list[str]
    hooks: list[str]
    limits: Limits


class PluginEntry(msgspec.Struct, rename="camel", kw_only=True):
    """One plugin in ``plugins``."""

    id: str
    version: str
    hooks: list[str]
    state: str


class PluginList(Answer, tag="plugins", omit_defaults=False):
    """Answer to ``plugins``: those enabled, for the user where one was named."""

    id: Id
    plugins: list[PluginEntry]


class OutcomeError(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Why one plugin of a dispatch failed."""

    code: str
    message: str
    started: bool
    retryable: bool
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Outcome(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """What came of one plugin of a dispatch."""

    plugin: str
    ok: bool
    effects: list[Any]
    usage: Usage
    result: Any = msgspec.UNSET
    error: OutcomeError | msgspec.UnsetType = msgspec.UNSET


class Dispatched(Answer, tag="dispatched", omit_defaults=False):
    """Answer to ``dispatch``; ``partial`` where a plugin failed."""

    id: Id
    action: str
    result: Any
    outcomes: list[Outcome]
    partial: bool


class Provided(Answer, tag="provided", omit_defaults=False):
    """Answer to ``provide``: the methods that this connection serves now, and those that another one serves, for which
    it stands by."""

    id: Id
    methods: list[str]
    standby: list[str]


class HostCall(Answer, tag="hostCall", omit_defaults=False):
    """Asks the connection that provides ``method``; it answers with ``hostReply``."""

    call_id: int
    method: str
    params: Raw
    plugin: str
    user_id: str
    deadline_ms: int


class AdminResult(Answer, tag="adminResult", omit_defaults=False):
    """Answer to ``admin``."""

    id: Id
    op: str
    result: Any


DaemonAnswer = (
    Welcome | PluginList | Pong | Result | Error | Dispatched | Cancelled | Provided | HostCall | AdminResult
)
