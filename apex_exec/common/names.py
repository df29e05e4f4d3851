"""Names that hosts, authors and operators write: the ids of users, and versions. Pure."""

from __future__ import annotations

import re

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""A user's id, in lower case."""


def version_key(version: str) -> tuple[int, ...]:
    """``"1.10.0"`` as (1, 10, 0), for ordering. Raises ValueError if a part is not a number."""
    return tuple(map(int, version.split(".")))
