"""Text for people: what others wrote, made harmless, and lengths of time as people say them."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
"""C0 except tab and newline, DEL, C1 (many terminals take U+009B for CSI), marks that change the direction of text,
line separators, and lone surrogates, which no encoding can write."""


def clean(text: str) -> str:
    """``text`` with control characters as escapes such as ``\\u009b``; in JSON this leaves the string the same."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def duration(seconds: float) -> str:
    """``seconds`` as people say it: 45 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
