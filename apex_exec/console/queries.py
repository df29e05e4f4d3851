"""What stands in an address: numbers and words that a person or an attacker has typed."""

from __future__ import annotations

NUMBER_MAX = 2**53
WORDS_CHARS_MAX = 200


def whole(text: str, least: int) -> int:
    """``text`` as a whole number of at least ``least``; ``least`` if it is none."""
    return min(NUMBER_MAX, max(least, int(text))) if text.isascii() and text.isdigit() and len(text) < 17 else least


def words(text: str) -> str:
    """``text`` as it is searched for."""
    return text.strip()[:WORDS_CHARS_MAX]
