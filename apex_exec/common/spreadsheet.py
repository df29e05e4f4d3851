"""Text of others in a CSV file, which people open in a spreadsheet."""

from __future__ import annotations


def safe_cell(text: str) -> str:
    """``text`` as a spreadsheet shows it and does not run it: a leading =, +, -, @, tab or return is quoted."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
