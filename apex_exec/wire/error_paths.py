"""Where in a message something is wrong, out of what msgspec says."""

from __future__ import annotations

import json
import re

KEY_CHARS_MAX = 64
_NAME = re.compile(r"[^\W\d]\w*")
_KEY_IN = re.compile(r"`key` in `(\$.*)`")


def step(key: object) -> str:
    """The step of a path to the member ``key``: ``.name``, ``[3]``, and ``["a.b"]`` for a key that is no name, so that
    each path means one place. Long keys are cut."""
    if isinstance(key, int):
        return f"[{key}]"
    text = str(key)[:KEY_CHARS_MAX]
    if _NAME.fullmatch(text):
        return f".{text}"
    return f"[{json.dumps(text, ensure_ascii=not text.isprintable())}]"


def told(error: Exception) -> tuple[str, str]:
    """(what is wrong, where: a path that begins with "$"). Of a key that is wrong the path is its map's."""
    text, _, place = str(error).partition(" - at ")
    if found := _KEY_IN.fullmatch(place):
        return f"{text} as a key", found[1]
    place = place.strip("`")
    return text, place if place.startswith("$") else "$"
