"""What the supervisor says to the exporter process, which says nothing."""

from __future__ import annotations

from typing import Any

import msgspec


class Beat(msgspec.Struct, array_like=True, tag="beat"):
    """The supervisor's loop turns."""


class Series(msgspec.Struct, array_like=True, tag="series"):
    """Series that have changed: each (metric, labels, value), a histogram's value as [sum, count of each bucket …]."""

    rows: list[tuple[str, tuple[str, ...], Any]]


class Forget(msgspec.Struct, array_like=True, tag="forget"):
    """A plugin was removed; its series go."""

    plugin: str


class Health(msgspec.Struct, array_like=True, tag="health"):
    """Why `/readyz` says no, by part; "" for a part that is well."""

    reasons: dict[str, str]
