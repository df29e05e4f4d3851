"""The one way in which what is signed is written as JSON: equal values are equal bytes.

This is not RFC 8785. That standard keeps to numbers that a JavaScript reader has exactly, up to 2**53, and its library
refuses larger ones; every statement of ours has moments in nanoseconds, about 2**61. Approvals and reviews that are
signed already would have to be another format, for nothing: all signatures are checked over the text that was received.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def canonical_json(value: Any) -> str:
    """``value`` (a struct, or what JSON has) in ASCII, keys sorted, no space. Raises TypeError, ValueError."""
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True,
                      allow_nan=False)
