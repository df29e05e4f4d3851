"""Names that hosts, authors and operators write: the ids of users, and versions. Pure."""

from __future__ import annotations

import re

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""A user's id, in lower case."""


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """A key that orders versions: 1.10.0 after 1.9.0, and 1.0.0-beta.2 before 1.0.0-beta.10 and 1.0.0, as Semantic
    Versioning says. Raises ValueError if a part that must be a number is none."""
    numbers, _, early = version.partition("-")
    key = [(0, int(part), "") for part in numbers.split(".")]
    if not early:
        return (*key, (2, 0, ""))
    return (*key, *((0, int(part), "") if part.isdigit() else (1, 0, part) for part in early.split(".")))


def is_early(version: str) -> bool:
    """Whether it is a pre-release, which nobody gets who does not ask for it."""
    return "-" in version
