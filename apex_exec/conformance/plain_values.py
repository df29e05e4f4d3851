"""Values of the protocol in JSON, for drivers and vectors: ``{"$bin": base64}`` and ``{"$time": RFC 3339}``."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any


def to_json(value: Any) -> Any:
    """``value`` in what JSON has."""
    if isinstance(value, dict):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [to_json(inner) for inner in value]
    if isinstance(value, bytes):
        return {"$bin": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    return value


def from_json(value: Any) -> Any:
    """What ``to_json`` has written."""
    if isinstance(value, dict):
        if value.keys() == {"$bin"}:
            return base64.b64decode(value["$bin"])
        if value.keys() == {"$time"}:
            return datetime.fromisoformat(value["$time"])
        return {key: from_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [from_json(inner) for inner in value]
    return value
