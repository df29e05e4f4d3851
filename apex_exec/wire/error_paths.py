"""Derives from msgspec's error messages what is wrong in a message, and where."""

from __future__ import annotations

import json
import re

KEY_CHARS_MAX = 64
_NAME = re.compile(r"[^\W\d]\w*")
_LEFT_OUT = re.compile(r"missing required field `(\w+)`")
_KEY_IN = re.compile(r"`key` in `(\$.*)`")


def step(key: object) -> str:
    """The step of a path to the member ``key``: ``.name``, ``[3]``, or ``["a.b"]`` for a key that is not a name, so
    that each path means one place. Long keys are cut."""
    if isinstance(key, int):
        return f"[{key}]"
    text = str(key)[:KEY_CHARS_MAX]
    if _NAME.fullmatch(text):
        return f".{text}"
    return f"[{json.dumps(text, ensure_ascii=not text.isprintable())}]"


def text_and_path(error: Exception) -> tuple[str, str]:
    """(what is wrong, where: a path that begins with "$"). If a key is wrong, the path is that of its map."""
    text, _, place = str(error).partition(" - at ")
    if found := _KEY_IN.fullmatch(place):
        return f"{text} as a key", found[1]
    place = place.strip("`")
    return text, place if place.startswith("$") else "$"


def field_and_path(error: Exception) -> tuple[str, str]:
    """The same for a whole message: if one of its fields was left out, the path is that of the field."""
    text, path = text_and_path(error)
    left_out = _LEFT_OUT.search(text) if path == "$" else None
    return text, path if left_out is None else f"$.{left_out[1]}"
