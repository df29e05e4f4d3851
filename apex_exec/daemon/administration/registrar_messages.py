"""What the supervisor and the registrar process say to each other. Each numbers what it asks the other."""

from __future__ import annotations

from typing import Any

import msgspec

from apex_exec.core.plugin import PluginSpec
from apex_exec.ledger.records import AuditRecord


# ---------------------------------------------------------------------- to the registrar
class Op(msgspec.Struct, array_like=True, tag="op"):
    """One administrative operation, for the peer ``uid``."""

    number: int
    name: str
    args: dict[str, Any]
    uid: int


class Answered(msgspec.Struct, array_like=True, tag="answered"):
    """The answer to ``Ask``: a value, or what failed as ``{code, message, details}``."""

    number: int
    ok: bool
    value: Any


class NewSettings(msgspec.Struct, array_like=True, tag="settings"):
    """The whole configuration, which a reload has changed."""

    settings: dict[str, Any]


# ---------------------------------------------------------------------- from the registrar
class Done(msgspec.Struct, array_like=True, tag="done"):
    """The operation's result."""

    number: int
    result: Any


class Refused(msgspec.Struct, array_like=True, tag="refused"):
    """The operation was refused, or failed."""

    number: int
    code: str
    message: str
    details: dict[str, Any]


class Snapshot(msgspec.Struct, array_like=True, tag="snapshot"):
    """A part of all that the registry wants served; ``last`` in the last part. Each spec is encoded for itself."""

    specs: list[msgspec.Raw]
    last: bool


class Specs(msgspec.Struct, array_like=True, tag="specs"):
    """What has become of some plugins; the others stay."""

    specs: list[msgspec.Raw]


class Removed(msgspec.Struct, array_like=True, tag="removed"):
    """The registry wants this plugin served no longer."""

    plugin: str


class SettingsOf(msgspec.Struct, array_like=True, tag="settings_of"):
    """What is set for a plugin, owner by owner: (scope, owner, values in MessagePack). ``whole``: in place of all that
    was sent before. ``locked`` is why some of its secrets cannot be read, or ""."""

    plugin: str
    sets: list[tuple[str, str, bytes]]
    whole: bool
    locked: str = ""


class SettingsTold(msgspec.Struct, array_like=True, tag="settings_told"):
    """Of all plugins only these have values."""

    plugins: list[str]


class Ready(msgspec.Struct, array_like=True, tag="ready"):
    """The first snapshot is complete. ``count`` is how many specs it had."""

    count: int


class Health(msgspec.Struct, array_like=True, tag="health"):
    """Why the registry is not well; "" if it is."""

    reason: str


class LedgerHealth(msgspec.Struct, array_like=True, tag="ledger"):
    """Why the ledger's head could not be compared with the one that was noted; "" if it could."""

    reason: str


class ChainHealth(msgspec.Struct, array_like=True, tag="chain"):
    """Why the ledger cannot be shipped to where several daemons' ledgers are billed; "" if it can."""

    reason: str


class Metric(msgspec.Struct, array_like=True, tag="metric"):
    """Adds to a counter, or sets a gauge."""

    name: str
    labels: tuple[str, ...]
    value: float


class Audit(msgspec.Struct, array_like=True, tag="audit"):
    """One record for the ledger."""

    record: AuditRecord


class Spent(msgspec.Struct, array_like=True, tag="spent"):
    """CPU time that the registrar has used for a plugin."""

    plugin: str
    cpu_ns: int


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """Has the supervisor do something in a jailed worker (``jail_requests``)."""

    number: int
    kind: str
    params: dict[str, Any]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PluginSpec).decode


def encoded(specs: list[PluginSpec]) -> list[msgspec.Raw]:
    """``specs``, each for itself."""
    return [msgspec.Raw(_encode(spec)) for spec in specs]


def decoded(spec: msgspec.Raw) -> PluginSpec:
    """One of them. Raises msgspec.DecodeError."""
    return _decode(spec)


def id_of(spec: msgspec.Raw) -> str:
    """The id of a spec that cannot be decoded; "" if it has none."""
    try:
        found = msgspec.msgpack.decode(spec)
    except msgspec.DecodeError:
        return ""
    return str(found.get("id", "")) if isinstance(found, dict) else ""
