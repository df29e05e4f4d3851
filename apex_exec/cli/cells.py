"""How wide a text is on a terminal: an East Asian character takes two cells, a combining one none."""

from __future__ import annotations

import unicodedata
from functools import lru_cache


def cell_len(text: str) -> int:
    """The cells that ``text`` takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def chop_cells(text: str, width: int) -> list[str]:
    """``text`` in pieces of at most ``width`` cells, or of one character if that is wider."""
    pieces, piece, used = [], "", 0
    for character in text:
        cells = _cells(character)
        if piece and used + cells > width:
            pieces.append(piece)
            piece, used = "", 0
        piece += character
        used += cells
    return [*pieces, piece] if piece else pieces


@lru_cache(maxsize=4096)
def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
