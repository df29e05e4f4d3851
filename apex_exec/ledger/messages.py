"""What the supervisor and the ledger process say to each other. Records are numbered by the supervisor."""

from __future__ import annotations

from typing import Any

import msgspec


class Batch(msgspec.Struct, array_like=True, tag="batch", gc=False):
    """To the ledger: the records up to ``last_index``. ``lines`` are encoded records, or executions as their values;
    ``keys`` are (place among the lines, dedup_key) of those that have one."""

    last_index: int
    lines: list[Any]
    keys: list[Any]


class Ready(msgspec.Struct, array_like=True, tag="ready"):
    """From the ledger: it can write, and has everything up to ``last_index``."""

    last_index: int


class Committed(msgspec.Struct, array_like=True, tag="committed", gc=False):
    """Everything up to ``last_index`` is durable. ``cpu_ns`` is the CPU time that this took since the last such
    message, reading the batches included."""

    last_index: int
    cpu_ns: int = 0


class Failing(msgspec.Struct, array_like=True, tag="failing"):
    """It cannot write now, and tries again by itself."""

    reason: str


class Recovered(msgspec.Struct, array_like=True, tag="recovered"):
    """It writes again."""


class Warned(msgspec.Struct, array_like=True, tag="warning"):
    """Something that an operator should know."""

    text: str


class Stats(msgspec.Struct, array_like=True, tag="stats"):
    """Its figures, about once a second."""

    database_bytes: int
    free_bytes: int
    events: int
