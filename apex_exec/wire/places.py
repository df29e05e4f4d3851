"""Where in a message something is wrong, out of what msgspec says."""

from __future__ import annotations

import re

_KEY_IN = re.compile(r"`key` in `(\$.*)`")


def told(error: Exception) -> tuple[str, str]:
    """(what is wrong, where: a path that begins with "$"). Of a key that is wrong the path is its map's."""
    text, _, place = str(error).partition(" - at ")
    if found := _KEY_IN.fullmatch(place):
        return f"{text} as a key", found[1]
    place = place.strip("`")
    return text, place if place.startswith("$") else "$"
