"""Host protocol, version 1: one typed struct for each message, decoded once at the edge.

Field names are snake_case here and camelCase on the wire; unknown keys are ignored. Bodies that are only forwarded stay
undecoded MessagePack (``msgspec.Raw``).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from apex_exec.catalogue.limits import LIMITS, type_of

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Id = Number | Annotated[str, Meta(min_length=1, max_length=64)]
"""A request's id. The host chooses it; it is unique among the connection's pending requests."""

Action = Annotated[str, Meta(max_length=100)]
DeadlineMs = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""Milliseconds from now. The plugin's own limit is the maximum, so any large number means that limit."""


class Request(msgspec.Struct, rename="camel", tag_field="type", kw_only=True, gc=False):
    """The base of all messages that a host sends."""


class Hello(Request, tag="hello"):
    """Asks for the daemon's version, level and limits. Optional."""

    id: Id
    protocol: Annotated[list[Number], Meta(max_length=64)]
    client: str | None = None


class Plugins(Request, tag="plugins"):
    """Asks for the enabled plugins; with ``user_id``, for those of one user."""

    id: Id
    user_id: str | None = None


class PingRequest(Request, tag="ping"):
    """Is answered with ``pong`` at once."""

    id: Id


class Invoke(Request, tag="invoke"):
    """Calls one hook of one plugin. A missing payload means an empty map; null is invalid."""

    id: Id
    plugin: str
    action: Action
    user_id: str
    payload: Raw = Raw(b"\x80")
    deadline_ms: DeadlineMs | None = None
    traceparent: str | None = None


class Dispatch(Request, tag="dispatch"):
    """Sends one event to every enabled plugin that declares the hook, under one deadline."""

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
    """Declares that this connection serves these host methods from now on (DEALER only)."""

    id: Id
    methods: Annotated[list[str], Meta(max_length=256)]


class HostReply(Request, tag="hostReply"):
    """Answers a ``hostCall``. It gets no reply itself."""

    call_id: Number
    ok: bool
    result: Raw = Raw(b"\xc0")
    error: dict[str, Any] | None = None


class Actor(msgspec.Struct):
    """The person on whose behalf a delegate (a console, a door) asks, and the roles that the delegate knows of."""

    name: str
    roles: Annotated[list[str], Meta(max_length=16)]


class Admin(Request, tag="admin"):
    """One operation of the administration table, on the admin endpoint; on the hosts' ``audit.read`` alone.

    With ``actor``, the actor's roles decide instead of the peer's.
    """

    id: Id
    op: str
    args: dict[str, Any] | None = None
    actor: Actor | None = None


HostRequest = Hello | Plugins | PingRequest | Invoke | Dispatch | Cancel | Provide | HostReply | Admin


class Usage(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """What one invocation used, as measured by the supervisor; only ``cpu_ms`` is the worker's own reading.

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
    """The base of all messages that the daemon sends."""


class Pong(Answer, tag="pong"):
    """The answer to ``ping``."""

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
    """The answer to ``cancel``; ``found`` is false if the target was no longer pending."""

    id: Id
    target: Id
    found: bool


Limits: Any = msgspec.defstruct(
    "Limits", [*((name, type_of(name)) for name in LIMITS), ("max_message_bytes", int)], rename="camel", kw_only=True,
    namespace={"__doc__": "The platform's policy in ``welcome``."})


class Welcome(Answer, tag="welcome", omit_defaults=False):
    """The answer to ``hello``. ``runtimes`` are the languages whose plugins run here."""

    id: Id
    protocol: int
    server: str
    api_version: str
    isolation: str
    waived: list[str]
    runtimes: list[str]
    hooks: list[str]
    limits: Limits


class PluginEntry(msgspec.Struct, rename="camel", kw_only=True):
    """One plugin in ``plugins``."""

    id: str
    version: str
    hooks: list[str]
    state: str


class PluginList(Answer, tag="plugins", omit_defaults=False):
    """The answer to ``plugins``: the enabled plugins, or those enabled for the user that the request names."""

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
    """The outcome of one plugin in a dispatch."""

    plugin: str
    ok: bool
    effects: list[Any]
    usage: Usage
    result: Any = msgspec.UNSET
    error: OutcomeError | msgspec.UnsetType = msgspec.UNSET


class Dispatched(Answer, tag="dispatched", omit_defaults=False):
    """The answer to ``dispatch``; ``partial`` is true if a plugin failed."""

    id: Id
    action: str
    result: Any
    outcomes: list[Outcome]
    partial: bool


class Provided(Answer, tag="provided", omit_defaults=False):
    """The answer to ``provide``: the methods that this connection serves now, and those that another connection serves
    and for which it is on standby."""

    id: Id
    methods: list[str]
    standby: list[str]


class HostCall(Answer, tag="hostCall", omit_defaults=False):
    """Calls the connection that provides ``method``; it answers with ``hostReply``."""

    call_id: int
    method: str
    params: Raw
    plugin: str
    user_id: str
    deadline_ms: int


class AdminResult(Answer, tag="adminResult", omit_defaults=False):
    """The answer to ``admin``."""

    id: Id
    op: str
    result: Any
