"""The trace that a call belongs to, as its ``traceparent`` says (W3C Trace Context), and whether the call is traced.

A call that came with a ``traceparent`` is traced if its sampled flag is set, and not otherwise: the host has decided.
Of the other calls a share is traced, by the trace's number, as OpenTelemetry's ``TraceIdRatioBased`` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

CHARS_MAX = 64
"""How much of a ``traceparent`` is looked at. One of version 00 has 55 characters, and a later version may append to
them."""
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 1
IDS = 1 << 64
"""The ratio is compared with the lower 64 bits of a trace's number."""


class Context(NamedTuple):
    """``parent_id`` is the host's span, "" if the trace begins here."""

    trace_id: str
    parent_id: str


def read(traceparent: str) -> tuple[Context, bool] | None:
    """The context, and whether the host samples it. None if this is not a ``traceparent``: it is then ignored, as the
    standard asks."""
    found = _FORM.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Context(trace_id, parent_id), bool(int(flags, 16) & SAMPLED)


class Sampler:
    """``ratio`` is the share of the calls without a ``traceparent`` that are traced, and may be changed at any time;
    ``random_bits(n)`` returns a number of n random bits."""

    def __init__(self, ratio: float, random_bits: Callable[[int], int]) -> None:
        self.ratio = ratio
        self._random_bits = random_bits

    def sample(self, traceparent: str | None) -> Context | None:
        """The context of a call that is traced, None for one that is not."""
        if traceparent and (found := read(traceparent[:CHARS_MAX])) is not None:
            context, sampled = found
            return context if sampled else None
        if not self.ratio:
            return None
        number = self._random_bits(128)
        if number % IDS >= self.ratio * IDS or not number:
            return None
        return Context(f"{number:032x}", "")

    def span_id(self) -> str:
        """The number of a new span, in hexadecimal digits, never 0."""
        return f"{self._random_bits(64) or 1:016x}"
